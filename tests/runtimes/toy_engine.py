"""A deterministic toy language model on bytes, as an Engine; and a worker program that serves it.

The logits depend on every token of the cache, so a cache in a wrong state shows in the answer.
Between START and the end of the cache it may follow a script instead.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.artifact import FileEntry, Manifest, Source
from runtimes.engine import Interrupted
from runtimes.local import LocalRuntime
from runtimes.wire import Frame

END, START = 256, 257
VOCABULARY = 258
TEMPLATE = "{{ messages[-1].content }}<start>"


class ToyEngine:
    def __init__(
        self,
        script: bytes = b"",
        *,
        context_length: int = 64,
        token_s: float = 0.0,
        deaf: bool = False,
    ) -> None:
        self.context_length = context_length
        self.vocabulary_size = VOCABULARY
        self.threads = 1
        self.cached_tokens: list[int] = []
        self.evaluated: list[int] = []
        self.closed = False
        self._script = script
        self._token_s = token_s
        self._deaf = deaf
        self._stop = threading.Event()

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        head, mark, tail = text.partition("<start>") if special else (text, "", "")
        return [*head.encode(), *([START] if mark else []), *tail.encode()]

    def token_bytes(self, token_id: int) -> bytes:
        return {END: b"<end>", START: b"<start>"}.get(token_id) or bytes([token_id])

    def evaluate(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        assert not self.closed
        assert token_ids
        self._stop.clear()
        kept = len(self.cached_tokens)
        for token in token_ids:
            assert 0 <= token < VOCABULARY
            if self._deaf:
                time.sleep(self._token_s)
            elif self._stop.wait(self._token_s):
                del self.cached_tokens[kept:]
                raise Interrupted
            self.cached_tokens.append(token)
            assert len(self.cached_tokens) <= self.context_length
        self.evaluated.append(len(token_ids))
        return self.logits(self.cached_tokens)

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if self._script and START in tokens:
            answered = len(tokens) - 1 - max(i for i, t in enumerate(tokens) if t == START)
            row = np.zeros(VOCABULARY, np.float32)
            row[self._script[answered] if answered < len(self._script) else END] = 9
            return row
        generator = np.random.default_rng([len(tokens), *tokens])
        row = generator.normal(size=VOCABULARY).astype(np.float32)
        row[[END, START]] = -9
        return row

    def truncate(self, length: int) -> None:
        del self.cached_tokens[length:]

    def score(self, token_ids: Sequence[int], out: NDArray[np.float32]) -> None:
        self.cached_tokens = list(token_ids)
        for i in range(len(token_ids)):
            out[i] = self.logits(token_ids[: i + 1])

    def interrupt(self) -> None:
        self._stop.set()

    def save_state(self, path: Path) -> None:
        path.write_bytes(bytes(self.cached_tokens))

    def load_state(self, path: Path) -> None:
        self.cached_tokens = list(path.read_bytes())

    def close(self) -> None:
        self.closed = True


def toy_manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "name": "toy", "format": "gguf", "scheme": "f32", "entry": "m", "architecture": "toy",
        "parameters": 1, "vocabulary_size": VOCABULARY, "context_length": 64,
        "kv_bytes_per_token": 1, "bits_per_weight": 32.0, "bos_token_id": None,
        "add_bos_token": False, "stop_token_ids": [END], "chat_template": TEMPLATE,
        "files": [FileEntry("m", 0, "")], "source": Source("toy", "", "", {}, {}),
    }  # fmt: skip
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


class _LoudEngine(ToyEngine):
    """Prints where C libraries print, and dies when it is told to."""

    def evaluate(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        os.write(1, b"an engine prints to stdout\n")
        os.write(2, b"an engine \x1b[31mprints to stderr\n")
        if ord("!") in token_ids:
            os.abort()
        if ord("?") in token_ids:
            raise ZeroDivisionError("a bug in the engine")
        return super().evaluate(token_ids)


def open_toy(request: Frame) -> LocalRuntime:
    if request.get("load_s"):
        time.sleep(request["load_s"])
    engine = _LoudEngine(
        request.get("script", "").encode(),
        context_length=request.get("context_length", 64),
        token_s=request.get("token_s", 0.0),
        deaf=request.get("deaf", False),
    )
    template = request.get("template", TEMPLATE)
    return LocalRuntime(engine, toy_manifest(chat_template=template))
