from __future__ import annotations

import pytest

from edgekit.errors import UsageError
from tui.commands import BY_NAME, COMMANDS, completions, parse, unescaped
from tui.line_commands import LineCommands


@pytest.mark.parametrize(
    ("text", "name", "argument"),
    [
        ("/new", "new", ""),
        ("/chats  two words ", "chats", "two words"),
        ("/EXPORT a.md redact", "export", "a.md redact"),
        ("/ret", "retry", ""),
        ("/e x", None, ""),
        ("/edit a // b", "edit", "a // b"),
        ("/set\n", "set", ""),
    ],
)
def test_commands_are_parsed_by_name_or_unambiguous_beginning(
    text: str, name: str | None, argument: str
) -> None:
    if name is None:
        with pytest.raises(UsageError, match="there is no command"):
            parse(text)
        return
    call = parse(text)
    assert call is not None
    assert (call.command.name, call.argument) == (name, argument)


@pytest.mark.parametrize(
    "text",
    ["", "hello", "a /new", "//new", "/", "/ new", "/1", "/etc/hosts: what is this?",
     "/new\nand more", "1/2"],
)  # fmt: skip
def test_questions_are_not_commands(text: str) -> None:
    assert parse(text) is None


def test_an_unknown_command_names_the_nearest_and_the_escape() -> None:
    with pytest.raises(UsageError) as caught:
        parse("/expert x")
    assert "/export" in caught.value.hint
    assert "//expert" in caught.value.hint


def test_a_doubled_slash_is_taken_away_once() -> None:
    assert unescaped("//new") == "/new"
    assert unescaped("///new") == "//new"
    assert unescaped("new") == "new"
    assert unescaped("/etc/hosts") == "/etc/hosts"


def test_completions_are_for_names_only() -> None:
    assert [command.name for command in completions("/de")] == ["delete", "detach"]
    assert completions("/") == list(COMMANDS)
    assert completions("/export f") == completions("hello") == completions("//") == []


def test_the_line_mode_has_what_the_table_says() -> None:
    for command in COMMANDS:
        if command.line_mode and command.name != "quit":
            assert callable(getattr(LineCommands, command.name)), command.name
    assert len(BY_NAME) == len(COMMANDS)


def test_every_summary_fits_a_narrow_screen() -> None:
    for command in COMMANDS:
        assert len(f"/{command.name} {command.arguments}") <= 26
        assert len(command.summary) <= 56
