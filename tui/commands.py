"""The slash commands, one table: the screen, the line mode, the palette and the help read it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from edgekit.errors import UsageError

Group = Literal["chat", "answer", "model", "screen"]


@dataclass(frozen=True, slots=True)
class Command:
    """A command. `arguments` is shown as it is; `key` is its key on the screen, or empty.

    `line_mode` says whether the line mode has it too.
    """

    name: str
    arguments: str
    summary: str
    group: Group
    key: str = ""
    line_mode: bool = True


COMMANDS = (
    Command("new", "", "start another chat", "chat", "Ctrl+N"),
    Command("chats", "[WORDS]", "open, search, rename, delete", "chat", "Ctrl+O"),
    Command("rename", "TITLE", "give this chat a title", "chat"),
    Command("delete", "", "delete this chat", "chat"),
    Command("export", "FILE [redact]", "save as Markdown or JSON", "chat"),
    Command("edit", "[TEXT]", "reword your last question", "answer", "Ctrl+E"),
    Command("retry", "", "answer it again", "answer", "Ctrl+R"),
    Command("versions", "[NUMBER]", "go through a turn's versions", "answer"),
    Command("copy", "[NUMBER]", "copy answer, or a code block", "answer", "Ctrl+Y"),
    Command("attach", "FILE", "send a text file along", "answer"),
    Command("detach", "", "send no file along after all", "answer"),
    Command("model", "[NAME]", "change the model", "model", "F2"),
    Command("persona", "[NAME]", "choose a saved system prompt", "model", "F3"),
    Command("system", "[TEXT]", "write the system prompt", "model"),
    Command("set", "[NAME VALUE]", "change the sampling", "model", "F4"),
    Command("context", "", "what the model still sees", "model"),
    Command("theme", "[NAME]", "change the colours", "screen", line_mode=False),
    Command("bandwidth", "[low|full|auto]", "bytes sent to this terminal", "screen",
            line_mode=False),
    Command("privacy", "", "what protects this chat", "screen"),
    Command("help", "", "keys and commands", "screen", "F1"),
    Command("quit", "", "leave", "screen", "Ctrl+Q"),
)  # fmt: skip
BY_NAME = {command.name: command for command in COMMANDS}


@dataclass(frozen=True, slots=True)
class Call:
    """A command and the text after its name, stripped."""

    command: Command
    argument: str


def parse(text: str) -> Call | None:
    """Return the command that `text` is, or None if it is a question.

    A command is one line that starts with one slash and a letter; two slashes at the start make
    a question that starts with one (see `unescaped`). Any unambiguous beginning of a name will do.
    Raises UsageError, with the nearest name, for a command that does not exist.
    """
    if not (text.startswith("/") and text[1:2].isalpha()) or "\n" in text.strip():
        return None
    name, _, argument = text[1:].strip().partition(" ")
    if "/" in name:  # a path, as in "/etc/hosts: what is this?"
        return None
    return Call(_find(name.lower()), argument.strip())


def unescaped(text: str) -> str:
    """Return the question in `text`: a slash that was doubled to escape it is single again."""
    return text[1:] if text.startswith("//") else text


def completions(text: str) -> list[Command]:
    """Return the commands whose names begin with what is typed so far, or none for a question."""
    if not text.startswith("/") or not (text[1:].isalpha() or text == "/"):
        return []
    return [command for command in COMMANDS if command.name.startswith(text[1:].lower())]


def _find(name: str) -> Command:
    if name in BY_NAME:
        return BY_NAME[name]
    starting = [command for command in COMMANDS if command.name.startswith(name)]
    if len(starting) == 1:
        return starting[0]
    near = [command.name for command in starting] or difflib.get_close_matches(name, BY_NAME)
    near = [f"/{name}" for name in near]
    known = f"Did you mean {' or '.join(near)}?" if near else "/help lists them all."
    raise UsageError(f"there is no command /{name}", hint=f"{known} To send it as text: //{name}")
