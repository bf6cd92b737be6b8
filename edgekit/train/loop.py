"""The training loop: steps within a budget, judged on held-out text, never lost.

A run may be killed at any moment: the same call goes on from the last state that was saved. What
is learnt, and by which figure it is judged, is a `Lesson`'s; it knows neither losses nor text.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Protocol

from edgekit.adam import adam_memory, restore_adam
from edgekit.errors import GateError
from edgekit.files import require_space, write_atomically
from edgekit.progress import Advance, Progress
from edgekit.tensors_file import load_document, load_tensors
from edgekit.train.curve import as_lines
from edgekit.train.meter import Meter
from edgekit.train.order import batches
from edgekit.train.pieces import pieces, put_together
from edgekit.train.schedule import Budget, learning_rate
from edgekit.train.sharding import save_whole
from edgekit.train.standing import Standing
from edgekit.train.team import ALONE, Team
from edgekit.train.trained import Trained

STATE, BEST, CURVE = "state.safetensors", "best.safetensors", "curve.jsonl"
STRETCHES = 6  # the held-out text is judged at the end of each
SAVE_S = 180.0
# The state holds three numbers a weight, the best one; a new one stands beside the old one.
FILES_PER_WEIGHT = 8

Tell = Callable[[Standing], None]
"""Is told how the run stands after each step."""


class NoHelpError(GateError):
    """Training made nothing better, and going on with it would not either."""


class Lesson(Protocol):
    """What is learnt. `figure` names the key of the figure that judges, in nats: lower is better;
    one that grows to `diverged` times that at the start will not come back. `name` and
    `figure_name` are for people.
    """

    name: str
    figure: str
    figure_name: str
    diverged: float

    @property
    def lengths(self) -> Sequence[int]:
        """Return the tokens of each piece of text: a step's batch is a list of indices into it."""
        ...

    def backward(self, batch: list[int]) -> float:
        """Add the gradients of the mean loss of `batch` to the parameters; return that mean."""
        ...

    def judge(self) -> dict[str, float]:
        """Return the figures of the model as it is on held-out text, `figure` among them."""
        ...

    def place(self, batch: list[int]) -> str:
        """Return where the text of `batch` comes from, as the end of a sentence, or nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train: `learning_rate` is the peak; `batch_tokens` is what one step learns from, at
    least; `clip` the largest norm of a step's gradient. The state is saved every `save_s` seconds,
    and whenever the held-out text is judged: `stretches` times, and at the start."""

    budget: Budget
    learning_rate: float
    batch_tokens: int = 512
    clip: float = 1.0
    seed: int = 0
    stretches: int = STRETCHES
    save_s: float | None = None


@dataclass(slots=True)
class Run:
    """How far a run is. `curve` has one entry a step, and one for each time that the held-out
    text was judged, which has the key `figure`: plain JSON.

    Both have "step", "tokens" (learnt from so far) and "elapsed_s". A step's: "loss",
    "learning_rate", "gradient_norm" (before clipping), "tokens_per_s", "mfu" (where it is known)
    and "memory_bytes" (resident, or the most allocated on the GPU).
    """

    figure: str
    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    stretch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def judged(self) -> list[dict[str, float]]:
        """Return the entries of the held-out text."""
        return [entry for entry in self.curve if self.figure in entry]

    @property
    def best(self) -> dict[str, float]:
        """Return the best of them; the first is the model before training."""
        return min(self.judged, key=lambda entry: entry[self.figure])


Watch = Callable[[Run], None]
"""Is shown the run each time that the held-out text was judged."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the model holds the weights of `run.best`. `stopped` says in a sentence why
    it ended before its budget, or is empty."""

    run: Run
    stopped: str


def train(
    lesson: Lesson,
    trained: Trained,
    settings: Settings,
    folder: Path | None,
    progress: Progress,
    tell: Tell = lambda _standing: None,
    team: Team = ALONE,
    meter: Meter | None = None,
    watch: Watch = lambda _run: None,
) -> Outcome:
    """Train the parameters of `trained` by `lesson`; leave the best that was found in them.

    "Best" is by the lesson's figure. The state is kept in `folder`. On a CPU, a run that was
    interrupted gives the same weights as one that was not. The processes of `team` train together;
    the state is the same for any number of them. Raises NoHelpError if the run fell apart before
    anything was better, GateError if the disk is too small or full: the last state stays as it is.
    Without a `folder` nothing is kept, neither a state nor the best weights: the record is what is
    wanted. What `watch` raises ends the run.
    """
    if folder is not None:
        weights_bytes = sum(value.nbytes for value in trained.values().values())
        kept_bytes = sum(f.stat().st_size for n in (STATE, BEST) if (f := folder / n).is_file())
        require_space(folder, FILES_PER_WEIGHT * weights_bytes - kept_bytes)
    loop = _Loop(lesson, trained, settings, folder, tell, team, meter or Meter(), watch)
    stopped = loop.resume()
    while not stopped and loop.done < 1:
        with loop.stretch(progress) as advance:
            stopped = loop.train_stretch(advance)
    return Outcome(loop.run, loop.keep_best(stopped))


def saved_step(folder: Path) -> int | None:
    """Return the step of the state in `folder`, None if there is none to go on from."""
    document = load_document(folder / STATE)
    return None if document is None else int(document["step"])


class _Loop:
    def __init__(
        self, lesson: Lesson, trained: Trained, settings: Settings, folder: Path | None,
        tell: Tell, team: Team, meter: Meter, watch: Watch,
    ) -> None:  # fmt: skip
        self.run = Run(lesson.figure)
        self._lesson, self._trained, self._settings = lesson, trained, settings
        self._folder, self._tell, self._watch = folder, tell, watch
        self._team, self._meter = team, meter
        self._optimizer = trained.optimizer()
        self._save_s = SAVE_S if settings.save_s is None else settings.save_s
        self._saved = time.monotonic()

    @property
    def done(self) -> float:
        return self._settings.budget.done(self.run.step, self.run.elapsed_s)

    def resume(self) -> str:
        """Go on from the state in the folder; without one, judge the model and save it."""
        found = None if self._folder is None else load_tensors(self._folder / STATE)
        if found is None:
            return self._judge()
        tensors, document = found
        self.run = Run(self._lesson.figure, **document)
        self._trained.restore({n: tensors[f"weight.{n}"] for n in self._trained.parameters})
        parameters = self._trained.parameters
        memory = {n: t for n, t in tensors.items() if not n.startswith("weight.")}
        restore_adam(self._optimizer, parameters, pieces(memory, parameters))
        return ""

    def _save(self) -> None:
        if self._folder is None:
            return
        tensors = {f"weight.{name}": value for name, value in self._trained.values().items()}
        tensors |= adam_memory(self._optimizer, self._trained.parameters)
        run = self.run
        document = {
            "step": run.step,
            "tokens": run.tokens,
            "elapsed_s": run.elapsed_s,
            "stretch": run.stretch,
            "curve": run.curve,
        }
        save_whole(self._folder / STATE, tensors, document, self._team)
        if self._team.is_first:
            write_atomically(self._folder / CURVE, as_lines(run.curve))  # for whoever watches
        self._saved = time.monotonic()

    @contextmanager
    def stretch(self, progress: Progress) -> Iterator[Advance]:
        """Tell what follows as one task, in steps or in seconds, by what limits the run."""
        budget, lesson = self._settings.budget, self._lesson
        figure = self.run.judged[-1][lesson.figure]
        label = f"{lesson.name}: {lesson.figure_name} {figure:.4f}{self._last_loss()}"
        if budget.steps is not None and budget.minutes is None:
            total = math.ceil(self._end * budget.steps) - self.run.step
        else:
            total = None
        with progress.task(label, total, unit="steps") as advance:
            yield advance

    @property
    def _end(self) -> float:
        """Return the share of the budget at which this stretch ends."""
        return min(1.0, (self.run.stretch + 1) / self._settings.stretches)

    def _last_loss(self) -> str:
        """Return the mean loss of the last steps, as the end of a sentence; empty at the start."""
        losses = [entry["loss"] for entry in self.run.curve if "loss" in entry]
        recent = losses[-max(1, len(losses) // STRETCHES) :]
        return f", loss {fmean(recent):.4f}" if recent else ""

    def train_stretch(self, advance: Advance) -> str:
        """Train to the end of this stretch of the budget, judge, save; say if it fell apart."""
        settings, run = self._settings, self.run
        order = batches(self._lesson.lengths, settings.batch_tokens, settings.seed)
        start = time.monotonic() - run.elapsed_s
        for batch in islice(order, run.step, None):
            if self.done >= self._end:
                break
            problem = self._step(batch)
            if problem:
                return problem
            is_due = time.monotonic() - self._saved > self._save_s
            run.elapsed_s, is_due = self._team.agree((time.monotonic() - start, is_due))
            advance(1)
            self._tell(self._standing())
            if is_due:
                self._save()
        run.stretch = max(run.stretch + 1, int(self.done * settings.stretches))
        problem = self._judge()
        run.elapsed_s = self._team.agree(time.monotonic() - start)
        return problem

    def _step(self, batch: list[int]) -> str:
        """Learn from `batch`. Returns a sentence if there is nothing left to learn with."""
        import torch

        run, settings, begin = self.run, self._settings, time.monotonic()
        rate = learning_rate(settings.learning_rate, self.done)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss = self._lesson.backward(batch)
        parameters = self._trained.parameters.values()
        norm = float(put_together(torch.nn.utils.clip_grad_norm_(parameters, settings.clip)))
        loss, norm = self._team.agree([loss, norm])
        if not math.isfinite(loss + norm):
            place = self._lesson.place(batch)
            return f"the loss is no number any more at step {run.step + 1}{place}"
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        run.step += 1
        lengths = [self._lesson.lengths[i] for i in batch]
        run.tokens += sum(lengths)
        speed = self._meter.step(lengths, time.monotonic() - begin)
        run.curve.append(
            {
                "step": run.step,
                "tokens": run.tokens,
                "loss": loss,
                "learning_rate": rate,
                "gradient_norm": norm,
                "elapsed_s": run.elapsed_s,
                "tokens_per_s": round(speed.tokens_per_s, 1),
                **({} if speed.mfu is None else {"mfu": round(speed.mfu, 4)}),
                "memory_bytes": self._meter.memory_bytes(),
            }
        )
        return ""

    def _standing(self) -> Standing:
        run, lesson, budget = self.run, self._lesson, self._settings.budget
        last, peak = run.curve[-1], self._meter.peak
        return Standing(
            lesson.name, run.step, None if budget.minutes is not None else budget.steps,
            self.done, run.elapsed_s * (1 - self.done) / self.done, last["loss"],
            lesson.figure_name, run.judged[-1][lesson.figure], last["learning_rate"],
            self._meter.recent, "" if peak is None else peak.words,
            int(last["memory_bytes"]), run.curve,
        )  # fmt: skip

    def _judge(self) -> str:
        """Judge the held-out text, keep the weights if none were better, save the state."""
        figures, run, lesson = self._team.agree(self._lesson.judge()), self.run, self._lesson
        now = figures[lesson.figure]
        earlier = [entry[lesson.figure] for entry in run.judged]
        if not all(map(math.isfinite, figures.values())):
            return f"the {lesson.figure_name} is no number any more at step {run.step}"
        run.curve.append(
            {"step": run.step, "tokens": run.tokens, **figures, "elapsed_s": run.elapsed_s}
        )
        if self._folder is not None and (not earlier or now < min(earlier)):
            best = self._trained.values()
            save_whole(self._folder / BEST, best, {"step": run.step}, self._team)
        self._save()
        if earlier and now > lesson.diverged * earlier[0]:
            return f"the {lesson.figure_name} rose from {earlier[0]:.4f} to {now:.4f}"
        self._watch(run)
        return ""

    def keep_best(self, stopped: str) -> str:
        """Put the best weights into the model; return `stopped`."""
        run = self.run
        if stopped and (not run.judged or run.best["step"] == 0):
            raise NoHelpError(
                f"{stopped}, and nothing was better before; nothing is written",
                hint=f"try a lower learning rate than {self._settings.learning_rate:g}",
            )
        if self._folder is None:
            return stopped
        found = load_tensors(self._folder / BEST)
        if found is None:
            raise GateError(
                f"{self._folder / BEST} is damaged: the best weights are lost",
                hint=f"remove {self._folder} and run the same command again",
            )
        self._trained.restore(found[0])
        return stopped
