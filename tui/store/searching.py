"""Search: the words of a question against texts held in memory. Nothing of it touches a disk.

Matching is by substring of casefolded NFKC text, so that it works in scripts without spaces.
Knows nothing of the store; it is told texts and asked for hits.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from dataclasses import dataclass

EXCERPT_CHARACTERS = 80
_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')


@dataclass(frozen=True, slots=True)
class Hit:
    """Where words were found: in the title if `entry_id` is None, else in that entry.

    `excerpt` is one line of about 80 characters; `at` is the time of the entry, or of the chat's
    last change, in seconds since 1970.
    """

    chat_id: str
    title: str
    entry_id: str | None
    excerpt: str
    at: float


@dataclass(frozen=True, slots=True)
class Text:
    """Something that can be found: as it was written, and as it is compared."""

    entry_id: str | None
    at: float
    written: str
    folded: str

    @classmethod
    def of_text(cls, written: str, at: float, entry_id: str | None = None) -> Text:
        """Return `written`, ready to be searched."""
        return cls(entry_id, at, written, fold(written))


class Words:
    """What a person typed to search for: all words must occur, and "quoted phrases" as they are."""

    def __init__(self, typed: str) -> None:
        folded = (fold(quoted or word).strip() for quoted, word in _TERM.findall(typed))
        self._terms = [(term, _phrase(term)) for term in folded if term]

    def __bool__(self) -> bool:
        return bool(self._terms)

    def match(self, text: Text) -> int | None:
        """Return where the first of the words stands in the folded text, None if one is missing."""
        folded = text.folded
        first = len(folded)
        for term, phrase in self._terms:
            at = folded.find(term)
            if at < 0:
                if phrase is None or (found := phrase.search(folded)) is None:
                    return None
                at = found.start()
            first = min(first, at)
        return first


def _phrase(term: str) -> re.Pattern[str] | None:
    """Return a pattern for words in a row, between which any white space may be, line ends too."""
    words = term.split()
    return re.compile(r"\s+".join(map(re.escape, words))) if len(words) > 1 else None


def fold(text: str) -> str:
    """Return `text` as it is compared: without case, full width and ligatures."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def excerpt(text: Text, folded_at: int) -> str:
    """Return one line of `text.written` around a place in `text.folded`."""
    at = _written_at(text, folded_at)
    start = max(0, at - EXCERPT_CHARACTERS // 3)
    end = start + EXCERPT_CHARACTERS
    shown = "".join(c if c.isprintable() else " " for c in text.written[start:end])
    line = " ".join(shown.split())
    before = "…" if start > 0 else ""
    return before + line + ("…" if end < len(text.written) else "")


def _written_at(text: Text, folded_at: int) -> int:
    """Return the place in the written text: folding may change lengths."""
    if len(text.written) == len(text.folded):
        return folded_at
    lengths = range(len(text.written) + 1)
    # The longest beginning that folds to no more than what stands before the match.
    found = bisect_left(lengths, folded_at + 1, key=lambda n: len(fold(text.written[:n])))
    return max(0, found - 1)
