"""TensorBoard's files, read back by its own reader: every step once, also after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.train.board import Board
from edgekit.train.configuration import read_configuration
from edgekit.workflows.training_job import Prepared

from .test_configuration import GOOD, written
from .test_leftovers import a_run
from .test_train import STEPS, Interrupts, configured, interrupt, parent, trained  # noqa: F401


def step(number: int, loss: float) -> dict[str, float]:
    return {"step": number, "tokens": 9, "loss": loss, "learning_rate": 0.5, "elapsed_s": 1.0}


def judged(number: int, loss: float) -> dict[str, float]:
    return {"step": number, "tokens": 9, "evaluation_loss": loss, "elapsed_s": 1.0}


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def test_each_figure_has_its_steps(tmp_path: Path) -> None:
    curve = [judged(0, 8.0)]
    with Board(tmp_path / "run", None) as board:
        for number in (1, 2):
            curve.append(step(number, 8.0 - number))
            board.write(curve)
        curve.append(judged(2, 5.5))  # after the last step
    assert shown(tmp_path / "run") == {
        "evaluation/loss": [(0, 8.0), (2, 5.5)],
        "training/loss": [(1, 7.0), (2, 6.0)],
        "training/learning_rate": [(1, 0.5), (2, 0.5)],
    }


def test_a_run_that_goes_on_shows_no_step_twice_and_none_is_missing(tmp_path: Path) -> None:
    first = [judged(0, 8.0), step(1, 7.0), step(2, 6.0)]
    with Board(tmp_path, None) as board:
        board.write(first)
        board.write([*first, step(3, 99.0), step(4, 99.0)])  # killed: the state is of step 2
    # It was judged at step 2 before it was saved, and killed before that was written.
    again = [*first, judged(2, 5.5), step(3, 5.0)]
    with Board(tmp_path, 2) as board:
        board.write(again)
    assert shown(tmp_path)["training/loss"] == [(1, 7.0), (2, 6.0), (3, 5.0)]
    assert shown(tmp_path)["evaluation/loss"] == [(0, 8.0), (2, 5.5)]


def test_what_is_flushed_is_on_the_disk(tmp_path: Path) -> None:
    board = Board(tmp_path, None)
    board.write([step(1, 7.0)])
    assert shown(tmp_path)["training/loss"] == [(1, 7.0)]  # a kill now would lose nothing
    with board:
        pass


def test_the_folder_is_beside_the_configuration_and_no_part_of_the_run(tmp_path: Path) -> None:
    plain = read_configuration(written(tmp_path, GOOD)).to_dict()
    found = read_configuration(written(tmp_path, GOOD + 'tensorboard = "runs"\n'))
    assert found.train.tensorboard == tmp_path / "runs"
    assert found.to_dict() == plain
    for wrong in ('"chats.jsonl"', '"~no-such-user/x"', '""', "3"):
        with pytest.raises(InputError, match=r"line 10: \[train\] tensorboard is"):
            read_configuration(written(tmp_path, GOOD + f"tensorboard = {wrong}\n"))


@pytest.mark.filterwarnings("ignore")
def test_an_interrupted_run_shows_every_step_once_and_clears_up(
    parent: Path,  # noqa: F811
    tmp_path: Path, edgekit_home: Path,
) -> None:  # fmt: skip
    config = configured(tmp_path, parent, save_seconds=1e-9, tensorboard='"runs"')
    old = a_run(edgekit_home / "cache" / "training", "run-old", days=40)
    found: list[Prepared] = []
    with pytest.raises(KeyboardInterrupt):
        trained(config, tmp_path / "out", Interrupts(5, interrupt), announce=found.append)
    assert [leftover.folder for leftover in found[0].leftovers] == [old]
    assert not old.exists()
    trained(config, tmp_path / "out")
    events = shown(tmp_path / "runs" / "out")
    lines = (tmp_path / "out" / "training.jsonl").read_text().splitlines()
    curve = [json.loads(line) for line in lines]
    steps = [entry for entry in curve if "loss" in entry]
    assert [step for step, _ in events["training/loss"]] == list(range(1, STEPS + 1))
    assert [value for _, value in events["training/loss"]] == pytest.approx(
        [entry["loss"] for entry in steps]
    )
    assert len(events["evaluation/loss"]) == len(curve) - len(steps)
    assert all(entry["tokens_per_s"] > 0 and entry["memory_bytes"] > 1 << 20 for entry in steps)
    assert all(0 < entry["mfu"] < 1 for entry in steps)
