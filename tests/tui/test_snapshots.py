"""What the screens look like. After a wanted change: `pytest tests/tui --snapshot-update`.

Look at the new SVG files before you commit them.
"""

from __future__ import annotations

import threading

import pytest
from textual import events

from edgekit.errors import InputError

SIZES = pytest.mark.parametrize("size", [(80, 24), (200, 50)], ids=["80x24", "200x50"])
SMALL = pytest.mark.parametrize("size", [(80, 24)], ids=["80x24"])
ANSWER = [
    "Edge devices compute **where the data is made**.\n\n## Why it matters\n\n",
    "1. *Latency*: no round trip.\n2. *Privacy*: the data stays.\n\n",
    "```python\ndef scale(weights, bits=4):\n",
    "    return abs(weights).max() / (2 ** (bits - 1) - 1)\n",
    "```\n\n| scheme | tokens/s |\n|---|---:|\n| q8_0 | 31.2 |\n| q4_k_m | 42.8 |\n\n",
    "See [the guide](https://example.org).",
]


async def ask(pilot, question: str) -> None:
    pilot.app.post_message(events.Paste(question))
    await pilot.press("enter")


@pytest.fixture
def look(chat_with, until, snap_compare, size):
    """Return a function that runs `steps` in the app and compares the screen that results."""

    def compare(runtime, steps, **options) -> bool:
        app = chat_with(runtime, **options)

        async def run(pilot) -> None:
            def shows(text: str):
                return lambda: (
                    text
                    in "\n".join(
                        strip.text
                        for strip in app.screen._compositor.render_strips(app.screen.size)
                    )
                )

            await until(pilot, shows("ready"))
            await steps(pilot, lambda text: until(pilot, shows(text)))
            app.screen_stack[0]._tick()
            await pilot.pause()

        return snap_compare(app, terminal_size=size, run_before=run)

    return compare


@SIZES
def test_empty(look, scripted) -> None:
    async def steps(pilot, shown) -> None:
        await shown("Chat with")

    assert look(scripted(), steps)


@SIZES
def test_answer(look, scripted) -> None:
    async def steps(pilot, shown) -> None:
        await ask(pilot, "What is an edge device?")
        await shown("See the guide")
        await shown("ready")

    assert look(scripted(ANSWER), steps)


@SIZES
def test_stopped_and_typing(look, scripted) -> None:
    async def steps(pilot, shown) -> None:
        await ask(pilot, "Tell me a story")
        await shown("Once upon")
        await pilot.press("escape")
        await shown("[stopped]")
        pilot.app.post_message(events.Paste("first line\nsecond line"))

    assert look(scripted(["Once upon ", threading.Event()]), steps)


@SMALL
def test_error(look, scripted) -> None:
    error = InputError(
        "the prompt has 5120 tokens and the context holds 4096",
        hint="shorten it, or start a new chat with Ctrl+N",
    )

    async def steps(pilot, shown) -> None:
        await ask(pilot, "A long text")
        await shown("the context holds 4096")

    assert look(scripted([error]), steps)


@SMALL
def test_versions_with_a_focused_turn(look, scripted) -> None:
    async def steps(pilot, shown) -> None:
        await ask(pilot, "Name a colour")
        await shown("Blue.")
        await shown("ready")
        await pilot.press("ctrl+r")
        await shown("version 2 of 2")
        await pilot.press("shift+tab")
        await shown("E edit")

    assert look(scripted(["Blue."], ["Green."]), steps)


@SMALL
def test_completions(look, scripted) -> None:
    async def steps(pilot, shown) -> None:
        await pilot.press("slash")
        await shown("more: type on")

    assert look(scripted(), steps)


@SMALL
def test_a_long_remark(look, scripted) -> None:
    async def steps(pilot, shown) -> None:
        await ask(pilot, "/c")
        await shown("Did you mean")

    assert look(scripted(), steps)


@SMALL
def test_attachments(look, scripted, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("egg " * 100)

    async def steps(pilot, shown) -> None:
        await ask(pilot, f"/attach {tmp_path / 'notes.txt'}")
        await shown("with notes.txt")
        await ask(pilot, "Sum this up")
        await shown("All eggs.")
        await shown("ready")
        await ask(pilot, f"/attach {tmp_path / 'notes.txt'}")
        await shown("(/detach)")

    assert look(scripted(["All eggs."]), steps)


@SMALL
def test_private_with_a_persona(look, scripted) -> None:
    async def steps(pilot, shown) -> None:
        await shown("This chat is private")

    assert look(scripted(), steps, privacy="Locked.", system="Be brief.")


@SMALL
def test_context_nearly_full(look, scripted) -> None:
    runtime = scripted(["All of it."])
    runtime.context_length = 100

    async def steps(pilot, shown) -> None:
        await ask(pilot, "egg " * 20)
        await shown("nearly full!")

    assert look(runtime, steps)


@SMALL
def test_turns_left_out(look, scripted) -> None:
    runtime = scripted(["One."], ["Two."], ["Three."])
    runtime.context_length = 120

    async def steps(pilot, shown) -> None:
        for number, answer in enumerate(("One.", "Two.", "Three."), 1):
            await ask(pilot, f"{number} " + "egg " * 6)
            await shown(answer)
            await shown("ready")
        await shown("left out")

    assert look(runtime, steps)


@SMALL
def test_help(look, scripted) -> None:
    async def steps(pilot, shown) -> None:
        await pilot.press("f1")
        await shown("Esc closes")

    assert look(scripted(), steps)
