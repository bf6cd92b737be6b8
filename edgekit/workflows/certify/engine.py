"""What an artifact's own engine makes of the texts: distributions, token ids, prompts, answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.divergence import CompactRows, Comparison, compare
from converters.reference import (
    Passage,
    Reference,
    encode,
    load_tokenizer,
    render_dialogues,
    targets,
)
from edgekit.errors import InputError
from edgekit.progress import Progress
from edgekit.workflows.certify.passages import dialogues
from runtimes.base import Message, Role, Runtime, Sampling

Logits = NDArray[np.float32]
Prompt = Sequence[int]


@dataclass(frozen=True, slots=True)
class Measured:
    """An engine's side of a comparison.

    `comparisons` has one entry for each window. `samples` are the logits after the first tokens
    of the windows asked for, by the window's index: float32, [tokens, vocabulary].
    """

    comparisons: list[Comparison]
    samples: dict[int, Logits]


@dataclass(frozen=True, slots=True)
class Asked:
    """What to ask of an engine: see `Heard`. `samples` maps a window's index to tokens."""

    reference: Reference
    long: Reference | None
    samples: dict[int, int]
    greedy: list[list[int]]
    greedy_tokens: int
    questions: list[list[int]]
    question_tokens: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What an engine said.

    `other_ids` and `other_prompts` name the first difference in words, or are "". `greedy` and
    `answers` are texts, each with whether the engine ended it by itself.
    """

    measured: Measured
    long: Comparison | None
    other_ids: str
    other_prompts: str
    greedy: list[tuple[str, bool]]
    answers: list[tuple[str, bool]]


def listen(asked: Asked, checkpoint: Checkpoint, runtime: Runtime, progress: Progress) -> Heard:
    """Ask a running engine everything. Raises what the engine raises."""
    long = asked.long
    return Heard(
        other_ids=other_ids(asked.reference, runtime),
        other_prompts=other_prompts(checkpoint, runtime),
        measured=measure(asked.reference, runtime, progress, asked.samples),
        long=None if long is None else measure(long, runtime, progress, {}).comparisons[0],
        greedy=answers(runtime, asked.greedy, asked.greedy_tokens, progress),
        answers=answers(runtime, asked.questions, asked.question_tokens, progress),
    )


def measure(
    reference: Reference, runtime: Runtime, progress: Progress, samples: dict[int, int]
) -> Measured:
    """Run every window of `reference`; keep the logits of its first `samples[index]` tokens.

    Raises InputError if the engine's vocabulary is smaller than the checkpoint's.
    """
    comparisons: list[Comparison] = []
    kept: dict[int, Logits] = {}
    first = 0
    total = sum(len(window.token_ids) for window in reference.windows)
    with progress.task("running the artifact", total, unit="tokens") as advance:
        for index, window in enumerate(reference.windows):
            logits = runtime.score(window.token_ids)
            if index in samples:
                kept[index] = logits[: samples[index]].copy()
            rows = reference.rows.part(first, first + len(logits) - 1)
            _require_same_vocabulary(rows, logits)
            comparisons.append(compare(rows, logits[:-1], targets(window)))
            first += len(logits) - 1
            advance(len(window.token_ids))
    return Measured(comparisons, kept)


def _require_same_vocabulary(rows: CompactRows, logits: Logits) -> None:
    largest = max(rows.top_ids.max(), rows.tail_ids.max())
    if largest >= logits.shape[1]:
        raise InputError(
            f"the artifact has {logits.shape[1]} tokens, the checkpoint predicts token {largest}"
        )


def other_ids(reference: Reference, runtime: Runtime) -> str:
    """Compare the engine's own tokenizer with the checkpoint's, also on lines that are hard.

    Return the first difference in words, "" where there is none.
    """
    for passage, ids in zip(reference.passages, reference.passage_ids, strict=True):
        found = tuple(runtime.tokenize(passage.text, special=passage.special))
        if found != ids:
            place = next(
                (i for i, (a, b) in enumerate(zip(found, ids, strict=False)) if a != b),
                min(len(found), len(ids)),
            )
            return (
                f"token ids differ in {passage.text[:30]!r}: at place {place} the engine has "
                f"{list(found[place : place + 3])}, the checkpoint {list(ids[place : place + 3])}"
            )
    return ""


def other_prompts(checkpoint: Checkpoint, runtime: Runtime) -> str:
    """Compare the prompts that the runtime renders with those of the checkpoint's template."""
    if checkpoint.chat_template is None:
        return ""
    prompts = [d[:-1] if d[-1]["role"] == "assistant" else d for d in dialogues()]
    expected = render_dialogues(checkpoint, prompts, prompt=True)
    for prompt, wanted in zip(prompts, expected, strict=True):
        try:
            found = runtime.render([message(turn) for turn in prompt])
        except InputError as error:
            return f"a prompt cannot be rendered: {error.message}"
        if found != wanted:
            place = next(
                (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
                min(len(found), len(wanted)),
            )
            return (
                f"prompts differ: after {wanted[max(0, place - 20) : place]!r} the engine writes "
                f"{found[place : place + 20]!r}, the checkpoint {wanted[place : place + 20]!r}"
            )
    return ""


def message(turn: dict[str, str]) -> Message:
    """Return a turn of a conversation as the runtime wants it."""
    return Message(cast(Role, turn["role"]), turn["content"])


def prompt_ids(checkpoint: Checkpoint, question: str) -> list[int]:
    """Return the token ids of a question, as a chat where the checkpoint can hold one."""
    tokenizer = load_tokenizer(checkpoint)
    if checkpoint.chat_template is None:
        return encode(tokenizer, Passage("", question))
    turn = [{"role": "user", "content": question}]
    text = render_dialogues(checkpoint, [turn], prompt=True)[0]
    return encode(tokenizer, Passage("", text, special=True))


def answers(
    runtime: Runtime, prompts: Sequence[Prompt], tokens: int, progress: Progress
) -> list[tuple[str, bool]]:
    """Return the greedy answer to each prompt, and whether the engine ended it by itself."""
    if not prompts:
        return []
    sampling = Sampling(max_tokens=tokens, temperature=0.0)
    found = []
    with progress.task("answering in the engine", len(prompts), unit="answers") as advance:
        for prompt in prompts:
            chunks = list(runtime.complete(prompt, sampling))
            found.append(("".join(c.text for c in chunks), chunks[-1].finish == "stop"))
            advance(1)
    return found
