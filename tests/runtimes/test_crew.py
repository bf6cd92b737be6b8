"""Threads give way to other programs, and come back."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from runtimes import crew
from runtimes.crew import Crew, Load, read_load


def looks(*loads: Load | None) -> Callable[[], Load | None]:
    """Return a function that tells these loads, one a call; they lie in the past."""
    rest = list(loads)
    return lambda: rest.pop(0)


def load(at: float, own_s: float, all_s: float, processors: int = 2) -> Load:
    return Load(at, own_s, all_s, processors)


def test_all_threads_work_on_an_idle_machine() -> None:
    team = Crew(2, looks(load(0, 0, 0), load(1, 1.9, 1.9)))
    assert team.size() == 2


def test_one_gives_way_to_a_busy_program_and_comes_back_after_it() -> None:
    team = Crew(2, looks(load(0, 0, 0), load(1, 1.3, 2.0), load(2, 2.3, 4.0), load(3, 3.3, 5.0)))
    assert [team.size(), team.size(), team.size()] == [1, 1, 2]


def test_there_is_always_one_and_never_more_than_asked() -> None:
    assert Crew(4, looks(load(0, 0, 0), load(1, 0.1, 9))).size() == 1
    assert Crew(2, looks(load(0, 0, 0, 64), load(1, 2, 2, 64))).size() == 2


def test_hyperthreads_leave_room() -> None:
    team = Crew(4, looks(load(0, 0, 0, 8), load(1, 4, 6, 8)))
    assert team.size() == 4


def test_where_the_system_tells_nothing_the_count_stays() -> None:
    assert Crew(2, looks(None)).size() == 2
    assert [Crew(2, looks(load(0, 0, 0), None)).size()] == [2]


def test_it_does_not_look_at_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LOOK_EVERY_S", 3600)
    team = Crew(2, looks(load(time.monotonic(), 0, 0)))  # a second look would raise IndexError
    assert [team.size() for _ in range(100)] == [2] * 100


@pytest.mark.skipif(read_load() is None, reason="only Linux tells")
def test_the_real_load_moves_with_our_own_work() -> None:
    before = read_load()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    after = read_load()
    assert before is not None
    assert after is not None
    assert after.own_s - before.own_s >= 0.3
    assert after.all_s - before.all_s >= 0.25  # counted in ticks of 10 ms
    assert after.at > before.at
