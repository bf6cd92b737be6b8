"""LocalRuntime: a Runtime on an Engine in this process.

The worker process serves one; tests and benchmarks use it directly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.artifact import Manifest
from edgekit.errors import EngineFailure, InputError
from runtimes.base import Chunk, Message, Sampling
from runtimes.chat_template import ChatTemplate
from runtimes.engine import Engine
from runtimes.generation import Answer, generate, require_known, take_turn
from runtimes.resident import peak_rss_bytes


class LocalRuntime:
    """An engine, and what the manifest says about conversations. See runtimes.base.Runtime."""

    def __init__(self, engine: Engine, manifest: Manifest) -> None:
        """Raises InputError if the engine's vocabulary is not the one the manifest promises."""
        if engine.vocabulary_size != manifest.vocabulary_size:
            raise InputError(
                f"the manifest of {manifest.name} promises a vocabulary of "
                f"{manifest.vocabulary_size}, its model has {engine.vocabulary_size}",
                hint="convert the model again",
            )
        self._engine = engine
        self._manifest = manifest
        self._turn = threading.RLock()
        self._closed = False
        self._template = ChatTemplate(
            manifest.chat_template,
            model=manifest.name,
            bos_token=self._token_text(manifest.bos_token_id),
            eos_token=self._token_text(next(iter(manifest.stop_token_ids), None)),
        )

    @property
    def context_length(self) -> int:
        return self._engine.context_length

    @property
    def vocabulary_size(self) -> int:
        """Return the length of a row of logits."""
        return self._engine.vocabulary_size

    @property
    def threads(self) -> int:
        return self._engine.threads

    @property
    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes()

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Answer:
        """Answer `messages`; see Runtime.generate."""
        return self._answer(lambda: self.prompt(messages), sampling)

    def complete(self, token_ids: Sequence[int], sampling: Sampling) -> Answer:
        """Continue `token_ids`; see Runtime.complete."""
        return self._answer(lambda: token_ids, sampling)

    def _answer(self, prompt: Callable[[], Sequence[int]], sampling: Sampling) -> Answer:
        cancelled = threading.Event()

        def chunks() -> Iterator[Chunk]:
            stops = self._manifest.stop_token_ids
            with self._open():
                ids = prompt()
            for chunk in generate(self._engine, ids, sampling, stops, cancelled):
                yield chunk
                if self._closed:  # its engine is gone
                    return

        return Answer(chunks(), cancelled, self._turn, self._engine.interrupt)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids that `generate` feeds for `messages`. Raises InputError.

        Text in a message that spells a special token becomes that token, as it does in the
        tokenizers that these models were trained with.
        """
        with self._open():
            return self._engine.tokenize(self.render(messages), special=True)

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt's text; see Runtime.render.

        A beginning-of-text token that the tokenizer would add stands in front, once.
        """
        text = self._template.render(messages)
        bos = self._token_text(self._manifest.bos_token_id)
        if self._manifest.add_bos_token and not text.startswith(bos):
            return bos + text
        return text

    def score(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each token; see Runtime.score."""
        out = np.empty((len(token_ids), self.vocabulary_size), np.float32)
        self.score_into(token_ids, out)
        return out

    def score_into(self, token_ids: Sequence[int], out: NDArray[np.float32]) -> None:
        """Write the logits after each token into `out`, [len(token_ids), vocabulary_size]."""
        require_scorable(token_ids, self.context_length, self.vocabulary_size)
        with self._open():
            self._engine.score(token_ids, out)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of `text`; see Runtime.tokenize."""
        with self._open():
            return self._engine.tokenize(text, special=special)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`; see Runtime.detokenize."""
        require_known(token_ids, self.vocabulary_size)
        with self._open():
            data = b"".join(self._engine.token_bytes(token) for token in token_ids)
        return data.decode("utf-8", "replace")

    def save_state(self, path: Path) -> int:
        """Write the KV cache to `path`; see Runtime.save_state."""
        with self._open():
            self._engine.save_state(path)
            return len(self._engine.cached_tokens)

    def load_state(self, path: Path) -> int:
        """Restore the KV cache from `path`; see Runtime.load_state."""
        with self._open():
            self._engine.load_state(path)
            return len(self._engine.cached_tokens)

    def close(self) -> None:
        """Free the model, ending whatever runs on it. From any thread, safe to call twice."""
        self._closed = True
        take_turn(self._turn, self._engine.interrupt)
        try:
            self._engine.close()
        finally:
            self._turn.release()

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Hold the engine for one operation. Raises EngineFailure once the runtime is closed."""
        with self._turn:
            if self._closed:
                raise EngineFailure("the model was closed", hint="load it again")
            yield

    def _token_text(self, token_id: int | None) -> str:
        if token_id is None:
            return ""
        return self._engine.token_bytes(token_id).decode("utf-8", "replace")


def require_scorable(token_ids: Sequence[int], context_length: int, vocabulary_size: int) -> None:
    """Raise InputError unless all of `token_ids` fit the context and are in the vocabulary."""
    if len(token_ids) > context_length:
        raise InputError(
            f"{len(token_ids)} tokens do not fit a context of {context_length}",
            hint="score fewer tokens, or load the model with a longer context",
        )
    require_known(token_ids, vocabulary_size)
