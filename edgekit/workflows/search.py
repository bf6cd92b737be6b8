"""search: the settings of a training run that do best on what was held out, by trial.

A trial is a run of the trainer that leaves nothing but its figures. Checkpoint and data are read
once. The trials lie in the cache, under a name that stands for all that they depend on; whoever
gives the same command works on the same search, at once or later.
"""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.files import Waiting, file_lock
from edgekit.progress import Advance, NoProgress, Progress
from edgekit.store import cache
from edgekit.train.configuration import Configuration, parse_configuration
from edgekit.train.loop import NoHelpError, Run
from edgekit.train.search_space import SearchSection, Value
from edgekit.train.standing import Standing
from edgekit.train.study import Asked, State, Study, Trial, best_of, opened
from edgekit.train.toml_text import with_values
from edgekit.train.trials_picture import draw_trials
from edgekit.workflows.language_job import LanguageJob

VERSION = 1  # of what a trial means: another one goes on with no trials of this one
FIGURE = "evaluation loss"

Say = Callable[[str], None]
"""Is told how the search stands, in a few words."""

Announce = Callable[[Trial, Trial | None], None]
"""Is told each trial that ended, and the best of all so far."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search found: all trials in the order they began, and the best that finished.

    `before` is the figure of the model before training, None if no trial came to judge it.
    """

    configuration: Configuration
    search: SearchSection
    folder: Path
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """Return the trial with the best figure; None if none finished."""
        return best_of(self.trials)

    @property
    def before(self) -> float | None:
        """Return the figure of the model before training."""
        return next((t.before for t in self.trials if t.before is not None), None)

    @property
    def helps(self) -> bool:
        """Return whether the best trial did better than the model before training."""
        figure = None if self.best is None else self.best.figure
        return figure is not None and self.before is not None and figure < self.before

    @property
    def figure(self) -> str:
        """Return what the figure is called."""
        return FIGURE

    def picture(self) -> bytes:
        """Return the trials as a PNG. Raises MissingExtraError without matplotlib."""
        title = f"{self.configuration.path.stem}: {len(self.trials)} trials, {self.search.sampler}"
        return draw_trials(self.trials, self.search.space, FIGURE, self.before, title)

    def best_text(self) -> str:
        """Return the configuration with the values of the best trial, as a TOML text."""
        best = self.best
        assert best is not None  # noqa: S101 - for the type checker
        text = with_values(self.configuration.text, best.values)
        said = f"trial {best.number} of {len(self.trials)}, {FIGURE} {best.figure:.4f}"
        return f"# Chosen by edgekit search: {said}\n{text}"


class HopelessError(Exception):
    """The trial will not come to anything."""


def run_search(
    configuration: Configuration,
    *,
    progress: Progress,
    tell: Say = lambda _words: None,
    announce: Announce = lambda _trial, _best: None,
    waiting: Waiting = nullcontext,
) -> Searched:
    """Try settings as the section `[search]` says, and return what was found.

    Killed at any moment, the same call goes on; several at once share the work. `announce` is told
    of each trial that this call ran, `tell` how the search stands. Raises InputError for bad
    configuration, checkpoint or data, before the first trial.
    """
    search = configuration.search
    if search is None:
        raise InputError(
            f"{configuration.path} has no section [search]",
            hint='say what to try: [search] trials = 20 and [search.space] "train.learning_rate" = '
            "{low = 1e-5, high = 1e-2, log = true}",
        )
    need("optuna", "train")
    job = LanguageJob(configuration, progress)
    folder = cache() / "search" / _key(job, configuration, search)
    with file_lock(folder / ".data.lock", waiting):
        job.keep_data(folder)
    with opened(folder, search, configuration.train.seed) as study:
        _Search(job, folder, configuration, search, study, tell, announce).run(progress)
        return Searched(configuration, search, folder, tuple(study.trials))


def _key(job: LanguageJob, configuration: Configuration, search: SearchSection) -> str:
    """Return a name for the search. More trials or minutes are the same one, and the values that
    the configuration has for what is searched over do not count."""
    values = {parameter.name: parameter.first for parameter in search.space}
    said: dict[str, Any] = asdict(search) | {"trials": None, "minutes": None}
    parts = [VERSION, job.with_settings(_with(configuration, values)).key, said]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _with(configuration: Configuration, values: dict[str, Value]) -> Configuration:
    return parse_configuration(configuration.path, with_values(configuration.text, values))


class _Search:
    def __init__(
        self, job: LanguageJob, folder: Path, configuration: Configuration, search: SearchSection,
        study: Study, tell: Say, announce: Announce,
    ) -> None:  # fmt: skip
        self._job, self._folder = job, folder
        self._configuration, self._search = configuration, search
        self._study, self._tell, self._announce = study, tell, announce
        self._start = time.monotonic()
        self._best: Trial | None = None

    def run(self, progress: Progress) -> None:
        with progress.task("searching", self._search.trials, "trials") as advance:
            shown, self._best = 0, best_of(self._study.trials)
            while True:
                ended = self._study.ended  # others may have ended some
                advance(max(0, ended - shown))
                shown = max(shown, ended)
                asked = None if self._over else self._study.ask()
                if asked is None:
                    return
                self._try(asked, advance)

    @property
    def _over(self) -> bool:
        minutes = self._search.minutes
        return minutes is not None and time.monotonic() - self._start >= 60 * minutes

    def _try(self, asked: Asked, advance: Advance) -> None:
        """Run a trial to its end, and write down how it ended."""
        notes: dict[str, Any] = {}
        self._say(asked.number)
        try:
            with _out_of_memory():
                state, figure = self._outcome(asked, notes, advance)
        except NoHelpError as error:
            state, figure, notes["why"] = "diverged", None, error.message
        except HopelessError:
            state, figure = "pruned", None
        except MemoryError as error:
            state, figure, notes["why"] = "failed", None, str(error)
        except KeyboardInterrupt:
            self._study.end(asked, "interrupted", notes, None)
            raise
        self._study.end(asked, state, notes, figure)
        gc.collect()  # the model, before the next one is loaded
        trials = self._study.trials
        self._best = best_of(trials)
        self._announce(next(t for t in trials if t.number == asked.number), self._best)

    def _outcome(
        self, asked: Asked, notes: dict[str, Any], advance: Advance
    ) -> tuple[State, float | None]:
        configuration = _with(self._configuration, asked.values)
        stretches = configuration.evaluate.times

        def watch(run: Run) -> None:
            figure = run.judged[-1][run.figure]
            notes.update(steps=run.step, before=run.judged[0][run.figure])
            if run.stretch and asked.hopeless(run.stretch, figure, stretches):
                raise HopelessError

        def told(_standing: Standing) -> None:
            self._say(asked.number)
            advance(0)

        job = self._job.with_settings(configuration)
        outcome = job.rehearse(self._folder, NoProgress(), told, watch)
        if outcome.stopped:
            notes["why"] = outcome.stopped
            return "diverged", None
        return "finished", min(entry[outcome.run.figure] for entry in outcome.run.judged[1:])

    def _say(self, number: int) -> None:
        found = "" if self._best is None else f", best {self._best.figure:.4f}"
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        self._tell(f"trial {number}{found}, {minutes}:{seconds:02}")


@contextmanager
def _out_of_memory() -> Iterator[None]:
    """Turn torch's error for a full GPU into a MemoryError: other settings may fit."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"out of memory: {error!s:.200}") from error
