from __future__ import annotations

import time

from textual.app import App, ComposeResult
from textual.widgets import Markdown

from tui.stream import LARGEST_SHARE, PacedStream


class Page(App[None]):
    def compose(self) -> ComposeResult:
        yield Markdown()


async def test_nothing_is_lost_when_it_finishes_at_once() -> None:
    async with Page().run_test() as pilot:
        markdown = pilot.app.query_one(Markdown)
        stream = PacedStream(markdown)
        await stream.finish()
        assert markdown.source == ""
        stream = PacedStream(markdown)
        stream.write("a ")
        stream.write("b")
        await stream.finish()
        assert markdown.source == "a b"


async def test_drawing_leaves_time_for_keys() -> None:
    used: list[float] = []

    class Slow(Markdown):
        def append(self, markdown: str):
            end = time.thread_time() + 0.05
            while time.thread_time() < end:
                pass
            used.append(0.05)
            return super().append(markdown)

    class SlowPage(App[None]):
        def compose(self) -> ComposeResult:
            yield Slow()

    async with SlowPage().run_test() as pilot:
        stream = PacedStream(pilot.app.query_one(Markdown))
        start = time.perf_counter()
        while time.perf_counter() - start < 1.0:
            stream.write("word ")
            await pilot.pause(0.005)
        await stream.finish()
        elapsed = time.perf_counter() - start
        words = pilot.app.query_one(Markdown).source.count("word")
    # The last piece does not wait, and the machine may be slow in other ways: hence the margin.
    assert sum(used) <= elapsed * LARGEST_SHARE + 0.1
    assert words > 20
