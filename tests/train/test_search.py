"""The search, whole: real runs of a tiny model, and what comes of their figures."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edgekit.cli import cli
from edgekit.errors import GateError, InputError, UsageError
from edgekit.progress import NoProgress
from edgekit.train import study
from edgekit.train.configuration import read_configuration
from edgekit.train.study import Trial
from edgekit.train.supervised import Supervision
from edgekit.workflows import language_job
from edgekit.workflows import search as search_workflow
from edgekit.workflows.language_job import LanguageJob
from edgekit.workflows.search import Searched, run_search
from edgekit.workflows.train import run_training

pytestmark = pytest.mark.filterwarnings("ignore")
RATE, BATCH, RANK = "train.learning_rate", "train.batch_tokens", "adapter.rank"
RATES = "{low = 1e-3, high = 0.1, log = true}"
SPACE = f'"{RATE}" = {RATES}\n"{RANK}" = {{choices = [2, 8]}}\n'


@pytest.fixture(scope="session")
def parent(make_checkpoint: Callable[..., Path]) -> Path:
    """Return a tiny chat model. Read only."""
    return make_checkpoint(
        "llama", hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )


def configured(folder: Path, parent: Path, search: str = "trials = 2\n", space: str = SPACE,
               train: str = "steps = 4\nbatch_tokens = 256\n", times: int = 2) -> Path:  # fmt: skip
    """Write sums as chats, and a configuration beside them; return its path."""
    generator = random.Random(3)
    with (folder / "sums.jsonl").open("w") as stream:
        for _ in range(40):
            left, right = generator.randint(0, 99), generator.randint(0, 9)
            asked = {"role": "user", "content": f"add {left} and {right}"}
            answer = {"role": "assistant", "content": f"{left} and {right} is {left + right}"}
            stream.write(json.dumps({"messages": [asked, answer]}) + "\n")
    (folder / "run.toml").write_text(
        f'# sums\n[model]\ncheckpoint = "{parent}"\n'
        '[data]\nkind = "chat"\nfiles = ["sums.jsonl"]\nevaluation_share = 0.2\n'
        f"[train]\n{train}[adapter]\nrank = 4 # to be found\n[evaluate]\ntimes = {times}\n"
        f"[search]\n{search}[search.space]\n{space}"
    )
    return folder / "run.toml"


def searched(config: Path, progress: Any = None, **options: Any) -> Searched:
    return run_search(read_configuration(config), progress=progress or NoProgress(), **options)


def figures(found: Searched) -> list[Any]:
    return [(t.state, t.values, t.figure, t.steps) for t in found.trials if t.state == "finished"]


def test_the_best_of_it_is_what_training_then_gives(
    parent: Path, tmp_path: Path, edgekit_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, parent)
    reads: list[Any] = []
    whole = language_job.read_data
    monkeypatch.setattr(language_job, "read_data", lambda *a: reads.append(a) or whole(*a))
    found = searched(config)
    assert len(reads) == 1  # once, not for each trial
    assert [trial.state for trial in found.trials] == ["finished"] * 2
    assert len({trial.figure for trial in found.trials}) == 2
    assert found.best is not None
    assert found.best.figure == min(trial.figure or 99.0 for trial in found.trials)
    assert not list(edgekit_home.glob("models/*"))
    assert sorted(f.name for f in found.folder.iterdir()) == [
        "index.safetensors", "journal.jsonl", "tokens.bin",
    ]  # fmt: skip
    best = tmp_path / "best.toml"
    best.write_text(found.best_text())
    trained = run_training(read_configuration(best), tmp_path / "out", progress=NoProgress())
    assert trained.how["before"]["loss"] == found.before
    assert trained.how["after"]["loss"] == pytest.approx(found.best.figure, rel=1e-5)
    assert trained.how["rank"] == found.best.values[RANK]
    assert trained.how["configuration"]["train"]["learning_rate"] == found.best.values[RATE]
    kept = best.read_text().splitlines()[1:]
    changed = [a for a, b in zip(config.read_text().splitlines(), kept, strict=False) if a != b]
    assert "# sums" in kept
    assert all("# to be found" in line for line in kept if line.startswith("rank"))
    assert changed


@pytest.mark.slow
def test_it_goes_on_as_one_that_was_not_interrupted_and_reads_nothing_again(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, straight = configured(tmp_path, parent), tmp_path / "straight"
    straight.mkdir()
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    expected = figures(searched(configured(straight, parent)))
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "other-home"))
    whole, calls = Supervision.backward, iter(range(100))

    def interrupted(lesson: Supervision, batch: list[int]) -> float:
        if next(calls) == 6:  # in the second trial
            raise KeyboardInterrupt
        return whole(lesson, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Supervision, "backward", interrupted)
        result = CliRunner().invoke(cli, ["search", str(config)])
        assert result.exit_code
        assert "the trials so far are kept: the same command goes on" in result.stderr
    monkeypatch.setattr(language_job, "read_data", None)
    told: list[Trial] = []
    found = searched(config, announce=lambda trial, _best: told.append(trial))
    assert [trial.state for trial in found.trials] == ["finished", "interrupted", "finished"]
    assert [trial.number for trial in told] == [2]
    assert figures(found) == expected
    assert figures(searched(config, announce=lambda *_: pytest.fail("it was finished"))) == expected


def test_another_budget_is_the_same_search_and_another_space_is_not(
    parent: Path, tmp_path: Path
) -> None:
    one = searched(configured(tmp_path, parent, "trials = 1\n"))
    text = (tmp_path / "run.toml").read_text()
    (tmp_path / "run.toml").write_text(text.replace("rank = 4", "rank = 16"))  # it is searched over
    minutes = searched(configured(tmp_path, parent, "trials = 1\nminutes = 9\n"))
    assert (minutes.folder, len(minutes.trials)) == (one.folder, 1)
    other = [
        configured(tmp_path, parent, space=SPACE.replace("0.1", "0.2")),
        configured(tmp_path, parent, train="steps = 5\nbatch_tokens = 256\n"),
        configured(tmp_path, parent, 'trials = 1\nsampler = "random"\n'),
    ]
    for config in other:
        configuration = read_configuration(config)
        job = LanguageJob(configuration, NoProgress())
        assert configuration.search is not None
        key = search_workflow._key(job, configuration, configuration.search)
        assert key != one.folder.name


def test_what_diverges_is_a_trial_and_no_end(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = f'"{RATE}" = {{choices = [1e-3, 2e-3, 3e-3, 4e-3]}}\n'
    config = configured(tmp_path, parent, 'sampler = "grid"\n', space)
    whole, calls = Supervision.backward, iter(range(100))

    def broken(lesson: Supervision, batch: list[int]) -> float:
        number = next(calls)
        if number == 1:  # in the second trial: the first ends at its first step
            raise torch.OutOfMemoryError("CUDA: 80 GiB are full")
        return whole(lesson, batch) if number else float("nan")

    monkeypatch.setattr(Supervision, "backward", broken)
    found = searched(config)
    states = [trial.state for trial in found.trials]
    assert states == ["diverged", "failed", "finished", "finished"]
    assert "no number any more at step 1; its batch: sums.jsonl" in found.trials[0].why
    assert "80 GiB are full" in found.trials[1].why
    assert found.helps


def test_a_hopeless_trial_ends_early(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "FREE_TRIALS", 1)
    order = np.random.default_rng(0).permutation(2)  # as a grid of two is walked
    rates = [[1e-2, 1e-9][int(place)] for place in order]
    space = f'"{RATE}" = {{choices = {rates}}}\n'
    found = searched(configured(tmp_path, parent, 'sampler = "grid"\n', space, times=4))
    assert [trial.values[RATE] for trial in found.trials] == [1e-2, 1e-9]
    assert [trial.state for trial in found.trials] == ["finished", "pruned"]
    assert [trial.steps for trial in found.trials] == [4, 2]


def test_the_command_writes_what_was_found(parent: Path, tmp_path: Path) -> None:
    config, best, picture = configured(tmp_path, parent), tmp_path / "b.toml", tmp_path / "t.png"
    words = ["search", str(config), "-o", str(best), "--picture", str(picture)]
    result = CliRunner().invoke(cli, [*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["configuration"], found["picture"]) == (str(best), str(picture))
    assert found["best"]["figure"] == min(trial["figure"] for trial in found["trials"])
    assert found["best"]["figure"] < found["before"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert read_configuration(best).learning_rate == found["best"]["values"][RATE]
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, InputError)
    assert "exists already" in result.exception.message
    result = CliRunner().invoke(cli, [*words, "--replace"])
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["trial", RATE, RANK, "evaluation", "loss", "time"]
    assert lines[2].split()[0] == str(found["best"]["number"])
    assert lines[-1] == f"next: edgekit train {best}"


def test_what_helps_nobody_is_told_and_not_written(parent: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, parent, 'sampler = "grid"\n', f'"{RATE}" = {{choices = [1e-12]}}')
    result = CliRunner().invoke(cli, ["search", str(config), "-o", str(tmp_path / "best.toml")])
    assert isinstance(result.exception, GateError)
    assert "no trial made the model better" in result.exception.message
    assert not (tmp_path / "best.toml").exists()


def test_what_could_not_be_written_is_told_first(parent: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, parent)
    (tmp_path / "inner").mkdir()
    for option, path, why in (
        ("-o", tmp_path / "inner" / "best.toml", "in another folder than"),
        ("-o", config, "the configuration itself"),
        ("--picture", tmp_path / "inner", "is a folder"),
    ):
        result = CliRunner().invoke(cli, ["search", str(config), option, str(path), "--replace"])
        assert isinstance(result.exception, UsageError)
        assert why in result.exception.message
    config.write_text(config.read_text().partition("[search]")[0])
    with pytest.raises(InputError, match=r"has no section \[search\]"):
        searched(config)


def words_for(config: Path) -> list[str]:
    return [sys.executable, "-m", "edgekit", "search", str(config), "--json"]


def started(config: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "edgekit", "search", str(config), "--json"]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=_listens_to_ctrl_c,
    )  # fmt: skip


def _listens_to_ctrl_c() -> None:
    """Undo what a shell does to whatever it starts in the background, the tests perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def in_a_trial(config: Path, home: Path) -> subprocess.Popen[str]:
    """Start a search, and return it as soon as it is at its first trial."""
    process = started(config)
    while process.poll() is None:
        if any('"worker"' in file.read_text() for file in home.glob("cache/search/*/*.jsonl")):
            return process
        time.sleep(0.01)
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_two_processes_share_the_trials(parent: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, parent, "trials = 10\n")
    pair = [started(config) for _ in range(2)]
    said = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    trials = searched(config).trials
    assert len(trials) == 10  # of both together
    assert {trial.state for trial in trials} == {"finished"}
    ran = [err.count("  trial ") for _, err in said]
    assert min(ran) >= 1  # both worked
    assert sum(ran) == 10
    assert len({trial.values[RATE] for trial in trials}) == 10


@pytest.mark.slow
def test_kill_9_loses_one_trial_which_is_tried_again(
    parent: Path, tmp_path: Path, edgekit_home: Path
) -> None:
    config = configured(tmp_path, parent, train="steps = 15\nbatch_tokens = 512\n")
    process = in_a_trial(config, edgekit_home)
    process.kill()
    process.communicate()
    found = searched(config)
    assert [trial.state for trial in found.trials] == ["killed", "finished", "finished"]
    assert found.trials[1].values == found.trials[0].values
    assert not list(found.folder.glob(".*"))


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_a_line_that_says_how_to_go_on(
    parent: Path, tmp_path: Path, edgekit_home: Path
) -> None:
    config = configured(tmp_path, parent, train="steps = 100000\nbatch_tokens = 512\n")
    process = in_a_trial(config, edgekit_home)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "")
    assert "the trials so far are kept: the same command goes on" in err
    assert "Traceback" not in err
