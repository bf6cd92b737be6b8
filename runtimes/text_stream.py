"""From bytes of tokens to text that may be shown: whole characters, no stop text.

It knows nothing of tokens or models. What might still become a stop text is held back.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns pieces of UTF-8 into pieces of text, up to the first of the stop texts."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, data: bytes) -> str:
        """Return the text that `data` makes certain; it may be empty. Sets `stopped`."""
        return self._release(self._decoder.decode(data), final=False)

    def flush(self) -> str:
        """Return what was held back, an incomplete character replaced by U+FFFD."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, text: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        # The stop text that is complete first counts, so pieces of any size give the same answer.
        found = [(at + len(s), at) for s in self._stops if (at := text.find(s)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)[1]]
        kept = 0 if final else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
