"""Puts placeholders in the place of personal data before a chat is exported. Best effort.

It finds what has a form: e-mail addresses, telephone numbers, payment cards, bank accounts (IBAN)
and IP addresses (`tui.personal_data` says which). It does not find names, postal addresses or
anything else that only meaning gives away: no small, well-kept library does that offline.
Knows no chat and no file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tui.personal_data import Kind, personal_data

BEST_EFFORT = (
    "Best effort: names, postal addresses and whatever has no fixed form are not found. "
    "Read the export before you pass it on."
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A piece of personal data: `text` as it was first written, found `count` times."""

    kind: str
    text: str
    replacement: str
    count: int


class Redactor:
    """Redacts the texts of one export: what is equal in them gets the same placeholder."""

    def __init__(self) -> None:
        self._findings: dict[tuple[Kind, str], Finding] = {}
        self._numbers: dict[Kind, int] = {}

    @property
    def findings(self) -> list[Finding]:
        """Return what was replaced so far, in the order of appearance."""
        return list(self._findings.values())

    def redact(self, text: str) -> str:
        """Return `text` with a placeholder such as "[e-mail 1]" for each finding."""
        parts, end = [], 0
        for match in personal_data(text):
            label = self._count(match.kind, match.key, text[match.start : match.end])
            parts += [text[end : match.start], label]
            end = match.end
        return "".join([*parts, text[end:]])

    def _count(self, kind: Kind, key: str, text: str) -> str:
        finding = self._findings.get((kind, key))
        if finding is None:
            number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
            finding = Finding(kind, text, f"[{kind} {number}]", 0)
        self._findings[kind, key] = replace(finding, count=finding.count + 1)
        return finding.replacement


def find(text: str) -> list[Finding]:
    """Return what `redact` would replace in `text`, in the order of appearance."""
    return redact(text)[1]


def redact(text: str) -> tuple[str, list[Finding]]:
    """Return `text` with a placeholder such as "[e-mail 1]" for each finding, and the findings.

    The same address or number gets the same placeholder everywhere, however it is spaced.
    """
    redactor = Redactor()
    return redactor.redact(text), redactor.findings
