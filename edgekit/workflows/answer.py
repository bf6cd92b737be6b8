"""answer: load an artifact, answer one prompt, time it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifact import Artifact
from runtimes.base import Message, Runtime, Sampling
from runtimes.load import load
from tui.clean import clean


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer and its times; `finish` and `reused_tokens` are as in a Chunk."""

    text: str
    prompt_tokens: int
    reused_tokens: int
    tokens: int
    ttft_s: float
    decode_tokens_per_s: float
    finish: str


def answer(
    artifact: Artifact,
    prompt: str,
    system: str | None,
    sampling: Sampling,
    write: Callable[[str], None] | None,
    *,
    context: int | None = None,
    threads: int | None = None,
    state: Path | None = None,
) -> Answer:
    """Answer `prompt`; each piece of text goes to `write` as it comes.

    An artifact with no chat template continues the prompt as plain text. `state` is a file that
    keeps the KV cache from one call to the next, so that a beginning that both share is not
    computed again. Raises InputError if the prompt does not fit the context, or if `state` is
    not of this artifact.
    """
    runtime = load(artifact, context_length=context, threads=threads)
    try:
        if state is not None and state.exists():
            runtime.load_state(state)
        messages = [Message("system", system)] if system else []
        messages.append(Message("user", prompt))
        found = _stream(runtime, artifact, messages, sampling, write)
        if state is not None:
            runtime.save_state(state)
        return found
    finally:
        runtime.close()


def _stream(
    runtime: Runtime,
    artifact: Artifact,
    messages: list[Message],
    sampling: Sampling,
    write: Callable[[str], None] | None,
) -> Answer:
    start = time.perf_counter()
    if artifact.manifest.chat_template is None:
        text = "\n".join(message.content for message in messages)
        chunks = runtime.complete(runtime.tokenize(text), sampling)
    else:
        chunks = runtime.generate(messages, sampling)
    pieces: list[str] = []
    tokens = prompt_tokens = reused_tokens = 0
    first_s = last_s = start
    finish = "stop"
    for chunk in chunks:
        last_s = time.perf_counter()
        first_s = first_s if tokens else last_s
        tokens += chunk.tokens
        prompt_tokens, reused_tokens = chunk.prompt_tokens, chunk.reused_tokens
        finish = chunk.finish or finish
        text = chunk.text
        pieces.append(text)
        if write is not None and text:
            write(clean(text) if sys.stdout.isatty() else text)
    seconds = last_s - first_s
    speed = (tokens - 1) / seconds if tokens > 1 and seconds > 0 else 0.0
    return Answer(
        "".join(pieces), prompt_tokens, reused_tokens, tokens, first_s - start, speed, finish
    )
