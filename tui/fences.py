"""The code blocks in a Markdown text, for copying and exporting.

Found by the parser that also draws them on the screen, so that both give them the same numbers;
it is loaded when it is needed (50 ms). Needs no Textual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token


def code_blocks(text: str) -> list[str]:
    """Return the code of each block in `text`, in order, an unfinished one included."""
    return [token.content for token in _blocks(text) if token.type in ("fence", "code_block")]


def closed(text: str) -> str:
    """Return `text` with a fence at its end if it stops inside a code block."""
    tokens = _blocks(text)
    # Inside a list or a quotation, a block ends with what it is in.
    if not tokens or tokens[-1].type != "fence" or tokens[-1].level or not tokens[-1].map:
        return text
    fence, (start, end) = tokens[-1].markup, tokens[-1].map
    last = text.split("\n")[end - 1].strip()
    is_closed = end - 1 > start and last.startswith(fence) and not last.strip(fence[0])
    return text if is_closed else f"{text}\n{fence}"


def _blocks(text: str) -> list[Token]:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False})  # as on the screen
    parser.core.ruler.enableOnly(["normalize", "block"])  # what is inside a paragraph is no code
    return parser.parse(text)
