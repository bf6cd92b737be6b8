"""EchoRuntime: a Runtime with no model, which answers with the last message's own words.

For tests of whatever stands on a Runtime, and for trying the chat. Its tokens are UTF-8 bytes.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.files import write_atomically
from runtimes.base import Chunk, Finish, Message, Sampling
from runtimes.generation import Answer, common_prefix, require_known, require_room
from runtimes.local import require_scorable
from runtimes.resident import peak_rss_bytes
from runtimes.sampling import validate
from runtimes.text_stream import TextStream

VOCABULARY_SIZE = 256
_WORD = re.compile(rb"\s*\S+|\s+$")


class EchoRuntime:
    """Streams the last message back, one word per chunk, `delay_s` apart. See Runtime."""

    def __init__(self, *, context_length: int = 4096, delay_s: float = 0.0) -> None:
        self._context_length = context_length
        self._delay_s = delay_s
        self._cached: list[int] = []
        self._turn = threading.RLock()
        self._closed = threading.Event()

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def threads(self) -> int:
        return 1

    @property
    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes()

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Answer:
        """Answer with the last message; see Runtime.generate."""
        last = messages[-1].content if messages else ""
        return self._answer(lambda: self.tokenize(self.render(messages)), last, sampling)

    def complete(self, token_ids: Sequence[int], sampling: Sampling) -> Answer:
        """Answer with the text of `token_ids`; see Runtime.complete."""

        def prompt() -> list[int]:
            require_known(token_ids, VOCABULARY_SIZE)
            return list(token_ids)

        known = [token for token in token_ids if 0 <= token < VOCABULARY_SIZE]
        return self._answer(prompt, self.detokenize(known), sampling)

    def _answer(self, prompt: Callable[[], list[int]], words: str, sampling: Sampling) -> Answer:
        cancelled = threading.Event()
        chunks = self._chunks(prompt, words, sampling, cancelled)
        return Answer(chunks, cancelled, self._turn, lambda: None)

    def _chunks(
        self,
        prompt: Callable[[], list[int]],
        words: str,
        sampling: Sampling,
        cancelled: threading.Event,
    ) -> Iterator[Chunk]:
        validate(sampling)
        ids = prompt()
        require_room(len(ids), self._context_length)
        reused = min(common_prefix(self._cached, ids), len(ids) - 1)
        self._cached = ids
        text = TextStream(sampling.stop)
        room = self._context_length - len(ids)
        left = min(sampling.max_tokens, room)
        for word in _WORD.findall(words.encode("utf-8", "replace")):
            # A closed runtime ends its answers like a cancelled one.
            if cancelled.wait(self._delay_s) or self._closed.is_set():
                return
            piece = word[:left]
            left -= len(piece)
            self._cached = self._cached + list(piece)
            shown = text.push(piece)
            if text.stopped:
                yield Chunk(shown, len(piece), len(ids), reused, "stop")
                return
            if not left:
                finish: Finish = "length" if sampling.max_tokens <= room else "context"
                yield Chunk(shown + text.flush(), len(piece), len(ids), reused, finish)
                return
            yield Chunk(shown, len(piece), len(ids), reused)
        yield Chunk(text.flush(), 0, len(ids), reused, "stop")

    def score(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return logits that fall by an eighth per step from the byte after each token's own."""
        require_scorable(token_ids, self._context_length, VOCABULARY_SIZE)
        following = np.arange(VOCABULARY_SIZE) - np.asarray(token_ids, np.int64)[:, None] - 1
        logits = -(following % VOCABULARY_SIZE) / np.float32(8)
        self._cached = list(token_ids)
        return logits.astype(np.float32)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the UTF-8 bytes of `text`; there are no special tokens."""
        return list(text.encode("utf-8", "replace"))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of UTF-8 bytes; see Runtime.detokenize."""
        require_known(token_ids, VOCABULARY_SIZE)
        return bytes(token_ids).decode("utf-8", "replace")

    def render(self, messages: Sequence[Message]) -> str:
        """Return each message on a line of its own, after its role."""
        return "".join(f"{message.role}: {message.content}\n" for message in messages)

    def save_state(self, path: Path) -> int:
        """Write the tokens seen last to `path`; see Runtime.save_state."""
        write_atomically(path, json.dumps({"echo": self._cached}).encode())
        path.chmod(0o600)
        return len(self._cached)

    def load_state(self, path: Path) -> int:
        """Read what `save_state` wrote; see Runtime.load_state."""
        try:
            tokens = bytes(json.loads(path.read_bytes())["echo"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is not a saved state of the echo: {error}") from error
        self._cached = list(tokens)
        return len(tokens)

    def close(self) -> None:
        """End running answers. Safe to call twice."""
        self._closed.set()
