"""A search without models: what comes next, what is counted, and what outlives a process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest

from edgekit.errors import InputError
from edgekit.train.journal import JOURNAL, at_work, is_at_work, open_journal
from edgekit.train.search_space import Choices, Parameter, Range, SearchSection, Value
from edgekit.train.study import Asked, Study, Trial, best_of, opened

RATE, RANK = "train.learning_rate", "adapter.rank"
SPACE = (
    Parameter(RATE, Range(1e-5, 1.0, log=True)),
    Parameter(RANK, Choices((2, 4, 8))),
)
Figure = Callable[[dict[str, Value]], float]


def bowl(values: dict[str, Value]) -> float:
    """Return what `rated` says of the rate, and 0.1 more below rank 8."""
    return rated(values) + (0.0 if values[RANK] == 8 else 0.1)


def rated(values: dict[str, Value]) -> float:
    """Return 1, and the square of how many powers of ten the rate is off 3e-3."""
    return 1 + math.log10(float(values[RATE]) / 3e-3) ** 2


def section(**settings: object) -> SearchSection:
    return SearchSection(**({"trials": 12, "space": SPACE} | settings))  # type: ignore[arg-type]


def finish(study: Study, asked: Asked, figure: Figure = bowl) -> None:
    study.end(asked, "finished", {"steps": 3, "before": 9.0}, figure(asked.values))


def searched(
    folder: Path, search: SearchSection, seed: int = 0, figure: Figure = bowl
) -> list[Trial]:
    with opened(folder, search, seed) as study:
        while (asked := study.ask()) is not None:
            finish(study, asked, figure)
        return study.trials


def plain(trials: list[Trial]) -> list[tuple[dict[str, Value], float | None]]:
    return [(trial.values, trial.figure) for trial in trials if trial.state == "finished"]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_chooses_the_same(tmp_path: Path, sampler: str) -> None:
    search = section(sampler=sampler)
    one, two = (plain(searched(tmp_path / name, search)) for name in "ab")
    assert one == two
    assert len(one) == 12
    assert len({values[RATE] for values, _ in one}) == 12  # each choice has a seed of its own
    assert plain(searched(tmp_path / "c", search, seed=1)) != one


def test_tpe_learns_where_it_is_good_as_optuna_does_by_itself(tmp_path: Path) -> None:
    found = searched(tmp_path, section(trials=24, space=SPACE[:1]), 1, rated)
    off = [abs(math.log10(float(trial.values[RATE]) / 3e-3)) for trial in found]
    assert sum(off[12:]) < 0.7 * sum(off[:12])  # at random it would be off as much as before
    alone = optuna.create_study()
    for number in range(24):
        seed = np.random.SeedSequence([1, number]).generate_state(1)[0]
        alone.sampler = optuna.samplers.TPESampler(seed=int(seed))
        trial = alone.ask({RATE: optuna.distributions.FloatDistribution(1e-5, 1.0, log=True)})
        alone.tell(trial, rated(trial.params))
    assert [trial.params for trial in alone.trials] == [trial.values for trial in found]
    best = best_of(found)
    assert best is not None
    assert best.figure == min(rated(trial.values) for trial in found)


def test_a_grid_is_walked_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    space = (Parameter(RATE, Choices((1e-4, 1e-3, 1e-2))), Parameter(RANK, Choices((2, 8))))
    search = section(sampler="grid", trials=None, space=space)
    every = [{RATE: rate, RANK: rank} for rate in (1e-4, 1e-3, 1e-2) for rank in (2, 8)]
    found = [trial.values for trial in searched(tmp_path / "all", search)]
    assert found != every
    assert sorted(found, key=str) == sorted(every, key=str)
    part = section(sampler="grid", trials=4, space=space)
    assert [trial.values for trial in searched(tmp_path / "part", part)] == found[:4]
    assert [trial.values for trial in searched(tmp_path / "part", search)] == found


def test_more_trials_go_on_and_none_begins_when_there_are_enough(tmp_path: Path) -> None:
    straight = searched(tmp_path / "straight", section())
    searched(tmp_path / "twice", section(trials=5))
    assert len(searched(tmp_path / "twice", section(trials=5))) == 5
    assert plain(searched(tmp_path / "twice", section())) == plain(straight)


def die_at(folder: Path, ended: int) -> None:
    """Begin a search, and leave trial `ended` as a process does that is killed."""
    with at_work(folder) as worker:
        study = Study(folder, section(), 0, worker)
        for _ in range(ended):
            asked = study.ask()
            assert asked is not None
            finish(study, asked)
        assert study.ask() is not None


def test_what_a_dead_process_was_at_is_tried_once_more(tmp_path: Path) -> None:
    straight = searched(tmp_path / "straight", section())
    die_at(tmp_path / "killed", 3)
    found = searched(tmp_path / "killed", section())
    assert [trial.state for trial in found] == ["finished"] * 3 + ["killed"] + ["finished"] * 9
    assert found[4].values == found[3].values
    assert plain(found) == plain(straight)  # as if nothing had happened


def test_the_last_trial_is_tried_again_too(tmp_path: Path) -> None:
    die_at(tmp_path, 3)
    found = searched(tmp_path, section(trials=4))
    assert [trial.state for trial in found] == ["finished"] * 3 + ["killed", "finished"]


def test_what_kills_twice_is_not_tried_again(tmp_path: Path) -> None:
    for _ in range(2):
        die_at(tmp_path, 0)
    found = searched(tmp_path, section())
    assert [trial.state for trial in found] == ["killed"] * 2 + ["finished"] * 12
    assert found[0].values == found[1].values
    assert found[0].values not in [trial.values for trial in found[2:]]


def test_what_was_interrupted_comes_first_however_often(tmp_path: Path) -> None:
    for _ in range(3):
        with opened(tmp_path, section(), 0) as study:
            asked = study.ask()
            assert asked is not None
            study.end(asked, "interrupted", {}, None)
    found = searched(tmp_path, section())
    assert [trial.state for trial in found] == ["interrupted"] * 3 + ["finished"] * 12
    assert all(trial.values == found[0].values for trial in found[:4])
    assert plain(found) == plain(searched(tmp_path / "straight", section()))


def test_a_trial_of_a_living_process_counts_and_is_left_alone(tmp_path: Path) -> None:
    with (
        opened(tmp_path, section(trials=2), 0) as one,
        opened(tmp_path, section(trials=2), 0) as two,
    ):
        first, second = one.ask(), two.ask()
        assert first is not None
        assert second is not None
        assert first.values != second.values
        assert one.ask() is None
        finish(two, second)
        assert (one.ended, [trial.state for trial in one.trials]) == (1, ["running", "finished"])
        finish(one, first)
    assert len(searched(tmp_path, section(trials=2))) == 2


def test_settings_that_were_tried_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = (Parameter(RATE, Choices((1e-4, 1e-3, 1e-2, 1e-1))), Parameter(RANK, Choices((8,))))
    runs: list[float] = []

    def counted(values: dict[str, Value]) -> float:
        runs.append(float(values[RATE]))
        return bowl(values)

    search = section(sampler="random", space=space)
    found = searched(tmp_path / "all", search, figure=counted)
    assert sorted(runs) == [1e-4, 1e-3, 1e-2, 1e-1]  # and then there is nothing new
    copies = [trial for trial in found if trial.same_as is not None]
    assert copies
    assert all(t.values == found[t.same_as or 0].values for t in copies)
    assert all(t.figure == found[t.same_as or 0].figure for t in copies)
    monkeypatch.setattr("edgekit.train.study.REPEATS", 1)
    few = searched(tmp_path / "few", search)
    assert plain(few) == plain(found)[: copies[0].number + 1]


def test_a_hopeless_trial_is_told_by_the_median_of_those_that_finished(tmp_path: Path) -> None:
    with opened(tmp_path, section(), 0) as study:
        for end in range(5):
            asked = study.ask()
            assert asked is not None
            assert not any(asked.hopeless(s, 9.0 - end, 6) for s in range(1, 7))  # too few to say
            study.end(asked, "finished", {}, 9.0 - end)
        bad, good, late = study.ask(), study.ask(), study.ask()
        assert bad is not None
        assert good is not None
        assert late is not None
        assert [bad.hopeless(s, 7.1, 6) for s in (1, 2)] == [False, True]  # the median is 7
        assert not any(good.hopeless(s, 6.9, 6) for s in range(1, 7))
        assert not late.hopeless(6, 7.1, 6)  # it is at its end anyway
        study.end(bad, "pruned", {}, None)
        assert (study.trials[5].state, study.trials[5].figure) == ("pruned", 7.1)
    with opened(tmp_path, section(pruner=False), 0) as study:
        asked = study.ask()
        assert asked is not None
        assert not any(asked.hopeless(s, 99.0, 6) for s in range(1, 7))


def test_half_a_line_is_cut_off_and_damage_is_told(tmp_path: Path) -> None:
    straight = plain(searched(tmp_path / "straight", section()))
    searched(tmp_path, section(trials=5))
    with (tmp_path / JOURNAL).open("ab") as stream:
        stream.write(b'{"op_code": 4, "x": "' + b"y" * 70_000)  # longer than is read at once
    assert plain(searched(tmp_path, section())) == straight
    whole = (tmp_path / JOURNAL).read_bytes()
    for old, new in ((b'"op_code":4', b'"op_code":{'),
                     (b'"trial_id":', b'"trial_di":'), (b'{"op', b'["op')):  # fmt: skip
        (tmp_path / JOURNAL).write_bytes(whole.replace(old, new))
        with pytest.raises(InputError, match=r"the record of the trials, .* is damaged"):
            searched(tmp_path, section())


def test_the_journal_is_lines_of_json_and_nothing_else_is_kept(tmp_path: Path) -> None:
    searched(tmp_path, section(trials=2))
    assert [file.name for file in tmp_path.iterdir()] == [JOURNAL]
    assert all(line.startswith(b'{"op_code":') for line in (tmp_path / JOURNAL).open("rb"))


def test_a_process_is_at_work_until_it_is_not(tmp_path: Path) -> None:
    with at_work(tmp_path) as worker:
        assert is_at_work(tmp_path, worker)
        assert not is_at_work(tmp_path, "another")
        assert not is_at_work(tmp_path, "../" * 5 + "etc/passwd")
    assert not is_at_work(tmp_path, worker)
    (tmp_path / f".worker-{worker}").touch()  # as one leaves it that is killed
    assert not is_at_work(tmp_path, worker)
    assert not list(tmp_path.iterdir())


def test_a_process_that_dies_with_the_lock_stops_nobody(tmp_path: Path) -> None:
    storage = open_journal(tmp_path)
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from edgekit.train.journal import _Lock\n"
        "_Lock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path / JOURNAL)], env=os.environ)
    assert found.returncode == -9
    start = time.monotonic()
    storage.create_new_study([1], "x")
    assert time.monotonic() - start < 5  # Optuna's own lock waits for 30 s
