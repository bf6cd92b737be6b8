"""A search: which settings come next, what became of earlier ones, all processes together.

Optuna chooses (TPE: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization") and says
which trial is hopeless (the median rule: Golovin et al. 2017, "Google Vizier"). A process that
dies loses the trial that it was at, which is tried once more. It knows no models.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.extras import need
from edgekit.files import disk_errors, file_lock
from edgekit.train.journal import at_work, is_at_work, open_journal
from edgekit.train.search_space import Choices, Parameter, SearchSection, Value, size

State = Literal["finished", "pruned", "diverged", "failed", "killed", "interrupted", "running"]
ENDED: tuple[State, ...] = ("finished", "pruned", "diverged", "failed")
NAME = "search"
MOST_KILLS = 2  # settings that a process died at so often are not tried again
FREE_TRIALS, FREE_STRETCHES = 5, 2  # the first trials, and the first judgements of each, go on
REPEATS = 20  # in a row: the sampler has nothing new


@dataclass(frozen=True, slots=True)
class Trial:
    """One run with its own `values`, by dotted keys.

    `figure`: the best held-out figure after the first step; of a trial that ended early, the last
    one. `before`: that of the model before training. `same_as`: the trial with the same values
    whose figures it has; it was not run again.
    """

    number: int
    state: State
    values: dict[str, Value]
    figure: float | None = None
    before: float | None = None
    seconds: float = 0.0
    steps: int = 0
    why: str = ""
    same_as: int | None = None


@dataclass(slots=True)
class Asked:
    """A trial to run. `tell` it each figure as it comes; it says when to give up."""

    number: int
    values: dict[str, Value]
    _trial: Any = field(repr=False)
    _folder: Path

    def hopeless(self, stretch: int, figure: float, stretches: int) -> bool:
        """Take note of `figure` after `stretch` of `stretches`; return whether to end here."""
        with disk_errors(self._folder):
            self._trial.report(figure, stretch)
        return stretch < stretches and bool(self._trial.should_prune())


class Study:
    """The trials of one search, in a folder that all its processes share."""

    def __init__(self, folder: Path, search: SearchSection, seed: int, worker: str) -> None:
        """`worker` is the name that `at_work` gave this process."""
        self._folder, self._search, self._seed, self._worker = folder, search, seed, worker
        self._optuna = need("optuna", "train")
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        self._space = {p.name: self._distribution(p) for p in search.space}
        self._repeated = 0
        pruners = self._optuna.pruners
        with self._turn():
            self._study = self._optuna.create_study(
                storage=open_journal(folder),
                study_name=NAME,
                direction="minimize",
                load_if_exists=True,
                pruner=pruners.MedianPruner(FREE_TRIALS, FREE_STRETCHES)
                if search.pruner
                else pruners.NopPruner(),
            )

    @property
    def trials(self) -> list[Trial]:
        """Return all trials, those of other processes among them, in the order they began."""
        return [
            _read(t) for t in self._study.get_trials(deepcopy=False) if t.state.name != "WAITING"
        ]

    @property
    def ended(self) -> int:
        """Return how many trials came to an end by themselves."""
        return sum(trial.state in ENDED for trial in self.trials)

    def ask(self) -> Asked | None:
        """Return the next trial of this process; None if there is nothing left to begin.

        Trials of dead processes are marked and, once, put in the queue again.
        """
        while True:
            with self._turn():
                self._bury()
                asked = self._begun()
                if asked is None or not self._repeat(asked):
                    return asked

    def end(
        self, asked: Asked, state: State, notes: Mapping[str, Any], figure: float | None
    ) -> None:
        """Write down how a trial ended. `notes` are the fields of `Trial` of those names."""
        states = self._optuna.trial.TrialState
        with disk_errors(self._folder):
            for name, value in ({"state": state} | dict(notes)).items():
                asked._trial.set_user_attr(name, value)
            match state:
                case "finished":
                    self._study.tell(asked._trial, figure)
                case "pruned" | "diverged":  # which tells the sampler that it was no good
                    self._study.tell(asked._trial, state=states.PRUNED)
                case _:
                    self._study.tell(asked._trial, state=states.FAIL)
        if state == "interrupted":
            with self._turn():
                self._queue(asked.values, again=True, kills=_kills(asked._trial))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Let one process at a time count, choose and begin."""
        with file_lock(self._folder / ".turn.lock"), disk_errors(self._folder):
            yield

    def _bury(self) -> None:
        """Mark the trials of processes that died, and queue their settings again."""
        states = self._optuna.trial.TrialState
        for trial in self._study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            if is_at_work(self._folder, str(trial.user_attrs.get("worker", ""))):
                continue
            kills = _kills(trial) + 1
            storage = self._study._storage
            storage.set_trial_user_attr(trial._trial_id, "state", "killed")
            storage.set_trial_state_values(trial._trial_id, states.FAIL)
            if kills < MOST_KILLS and set(trial.params) == set(self._space):
                self._queue(trial.params, again=True, kills=kills)

    def _queue(self, values: Mapping[str, Value], **attributes: Any) -> None:
        self._study.enqueue_trial(dict(values), user_attrs=attributes)

    def _begun(self) -> Asked | None:
        """Begin a trial, if one more is wanted."""
        found = self._study.get_trials(deepcopy=False)
        waiting = any(trial.state.name == "WAITING" for trial in found)
        taken = [trial for trial in self.trials if trial.state in (*ENDED, "running")]
        wanted = self._search.trials
        if (wanted is not None and len(taken) >= wanted) or self._repeated >= REPEATS:
            return None
        if not waiting:
            if self._search.sampler == "grid":
                left = [v for v in self._grid() if v not in [_read(t).values for t in found]]
                if not left:
                    return None
                self._queue(left[0])
            elif len({tuple(trial.values.items()) for trial in taken}) == size(self._search.space):
                return None
        again = sum("again" in trial.user_attrs for trial in found)
        self._study.sampler = self._sampler(len(found) - again)
        trial = self._study.ask(self._space)
        trial.set_user_attr("worker", self._worker)
        return Asked(
            trial.number, {name: trial.params[name] for name in self._space}, trial, self._folder
        )

    def _repeat(self, asked: Asked) -> bool:
        """End a trial whose values an earlier one had, as that one ended; training is repeatable"""
        for trial in self.trials:
            if trial.values == asked.values and trial.state in ("finished", "pruned", "diverged"):
                earlier = self._study.get_trials(deepcopy=False)[trial.number]
                for step, figure in earlier.intermediate_values.items():
                    asked._trial.report(figure, step)
                notes = {"why": trial.why, "steps": trial.steps, "before": trial.before}
                self.end(asked, trial.state, notes | {"same_as": trial.number}, trial.figure)
                self._repeated += 1
                return True
        self._repeated = 0
        return False

    def _grid(self) -> list[dict[str, Value]]:
        """Return all settings, in an order that follows from the seed: a part is no corner."""
        import numpy as np

        domains = [p.domain.values for p in self._search.space if isinstance(p.domain, Choices)]
        every = [dict(zip(self._space, v, strict=True)) for v in itertools.product(*domains)]
        return [every[i] for i in np.random.default_rng(self._seed).permutation(len(every))]

    def _sampler(self, number: int) -> Any:
        """Return a sampler of its own for choice `number`, so that a search that goes on chooses
        as one that was never interrupted."""
        import numpy as np

        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        samplers = self._optuna.samplers
        if self._search.sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        return samplers.RandomSampler(seed=seed)

    def _distribution(self, parameter: Parameter) -> Any:
        kinds, domain = self._optuna.distributions, parameter.domain
        if isinstance(domain, Choices):
            return kinds.CategoricalDistribution(domain.values)
        if domain.whole:
            return kinds.IntDistribution(domain.low, domain.high, domain.log, domain.step or 1)
        return kinds.FloatDistribution(domain.low, domain.high, domain.log, domain.step)


@contextmanager
def opened(folder: Path, search: SearchSection, seed: int) -> Iterator[Study]:
    """Yield the study in `folder`, as one of the processes that work on it."""
    with at_work(folder) as worker:
        yield Study(folder, search, seed, worker)


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the finished trial with the lowest figure, the first of equals; None without one."""
    finished = [t for t in trials if t.state == "finished" and t.figure is not None]
    return min(finished, key=lambda trial: (trial.figure, trial.number), default=None)


def _kills(trial: Any) -> int:
    return int(trial.user_attrs.get("kills", 0))


def _read(trial: Any) -> Trial:
    """Return one of Optuna's trials as ours."""
    notes = trial.user_attrs
    known = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    state = notes.get("state", known.get(trial.state.name, "running"))
    done, began = trial.datetime_complete, trial.datetime_start
    return Trial(
        number=trial.number,
        state=state if trial.state.is_finished() else "running",
        values=dict(trial.params),
        figure=trial.value,
        before=notes.get("before"),
        seconds=(done - began).total_seconds() if done and began else 0.0,
        steps=notes.get("steps", 0),
        why=notes.get("why", ""),
        same_as=notes.get("same_as"),
    )
