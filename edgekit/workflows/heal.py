"""heal: a pruned checkpoint learns again from the one it was pruned from.

Joins pruning (its record says what the original was) with distillation. The result is an ordinary
checkpoint; it is written only if it answers closer to the original than what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.lineage import Stage
from converters.reference import Window, encode, load_model, load_tokenizer
from edgekit.errors import UsageError
from edgekit.files import FolderExistsError, Waiting, file_lock, write_atomically
from edgekit.progress import Progress
from edgekit.store import cache
from edgekit.tensors_file import load_tensors, save_tensors
from edgekit.train import lessons
from edgekit.train.bridge import Bridge, Text, bridge, kept_layers
from edgekit.train.curve import HEALING_FIGURE, as_lines, draw
from edgekit.train.distil import distil
from edgekit.train.hardware import Hardware
from edgekit.train.held_out import HeldOut, Marks, ask_teacher, judge, plain, teacher_perplexity
from edgekit.train.lessons import Lessons, Source
from edgekit.train.loop import NoHelpError, Outcome, Settings
from edgekit.train.result import round_weights, write_result
from edgekit.train.teacher import Teacher, kept_token_ids, original_of
from edgekit.train.trained import Method, Trained, choose, finish
from edgekit.workflows.certify.passages import built_in_passages

OTHER_WINDOWS, OTHER_TOKENS = 2, 512  # of each kind of the built-in texts
BRIDGE_TOKENS = 24 << 10  # of the text; all that leaves three layers a gap is in memory
LEAST_GAIN = 0.01  # less is not worth another checkpoint
PEAK = {"full": 5e-5, "lora": 2e-3, "norms": 1e-2}  # more undoes the bridges before it helps


@dataclass(frozen=True, slots=True)
class Side:
    """How one model does on held-out text of the kind it was healed with, and on the texts that
    edgekit brings, which are unlike it: marks by kind, and of all as "all"."""

    held_out: dict[str, Marks]
    others: dict[str, Marks]


@dataclass(frozen=True, slots=True)
class Healed:
    """What healing did: the new checkpoint, the run, and both sides of the comparison.

    `bridges` are the gaps that were bridged before training. `original_held_out` and
    `original_others` are the original's perplexities, by kind.
    """

    checkpoint: Checkpoint
    original: Checkpoint
    bridges: list[Bridge]
    outcome: Outcome
    before: Side
    after: Side
    original_held_out: dict[str, float]
    original_others: dict[str, float]

    def gap_closed(self, texts: str) -> float:
        """Return how much closer to the original's the perplexity of `texts` came.

        `texts`: "held_out" or "others". 1: all of what pruning had changed came back; below 0: it
        is further away than before; 0 where nothing had changed.
        """
        original: float = getattr(self, f"original_{texts}")["all"]
        before: float = abs(getattr(self.before, texts)["all"].perplexity - original)
        after: float = abs(getattr(self.after, texts)["all"].perplexity - original)
        return 0.0 if before == 0 else 1 - after / before


def heal(
    pruned: Checkpoint,
    original: Checkpoint | None,
    out: Path,
    *,
    method: Method,
    rank: int,
    settings: Settings,
    source: Source,
    progress: Progress,
    replace: bool = False,
    waiting: Waiting = nullcontext,
) -> Healed:
    """Heal `pruned` by distillation from `original`, and write it into the folder `out`.

    Without `original`, it is what the records of the stages lead to. Killed at any moment, the
    same call goes on where it was; what it keeps meanwhile lies in the cache. Raises GateError if
    the result is no closer to the original on held-out text: then nothing is written.
    """
    if out.exists() and not replace:
        raise FolderExistsError(f"{out} exists already", "choose another folder, or --replace")
    hardware = Hardware.detect()
    original = original_of(pruned) if original is None else original
    if original.digest() == pruned.digest():
        raise UsageError(f"{pruned.path} is the original itself: there is nothing to heal")
    job = _Job(pruned, original, method, rank, settings, source, hardware, progress)
    with file_lock(job.folder.parent / f".{job.folder.name}.lock", waiting):
        try:
            healed = job.run(out, replace)
        except NoHelpError:
            shutil.rmtree(job.folder)
            raise
        shutil.rmtree(job.folder)
    return healed


class _Job:
    def __init__(
        self, pruned: Checkpoint, original: Checkpoint, method: Method, rank: int,
        settings: Settings, source: Source, hardware: Hardware, progress: Progress,
    ) -> None:  # fmt: skip
        self._pruned, self._original, self._method, self._rank = pruned, original, method, rank
        self._settings, self._source = settings, source
        self._hardware, self._progress = hardware, progress
        self._kept = kept_token_ids(pruned, original)
        self._lessons_key = lessons.key(pruned, original, source)
        self.folder = cache() / "healing" / f"run-{self._key()}"

    def _key(self) -> str:
        """Return a name for this run: all that decides what comes out of it."""
        parts = [self._pruned.digest(), self._lessons_key, self._method, self._rank]
        text = json.dumps([*parts, asdict(self._settings)])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def run(self, out: Path, replace: bool) -> Healed:
        folder = cache() / "healing" / f"lessons-{self._lessons_key}"
        texts = lessons.prepare(
            self._pruned, self._original, self._kept, self._source, folder, self._hardware,
            self._progress,
        )  # fmt: skip
        others = self._others(folder / "others.safetensors")
        model = load_model(self._pruned).to(self._hardware.device)
        before = self._before(model, texts.held_out, others)
        bridges = [] if self._method == "norms" else self._bridge(model, texts)
        trained = choose(model, self._method, self._rank, self._settings.seed)
        outcome = self._distil(model, trained, texts)
        finish(model, trained)
        round_weights(model, self._pruned)
        after = self._judge(model, texts.held_out, others, "judging the healed model")
        _require_better(before, after, outcome)
        curve = outcome.run.curve
        files = {
            "healing.jsonl": as_lines(curve),
            "healing.png": draw(curve, f"{out.name}: {self._method}", HEALING_FIGURE),
        }
        stage = Stage(
            "healed", str(self._pruned.path.resolve()), self._pruned.digest(),
            self._how(outcome, bridges, before, after),
        )  # fmt: skip
        checkpoint = write_result(self._pruned, model, out, stage, files, self._progress, replace)
        return Healed(
            checkpoint, self._original, bridges, outcome, before, after,
            teacher_perplexity(texts.held_out), teacher_perplexity(others),
        )  # fmt: skip

    def _others(self, file: Path) -> HeldOut:
        """Return the texts that edgekit brings, with the original's answers."""
        found = HeldOut.load(file)
        if found is None:
            teacher = Teacher(self._original, self._kept, self._hardware)
            windows = list(_windows(self._pruned))
            total = sum(len(window.token_ids) for window in windows)
            with self._progress.task(
                "asking the original: other texts", total, "tokens"
            ) as advance:
                found = ask_teacher(windows, teacher.logits_of, advance)
            found.save(file)
        return found

    def _before(self, model: Any, held_out: HeldOut, others: HeldOut) -> Side:
        """Judge the pruned model; once, also if the run is killed and goes on."""
        file = self.folder / "before.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return Side(*({k: Marks(**m) for k, m in part.items()} for part in found))
        except (OSError, ValueError, TypeError):
            side = self._judge(model, held_out, others, "judging the pruned model")
            text = json.dumps([plain(side.held_out), plain(side.others)])
            write_atomically(file, text.encode())
            return side

    def _judge(self, model: Any, held_out: HeldOut, others: HeldOut, label: str) -> Side:
        total = held_out.tokens + others.tokens
        with self._progress.task(label, total, "tokens") as advance:
            marks = [judge(model, text, self._hardware, advance) for text in (held_out, others)]
        return Side(*marks)

    def _bridge(self, model: Any, texts: Lessons) -> list[Bridge]:
        """Bridge the gaps of `model`; once, also if the run is killed and goes on."""
        kept = kept_layers(self._pruned, self._original)
        if kept is None:
            return []
        file = self.folder / "bridges.safetensors"
        weights = dict(model.named_parameters())
        found = load_tensors(file)
        if found is None:
            teacher = Teacher(self._original, None, self._hardware).model
            text = Text(
                texts.taught.token_ids(BRIDGE_TOKENS),
                [window.token_ids for window in texts.held_out.windows],
            )
            done = bridge(model, teacher, kept, text, self._kept, self._progress)
            changed = {b.weight: weights[b.weight] for b in done}
            save_tensors(file, changed, [asdict(b) for b in done])
            return done
        tensors, document = found
        for name, tensor in tensors.items():
            weights[name].data.copy_(tensor)
        return [Bridge(**b) for b in document]

    def _distil(self, model: Any, trained: Trained, texts: Lessons) -> Outcome:
        return distil(
            model, trained, texts.taught, texts.held_out, self._settings, self.folder,
            self._hardware, self._progress,
        )  # fmt: skip

    def _how(
        self, outcome: Outcome, bridges: list[Bridge], before: Side, after: Side
    ) -> dict[str, Any]:
        """Return the record of the stage."""
        found: dict[str, Any] = {"method": self._method}
        if self._method == "lora":
            found["rank"] = self._rank
        return found | {
            "original": str(self._original.path.resolve()),
            "original_digest": self._original.digest(),
            "text": self._source.name,
            "bridges": [asdict(b) for b in bridges],
            "steps": outcome.run.step,
            "best_step": int(outcome.run.best["step"]),
            "tokens": outcome.run.tokens,
            "seconds": round(outcome.run.elapsed_s, 1),
            "learning_rate": self._settings.learning_rate,
            "batch_tokens": self._settings.batch_tokens,
            "validation_kld_before": before.held_out["all"].kld,
            "validation_kld_after": after.held_out["all"].kld,
            "held_out": {"before": plain(before.held_out), "after": plain(after.held_out)},
            "other_texts": {"before": plain(before.others), "after": plain(after.others)},
        }


def _require_better(before: Side, after: Side, outcome: Outcome) -> None:
    was, now = before.held_out["all"].kld, after.held_out["all"].kld
    if now > (1 - LEAST_GAIN) * was:
        why = outcome.stopped or f"after {outcome.run.step} steps"
        raise NoHelpError(
            f"healing did not help: the divergence from the original on held-out text was "
            f"{was:.4f} and is {now:.4f} ({why}); nothing is written",
            hint="try more steps, more text, or another learning rate",
        )


def _windows(pruned: Checkpoint) -> Iterator[Window]:
    """Yield OTHER_WINDOWS windows of each kind of the built-in texts, in the pruned's tokens."""
    tokenizer = load_tokenizer(pruned)
    length = min(OTHER_TOKENS, int(pruned.config.get("max_position_embeddings", OTHER_TOKENS)))
    kinds: dict[str, list[int]] = {}
    for passage in built_in_passages(pruned):
        kinds.setdefault(passage.kind, []).extend(encode(tokenizer, passage))
    for kind, ids in kinds.items():
        for first in range(0, OTHER_WINDOWS * length, length):
            if len(ids) > first + 1:
                yield Window(kind, tuple(ids[first : first + length]))
