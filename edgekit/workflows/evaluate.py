"""evaluate: how well a checkpoint or an artifact answers the chats of a file.

A checkpoint answers in torch, an artifact in its own engine; the questions, the way of choosing
tokens (greedy) and the figures are the same, so that both can stand side by side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from edgekit.artifact import MANIFEST_NAME, Artifact
from edgekit.errors import InputError
from edgekit.progress import Progress
from edgekit.store import artifacts, find_artifact, find_checkpoint, installed_artifacts, models
from edgekit.train.answer_figures import figures, require_figures
from edgekit.train.answers import ANSWER_TOKENS, Answered, Question, read_questions
from edgekit.train.records import Record
from runtimes.base import Message, Role, Runtime, Sampling
from runtimes.load import load


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked: at most `answers` questions, with at most `tokens` for each answer."""

    answers: int = 100
    tokens: int = ANSWER_TOKENS


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What was found. `loss`, in nats a token over `targets` tokens of all `records`, and
    `perplexity` are None for an artifact. `figures` are those of `answered`, from 0 to 100."""

    path: Path
    kind: Literal["checkpoint", "artifact"]
    records: int
    loss: float | None
    perplexity: float | None
    targets: int | None
    figures: dict[str, float]
    answered: tuple[Answered, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "records": self.records,
            "loss": self.loss,
            "perplexity": self.perplexity,
            "targets": self.targets,
            "answers": {"asked": len(self.answered), **self.figures},
            "questions": [answered.to_dict() for answered in self.answered],
            "seconds": round(self.seconds, 1),
        }


def evaluate(name: str, file: Path, wanted: Wanted, progress: Progress) -> Evaluated:
    """Evaluate a checkpoint or an artifact, by path or by its name in the store, on `file`.

    Raises InputError where there is no such model, for the first bad line of the file, and for
    a chat that does not fit the model; MissingExtraError.
    """
    path, kind = find_model(name)
    require_figures()
    records, questions = read_questions(file, wanted.answers)
    start = time.monotonic()
    judged: dict[str, Any] = {}
    if kind == "artifact":
        answers = artifact_answers(Artifact.open(path), questions, wanted.tokens, progress)
    else:
        judged, answers = _checkpoint(path, records, questions, wanted.tokens, progress)
    return Evaluated(
        path=path,
        kind=kind,
        records=len(records),
        loss=judged.get("loss"),
        perplexity=judged.get("perplexity"),
        targets=judged.get("targets"),
        figures=figures(answers, [question.reference for question in questions]),
        answered=tuple(map(Answered, questions, answers)),
        seconds=time.monotonic() - start,
    )


def find_model(name: str) -> tuple[Path, Literal["checkpoint", "artifact"]]:
    """Return the folder that `name` stands for, and what it is. Raises InputError.

    A name is looked up in the store, artifacts first.
    """
    try:
        is_folder = Path(name).expanduser().is_dir()
        found = _is_artifact(name, is_folder), is_folder or _holds(models(), name, "config.json")
    except (OSError, RuntimeError):  # a name that is too long, a user that there is not
        found = False, False
    if found[0]:
        return find_artifact(name), "artifact"
    if found[1]:
        return find_checkpoint(name), "checkpoint"
    raise InputError(
        f"there is no checkpoint or artifact '{name:.200}'",
        hint="give a folder, or a name in the store",
    )


def _is_artifact(name: str, is_folder: bool) -> bool:
    if is_folder:
        return (Path(name).expanduser() / MANIFEST_NAME).is_file()
    return any(_holds(f, name, MANIFEST_NAME) for f in (artifacts(), installed_artifacts()))


def _holds(folder: Path, name: str, mark: str) -> bool:
    return Path(name).name == name and (folder / name / mark).is_file()


def _checkpoint(
    path: Path, records: Sequence[Record], questions: Sequence[Question], tokens: int,
    progress: Progress,
) -> tuple[dict[str, float], list[str]]:  # fmt: skip
    """Return loss and perplexity over `records`, and the answers to `questions`."""
    from converters.checkpoint import Checkpoint
    from converters.reference import load_model
    from edgekit.train.answers import Interview
    from edgekit.train.evaluation import judge
    from edgekit.train.hardware import Hardware

    checkpoint, hardware = Checkpoint.open(path), Hardware.detect()
    interview = Interview(checkpoint, questions, tokens, hardware, progress)
    model = load_model(checkpoint).to(hardware.device)
    with progress.task("judging held-out chats", 1, "passes") as advance:
        judged = judge(checkpoint, model, records, hardware)
        advance(1)
    return judged, interview.ask(model)


def artifact_answers(
    artifact: Artifact, questions: Sequence[Question], tokens: int, progress: Progress
) -> list[str]:
    """Return the greedy answers of `artifact`'s own engine, at most `tokens` each.

    Raises InputError for a question that does not fit its context, or that its template refuses.
    """
    if artifact.manifest.chat_template is None:
        raise InputError(f"{artifact.path} has no chat template, so it cannot be asked chats")
    sampling, answers = Sampling(max_tokens=tokens), []
    label = f"answering with {artifact.manifest.format} {artifact.manifest.scheme}"
    with _loaded(artifact) as runtime, progress.task(label, len(questions), "answers") as advance:
        for question in questions:
            messages = [Message(cast(Role, m["role"]), m["content"]) for m in question.messages]
            try:
                chunks = list(runtime.generate(messages, sampling))
            except InputError as error:
                raise InputError(f"{question.where}: {error.message}", error.hint) from error
            answers.append("".join(chunk.text for chunk in chunks).strip())
            advance(1)
    return answers


@contextmanager
def _loaded(artifact: Artifact) -> Iterator[Runtime]:
    runtime = load(artifact)
    try:
        yield runtime
    finally:
        runtime.close()
