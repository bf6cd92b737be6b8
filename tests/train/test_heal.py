"""Healing, whole: it comes closer, it survives kills to the bit, it writes nothing worse."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from converters.checkpoint import Checkpoint
from converters.lineage import Stage, read_stage, write_stage
from converters.reference import load_model
from edgekit.cli import cli
from edgekit.errors import EdgekitError, GateError, InputError, UsageError
from edgekit.files import FolderExistsError
from edgekit.progress import NoProgress
from edgekit.train import loop
from edgekit.train.distil import Distillation
from edgekit.train.held_out import HeldOut
from edgekit.train.lessons import Source
from edgekit.train.loop import Settings
from edgekit.train.schedule import Budget
from edgekit.workflows.heal import Healed, heal

from .kills import kill_after

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 12
SETTINGS = ["--batch-tokens", "512", "--text-tokens", "5120", "--learning-rate", "5e-4"]


@pytest.fixture(scope="session")
def patient(make_patient: Callable[..., Any]) -> Any:
    """Return a patient with a short context, so that its windows are short and the tests fast."""
    return make_patient(max_position_embeddings=64)


@pytest.fixture(scope="session")
def healing_cache(patient: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with the lessons of the patient: most tests need not make them again."""
    home = tmp_path_factory.mktemp("healing-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_HOME", str(home))
        with suppress(GateError):  # one step hardly helps; the lessons are there all the same
            treat(patient, home / "out", steps=1)
    return home / "cache" / "healing"


@pytest.fixture(autouse=True)
def cache(edgekit_home: Path, healing_cache: Path) -> Path:
    """Return this test's own copy of that cache."""
    shutil.copytree(healing_cache, edgekit_home / "cache" / "healing")
    return edgekit_home / "cache" / "healing"


def treat(patient: Any, out: Path, progress: Any = None, **changes: Any) -> Healed:
    """Heal with settings that suit a tiny model, but for `changes`."""
    usual_rate = 3e-3 if changes.get("method") == "lora" else 5e-4
    steps, rate = changes.pop("steps", STEPS), changes.pop("learning_rate", usual_rate)
    wanted = {
        "original": None,
        "method": "full",
        "rank": 4,
        "settings": Settings(Budget(steps), rate, batch_tokens=512),
        "source": Source(None, 5120),
        "progress": progress or NoProgress(),
    }
    return heal(patient.pruned, out=out, **(wanted | changes))


def weights(checkpoint: Checkpoint) -> bytes:
    return (checkpoint.path / "model.safetensors").read_bytes()


class Interrupts:
    """A watcher that interrupts the work after so many units of the tasks of one name."""

    def __init__(self, name: str, after: int) -> None:
        self._name, self._left = name, after

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Any]:
        def advance(count: int) -> None:
            if label.startswith(self._name):
                self._left -= count
                if self._left < 0:
                    raise KeyboardInterrupt

        yield advance


def test_it_comes_closer_and_is_an_ordinary_checkpoint(
    patient: Any, tmp_path: Path, cache: Path
) -> None:
    import torch

    healed = treat(patient, tmp_path / "healed", steps=24)
    before, after = healed.before.held_out["all"].kld, healed.after.held_out["all"].kld
    assert after < 0.9 * before
    assert healed.after.others["all"].kld < healed.before.others["all"].kld
    assert set(healed.checkpoint.tensors) == set(patient.pruned.tensors)
    stage = read_stage(healed.checkpoint)
    assert stage is not None
    assert (stage.kind, stage.parent) == ("healed", str(patient.pruned.path))
    assert stage.parent_digest == patient.pruned.digest()
    assert stage.how["validation_kld_after"] == after
    assert (stage.how["method"], stage.how["steps"]) == ("full", 24)
    assert (healed.checkpoint.path / "healing.png").read_bytes().startswith(b"\x89PNG")
    assert [b["layer"] for b in stage.how["bridges"]] == [b.layer for b in healed.bridges] == [2]
    lines = (healed.checkpoint.path / "healing.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [e["step"] for e in entries if "loss" in e] == list(range(1, 25))
    # The figure once more, over the whole vocabulary and by torch alone.
    (file,) = cache.rglob("held-out.safetensors")
    windows = HeldOut.load(file).windows  # type: ignore[union-attr]
    models = [load_model(c) for c in (patient.original, healed.checkpoint)]
    parts = []
    with torch.inference_mode():
        for window in windows:
            ids = torch.tensor([window.token_ids])
            p, q = (model(ids).logits[0, :-1].log_softmax(-1) for model in models)
            parts.append((p.exp() * (p - q)).sum(-1))
    assert after == pytest.approx(float(torch.cat(parts).mean()), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_run_ends_as_one_that_was_not(
    patient: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    monkeypatch.setattr(loop, "SAVE_S", 0.0)
    straight = treat(patient, tmp_path / "straight", method=method)
    for after in (0, 4, 7):  # once before the first save; the state is behind by one step
        with pytest.raises(KeyboardInterrupt):
            treat(patient, tmp_path / "resumed", Interrupts("healing", after), method=method)
        assert not (tmp_path / "resumed").exists()
    resumed = treat(patient, tmp_path / "resumed", method=method)
    assert weights(resumed.checkpoint) == weights(straight.checkpoint)
    assert weights(resumed.checkpoint) != weights(patient.pruned)
    losses = [
        [entry["loss"] for entry in healed.outcome.run.curve if "loss" in entry]
        for healed in (straight, resumed)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
    assert not list(cache.rglob("run-*"))


@pytest.mark.slow
def test_a_state_is_really_used(
    patient: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        treat(patient, tmp_path / "out", Interrupts("healing", 6))
    left = Interrupts("healing", 6)  # of 12 steps, 6 are in the state
    treat(patient, tmp_path / "out", left)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["state.safetensors", "best.safetensors", "before.json"])
def test_a_damaged_file_of_the_cache_costs_time_or_says_so(
    patient: Any, tmp_path: Path, cache: Path, what: str
) -> None:
    straight = treat(patient, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        treat(patient, tmp_path / "again", Interrupts("healing", STEPS - 1))
    (file,) = cache.rglob(what)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert weights(treat(patient, tmp_path / "again").checkpoint) == weights(straight.checkpoint)


@pytest.mark.slow
def test_kill_9_at_any_moment(patient: Any, tmp_path: Path, cache: Path) -> None:
    straight = treat(patient, tmp_path / "straight", steps=30)
    shutil.rmtree(cache)
    words = [sys.executable, "-m", "edgekit", "heal", str(patient.pruned.path), "-o",
             str(tmp_path / "out"), "--steps", "30", *SETTINGS]  # fmt: skip
    for trace in ("lessons-*/text-*", "lessons-*/taught-*", "run-*/state.*"):
        kill_after(words, cache, trace, 0.1)
        assert not (tmp_path / "out").exists()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert weights(Checkpoint.open(tmp_path / "out")) == weights(straight.checkpoint)


@pytest.mark.slow
def test_only_the_norms(patient: Any, tmp_path: Path) -> None:
    healed = treat(patient, tmp_path / "out", method="norms", learning_rate=1e-2).checkpoint
    for name in patient.pruned.tensors:
        same = np.array_equal(patient.pruned.read(name), healed.read(name))
        assert same is not name.endswith("norm.weight"), name


@pytest.mark.slow
def test_a_shorter_float_type_stays(make_patient: Callable[..., Any], tmp_path: Path) -> None:
    import torch

    patient = make_patient(max_position_embeddings=64, dtype=torch.bfloat16)
    healed = treat(patient, tmp_path / "out").checkpoint
    assert {info.dtype for info in healed.tensors.values()} == {"BF16"}
    assert weights(healed) != weights(patient.pruned)


@pytest.mark.parametrize(
    ("method", "rate", "why"),
    [
        ("norms", 1e-12, "did not help"),  # the other methods bridge the gap, which helps
        ("full", 0.5, "rose|did not help"),
        ("full", 1e30, "no number any more"),
    ],
)
def test_nothing_worse_is_written(
    patient: Any, tmp_path: Path, cache: Path, method: Any, rate: float, why: str
) -> None:
    with pytest.raises(GateError, match=why):
        treat(patient, tmp_path / "out", method=method, learning_rate=rate)
    assert not (tmp_path / "out").exists()
    assert not list(cache.glob("run-*"))  # there is nothing to go on with


def test_what_fell_apart_late_keeps_its_best(
    patient: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, steps = Distillation.backward, itertools.count()

    def breaks(lesson: Distillation, batch: list[int]) -> float:
        loss = whole(lesson, batch)
        return float("nan") if next(steps) == 9 else loss

    monkeypatch.setattr(Distillation, "backward", breaks)
    healed = treat(patient, tmp_path / "out")
    assert "step 10" in healed.outcome.stopped
    judged = [entry for entry in healed.outcome.run.curve if "validation_kld" in entry]
    best = min(judged, key=lambda entry: entry["validation_kld"])
    assert healed.outcome.run.best["step"] == best["step"] > 0
    assert healed.after.held_out["all"].kld == pytest.approx(best["validation_kld"], rel=1e-5)
    assert healed.after.held_out["all"].kld < healed.before.held_out["all"].kld


@pytest.mark.slow
def test_a_clock_ends_it_with_the_rate_decayed(
    patient: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()  # a twentieth of a second each time that somebody looks
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 20))
    settings = Settings(Budget(minutes=0.05), 5e-4, batch_tokens=512)
    run = treat(patient, tmp_path / "out", settings=settings).outcome.run
    rates = [entry["learning_rate"] for entry in run.curve if "loss" in entry]
    assert 3 <= run.elapsed_s < 4
    assert 8 <= run.step <= 20
    assert rates[-1] < 0.1 * max(rates)


@pytest.mark.slow
def test_lessons_are_kept_for_the_next_run(patient: Any, tmp_path: Path) -> None:
    treat(patient, tmp_path / "one")
    watcher = Interrupts("asking", 0)  # raises if the original is asked again
    treat(patient, tmp_path / "two", watcher, method="lora")


@pytest.mark.slow
def test_a_pruned_vocabulary_is_healed_in_its_own_tokens(patient: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    words = ["prune", str(patient.pruned.path), "-o", str(tmp_path / "narrow"), "--vocabulary",
             str(text), "--text", str(text)]  # fmt: skip
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    narrow = type(patient)(patient.original, Checkpoint.open(tmp_path / "narrow"))
    assert narrow.pruned.config["vocab_size"] < patient.original.config["vocab_size"]
    healed = treat(narrow, tmp_path / "out")  # the original is two stages up
    assert healed.after.held_out["all"].kld < 0.95 * healed.before.held_out["all"].kld


@pytest.mark.slow
def test_the_command_prints_one_document_or_a_table(patient: Any, tmp_path: Path) -> None:
    words = ["heal", str(patient.pruned.path), "--steps", "12", *SETTINGS]
    result = CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "a"), "--json"])
    found = json.loads(result.stdout)
    assert found["checkpoint"] == str(tmp_path / "a")
    assert found["kld_after"] < found["kld_before"]
    assert found["held_out"]["after"]["all"]["kld"] == found["kld_after"]
    assert set(found["others"]["perplexity_original"]) > {"all", "prose", "code", "languages"}
    result = CliRunner().invoke(cli, words)
    assert "came back" in result.stdout or "further" in result.stdout
    assert (Path(os.environ["EDGEKIT_HOME"]) / "models" / "tiny-pruned-healed").is_dir()


def copied(checkpoint: Checkpoint, folder: Path) -> Path:
    shutil.copytree(checkpoint.path, folder)
    return folder


def damage_record(folder: Path, patient: Any) -> None:
    (folder / "edgekit-stage.json").write_text("{")


def lose_record(folder: Path, patient: Any) -> None:
    (folder / "edgekit-stage.json").unlink()


def move_parent(folder: Path, patient: Any) -> None:
    write_stage(folder, Stage("pruned", "/nowhere/at/all", patient.original.digest(), {}))


def change_parent(folder: Path, patient: Any) -> None:
    write_stage(folder, Stage("pruned", str(patient.original.path), "0" * 64, {}))


def rename_a_token(folder: Path, patient: Any) -> None:
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<|im_start|>", "<|im_begin|>"))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (damage_record, "not|read"),
        (lose_record, "does not say what it was pruned from"),
        (move_parent, "which is not there"),
        (change_parent, "has changed since"),
        (rename_a_token, "1 of the .* tokens"),
    ],
)
def test_a_bad_record_or_tokenizer_is_told(
    patient: Any, tmp_path: Path, harm: Callable[[Path, Any], None], why: str
) -> None:
    folder = copied(patient.pruned, tmp_path / "bad")
    harm(folder, patient)
    bad = type(patient)(patient.original, Checkpoint.open(folder))
    with pytest.raises(InputError, match=why):
        treat(bad, tmp_path / "out")


def test_what_cannot_be_done_is_told_before_the_work(patient: Any, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    text = tmp_path / "short.txt"
    text.write_text("A kettle boils.")
    wrong: list[tuple[type[EdgekitError], str, dict[str, Any]]] = [
        (FolderExistsError, "there", {"out": tmp_path / "there"}),
        (UsageError, "nothing to heal", {"original": patient.pruned}),
        (InputError, "fewer than", {"source": Source(text)}),
        (InputError, "cannot be read", {"source": Source(tmp_path / "absent.txt")}),
    ]
    for kind, why, changes in wrong:
        with pytest.raises(kind, match=why):
            treat(patient, **({"out": tmp_path / "out"} | changes))
    for words in (["--lora", "2", "--only", "norms"], ["--text", "x", "--text-tokens", "9"]):
        result = CliRunner().invoke(cli, ["heal", str(patient.pruned.path), *words])
        assert isinstance(result.exception, UsageError)
