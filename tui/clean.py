"""Text that is safe to show: nothing in it that a terminal could take for a command.

A model's answer, a pasted text and a file's name are all hostile here. Textual itself lets the
escape character through to the terminal (only five of the control codes are removed by its
`Content`), so every text passes through this module before it is shown, stored or copied.
"""

from __future__ import annotations

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_BIDI_OVERRIDES = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SURROGATES = range(0xD800, 0xE000)

_CLEAN: dict[int, str | None] = {
    **dict.fromkeys(_CONTROLS),
    # They reorder what follows on the screen, so that code reads otherwise than it runs
    # (Boucher and Anderson 2021, "Trojan Source").
    **dict.fromkeys(_BIDI_OVERRIDES),
    **dict.fromkeys(_SURROGATES, "\N{REPLACEMENT CHARACTER}"),
    0x2028: "\n",
    0x2029: "\n",
    ord("\n"): "\n",
    ord("\t"): "\t",
}


def clean(text: str) -> str:
    """Return `text` without control characters, except newline and tab.

    Removed are C0 and C1 controls (escape and carriage return among them), delete, and the
    Unicode marks that override the direction of text. Line and paragraph separators become
    newlines; lone surrogates, which cannot be encoded, become U+FFFD.
    """
    return text.translate(_CLEAN)


def clean_paste(text: str) -> str:
    """Return pasted `text` cleaned; a carriage return counts as a newline, as terminals send it."""
    return clean(text.replace("\r\n", "\n").replace("\r", "\n"))


def clean_line(text: str) -> str:
    """Return `text` cleaned and on one line."""
    return " ".join(clean(text).split())
