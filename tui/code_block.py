"""A code block of an answer, under the number by which it is copied.

Knows nothing of copying: `tui.fences` finds the same blocks in the same order.
"""

from __future__ import annotations

from textual.app import ComposeResult
from textual.widgets import Label, Markdown
from textual.widgets.markdown import MarkdownBlock, MarkdownFence

from tui.clean import clean_line
from tui.viewport import InPart

LONGEST_LANGUAGE = 20


class CodeBlock(MarkdownFence):
    """A fence with a line above it; long lines wrap, as no key scrolls sideways."""

    def compose(self) -> ComposeResult:
        """Put the number above the code."""
        yield Label(classes="number", markup=False)
        yield from super().compose()

    def on_mount(self) -> None:
        """Count the blocks before this one."""
        self._tell()

    def _tell(self) -> None:
        blocks = list(self._markdown.query(CodeBlock))
        number = f"code {blocks.index(self) + 1}" if self in blocks else "code"
        language = clean_line(self.lexer).partition(" ")[0][:LONGEST_LANGUAGE]
        line = f"[{number}: {language}]" if language else f"[{number}]"
        self.query_one(".number", Label).update(line)

    def _copy_context(self, block: MarkdownBlock) -> None:
        super()._copy_context(block)
        if self.is_mounted:
            self._tell()  # the language arrives letter by letter


class AnswerMarkdown(Markdown, InPart):
    """Markdown whose code blocks are numbered."""

    BLOCKS: dict[str, type[MarkdownBlock]] = {  # noqa: RUF012 - as Textual declares it
        **Markdown.BLOCKS,
        "fence": CodeBlock,
        "code_block": CodeBlock,
    }
