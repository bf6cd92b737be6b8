"""The questions asked so far, for the Up and Down keys. In memory only."""

from __future__ import annotations

from collections.abc import Iterable


class History:
    """A list with a position in it, and the draft that was being typed when it was left."""

    def __init__(self) -> None:
        self._entries: list[str] = []
        self._position = 0
        self._draft = ""

    def add(self, text: str) -> None:
        """Remember `text` as the latest question, once if it repeats the one before."""
        if not self._entries or self._entries[-1] != text:
            self._entries.append(text)
        self._position = len(self._entries)
        self._draft = ""

    def replace(self, entries: Iterable[str]) -> None:
        """Remember these instead, oldest first: the questions of the chat that was opened."""
        self._entries = list(entries)
        self._position = len(self._entries)
        self._draft = ""

    def older(self, current: str) -> str | None:
        """Return the question before this one, or None at the oldest. Keeps `current` as draft."""
        if self._position == 0:
            return None
        if self._position == len(self._entries):
            self._draft = current
        self._position -= 1
        return self._entries[self._position]

    def newer(self) -> str | None:
        """Return the question after this one, the draft after the latest, or None beyond it."""
        if self._position == len(self._entries):
            return None
        self._position += 1
        if self._position == len(self._entries):
            return self._draft
        return self._entries[self._position]
