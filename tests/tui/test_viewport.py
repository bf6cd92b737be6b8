"""What is out of sight keeps its place and its height, and is not laid out."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult
from textual.widget import Widget
from textual.widgets import Markdown, Static

from tui.viewport import Block, InPart, Viewport

PARAGRAPHS = 40
TEXT = "\n\n".join(f"paragraph {i} has *words* of its own" for i in range(PARAGRAPHS))


class Paragraphs(InPart, Markdown):
    pass


class Scroller(Viewport, can_focus=False):
    pass


class Page(App[None]):
    CSS = "Block { height: auto; }"

    def compose(self) -> ComposeResult:
        with Scroller():
            for i in range(5):
                with Block(id=f"block{i}"):
                    yield Static(f"block {i}")
                    yield Paragraphs(TEXT)


class Plain(App[None]):
    """The same, laid out by Textual alone: the standard."""

    CSS = Page.CSS

    def compose(self) -> ComposeResult:
        from textual.containers import Vertical, VerticalScroll

        with VerticalScroll(can_focus=False):
            for i in range(5):
                with Vertical(id=f"block{i}") as block:
                    block.styles.height = "auto"
                    yield Static(f"block {i}")
                    yield Markdown(TEXT)


def rows(app: App[None]) -> list[str]:
    return [
        "".join(segment.text for segment in strip)
        for strip in app.screen._compositor.render_strips(app.size)
    ]


def laid_out(app: App[None]) -> set[Widget]:
    return {w for w in app.screen.query("MarkdownParagraph").results(Widget) if w.region}


async def test_it_looks_as_if_everything_were_laid_out() -> None:
    async with Page().run_test(size=(60, 20)) as ours, Plain().run_test(size=(60, 20)) as plain:
        for y in (0, 7, 30, 81, 160, 399, 1000, 200, 3):
            shown = []
            for pilot in (ours, plain):
                container = pilot.app.screen.children[0]
                container.scroll_to(y=y, animate=False, immediate=True)
                await pilot.pause()
                shown.append(rows(pilot.app))
                assert container.max_scroll_y == 5 * (2 * PARAGRAPHS + 1) - 20
            assert shown[0] == shown[1]


@pytest.mark.slow
async def test_it_looks_so_after_a_change_of_width_too() -> None:
    async with Page().run_test(size=(60, 20)) as ours, Plain().run_test(size=(60, 20)) as plain:
        shown = []
        for pilot in (ours, plain):
            await pilot.resize_terminal(18, 20)  # the paragraphs wrap
            container = pilot.app.screen.children[0]
            container.anchor()
            await pilot.pause()
            shown.append((container.max_scroll_y, rows(pilot.app)))
        assert shown[0] == shown[1]


async def test_only_what_is_in_view_is_laid_out() -> None:
    async with Page().run_test(size=(60, 20)) as pilot:
        container = pilot.app.query_one(Scroller)
        container.anchor()
        container.refresh(layout=True)
        await pilot.pause()
        assert 10 <= len(laid_out(pilot.app)) <= 31
        assert pilot.app.query_one("#block4").region.height == 2 * PARAGRAPHS + 1
        # A block that is out of sight has its place all the same: it may be scrolled to.
        pilot.app.query_one("#block1").scroll_visible(animate=False)
        await pilot.pause()
        assert pilot.app.query_one("#block1").region.y <= 0
        assert any("paragraph" in row for row in rows(pilot.app))
