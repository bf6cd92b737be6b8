"""The smaller dialogs, driven by their keys."""

from __future__ import annotations

import pytest
from textual import events

from tui.commands import COMMANDS
from tui.dialogs.ask import AskScreen, ConfirmScreen
from tui.dialogs.editor import EditScreen
from tui.dialogs.palette import PaletteScreen, matching
from tui.dialogs.redaction import RedactionScreen
from tui.dialogs.text import TextScreen
from tui.redaction import find

HOSTILE = "a\x1b]0;owned\x07 [red]b[/red] \u202ec"


async def test_ask(opened) -> None:
    async with opened(AskScreen(f"Title {HOSTILE}", "An old one")) as (app, pilot, shows):
        await shows("Title a]0;owned [red]b[/red] c")
        await pilot.press(*" two", "enter")
    assert app.results == ["An old one two"]


async def test_ask_takes_a_clean_line_from_a_paste(opened) -> None:
    async with opened(AskScreen("Title")) as (app, pilot, _):
        app.post_message(events.Paste("one\x1b[31m\r\ntwo\tthree"))
        await pilot.press("enter")
    assert app.results == ["one[31m two three"]


async def test_ask_can_be_left(opened) -> None:
    async with opened(AskScreen("Title", "kept")) as (app, pilot, _):
        await pilot.press("x", "escape")
    assert app.results == [None]


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        (["enter"], False),
        (["escape"], False),
        (["n"], False),
        (["y"], True),
        (["tab", "enter"], True),
        (["right", "enter"], True),
        (["right", "left", "enter"], False),
        (["right", "escape"], False),
    ],
)
async def test_confirm(opened, keys, answer) -> None:
    async with opened(ConfirmScreen(f"Delete {HOSTILE}?")) as (app, pilot, shows):
        await shows("Delete a]0;owned [red]b[/red] c?")
        await shows("[ Cancel ]")
        await pilot.press(*keys)
    assert app.results == [answer]


@pytest.mark.parametrize("key", ["escape", "enter", "q"])
async def test_text(opened, key) -> None:
    body = "\n".join(["first", *(f"line {number}" for number in range(100)), "last", HOSTILE])
    async with opened(TextScreen("Privacy", body)) as (app, pilot, shows):
        await shows("first")
        await shows("Esc\N{NO-BREAK SPACE}close")  # the keys stay in sight
        await pilot.press("end")
        await shows("last")
        await shows("[red]b[/red] c")
        await pilot.press(key)
    assert app.results == [None]


async def test_edit_has_the_keys_of_the_prompt(opened) -> None:
    async with opened(EditScreen("Ask", "one")) as (app, pilot, _):
        await pilot.press("!", "ctrl+j", "t", "alt+enter", "w", "shift+enter", "o", "enter")
    assert app.results == ["one!\nt\nw\no"]


async def test_edit_is_clean(opened) -> None:
    async with opened(EditScreen("Ask", "one\x1b[2J\n")) as (app, pilot, _):
        app.post_message(events.Paste("two\x07\r\nthree"))
        await pilot.press("enter")
    assert app.results == ["one[2J\ntwo\nthree"]


async def test_edit_asks_before_it_loses_what_was_typed(opened, until) -> None:
    dialog = EditScreen("Ask", "one")
    async with opened(dialog) as (app, pilot, shows):
        await pilot.press("!", "escape")
        await shows("Discard what you typed?")
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is dialog)
        await shows("one!")
        await pilot.press("escape")
        await shows("Discard what you typed?")
        await pilot.press("y")
        await until(pilot, lambda: app.results)
    assert app.results == [None]


async def test_edit_unchanged_is_left_at_once(opened, until) -> None:
    async with opened(EditScreen("Ask", "one")) as (app, pilot, _):
        await pilot.press("escape")
        await until(pilot, lambda: app.results)
    assert app.results == [None]


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("", "new"),
        ("/cha", "chats"),
        ("port", "export"),
        ("prmpt", None),
        ("system prompt", "persona"),
        ("bw", "bandwidth"),
        ("zzz", None),
    ],
)
def test_matching(typed, first) -> None:
    found = matching(COMMANDS, typed)
    assert (found[0].name if found else None) == first
    assert not typed or len(found) < len(COMMANDS)


async def test_palette_filters_and_runs_in_step_with_the_keys(opened) -> None:
    async with opened(PaletteScreen(COMMANDS)) as (app, pilot, shows):
        await shows("/chats")
        await shows("Ctrl+O")
        await pilot.press(*"expo", "enter")
    assert [command.name for command in app.results] == ["export"]


async def test_palette_moves_and_closes(opened) -> None:
    async with opened(PaletteScreen(COMMANDS)) as (app, pilot, shows):
        await pilot.press("up", "pagedown", "pagedown", "pagedown", "down")
        await shows(f"> /{COMMANDS[-1].name}")
        await pilot.press(*"zzz")
        await shows("no command is like that")
        await pilot.press("enter", "escape")
    assert app.results == [None]


@pytest.mark.parametrize(("key", "result"), [("enter", True), ("escape", None)])
async def test_redaction(opened, key, result) -> None:
    findings = find("jane@example.org and again jane@example.org, or 192.0.2.44")
    async with opened(RedactionScreen(findings, f"/tmp/{HOSTILE}.md")) as (app, pilot, shows):
        await shows("3 places would be changed in /tmp/a]0;owned [red]b[/red] c.md")
        await shows("jane@example.org -> [e-mail 1]")
        await shows("2 times")
        await shows("Best effort")
        await pilot.press(key)
    assert app.results == [result]


async def test_redaction_of_nothing_says_so(opened) -> None:
    async with opened(RedactionScreen([], "chat.md")) as (app, pilot, shows):
        await shows("nothing was found")
        await pilot.press("down", "enter")
    assert app.results == [True]
