"""A chat as a Markdown or JSON file, on request without personal data.

Markdown holds the branch that is being read; JSON holds everything, and can be read back. Knows
no store and no screen.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, PrivacyError
from edgekit.files import disk_errors, fsync_folder, make_folder
from runtimes.base import Sampling
from tui.attach import as_path
from tui.clean import clean_line
from tui.conversation import Answer, Attachment, Chat, Conversation, Entry, Question
from tui.fences import closed
from tui.redaction import Finding, Redactor

SCHEMA = 1
KIND = "edgekit chat"
JSON_SUFFIX = ".json"


def export_text(path: Path, chat: Chat, conversation: Conversation) -> str:
    """Return what is to be written to `path`: JSON if its name ends so, else Markdown."""
    convert = to_json if path.suffix.lower() == JSON_SUFFIX else to_markdown
    return convert(chat, conversation)


def to_markdown(chat: Chat, conversation: Conversation) -> str:
    """Return the branch that is being read as Markdown, and how many others there are."""
    parts = [f"# {clean_line(chat.title) or 'Untitled'}", "\n".join(_facts(chat, conversation))]
    for turn in conversation.turns():
        parts += ["## You", closed(turn.question.content.strip())]
        if turn.answer is None:
            parts.append("*not answered*")
            continue
        parts += [
            f"## {clean_line(turn.answer.model) or 'Model'}",
            closed(turn.answer.text.strip()),
        ]
        if note := turn.answer.note():
            parts.append(f"*{note}*")
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(chat: Chat, conversation: Conversation) -> list[str]:
    made = datetime.fromtimestamp(chat.made_at, UTC)
    facts = [f"- begun {made:%Y-%m-%d %H:%M} UTC"]
    if chat.model:
        facts.append(f"- model: {clean_line(chat.model)}")
    if chat.persona:
        facts.append(f"- persona: {clean_line(chat.persona)}")
    if others := _branches(conversation) - 1:
        is_are = (
            "other branch of this chat is" if others == 1 else "other branches of this chat are"
        )
        facts.append(f"- {others} {is_are} not in this file; a JSON export holds everything")
    if chat.system:
        facts += ["- system prompt:", "", *(f"  > {line}" for line in chat.system.splitlines())]
    return facts


def _branches(conversation: Conversation) -> int:
    entries = conversation.entries()
    parents = {entry.parent for entry in entries}
    return max(1, sum(entry.id not in parents for entry in entries))


def to_json(chat: Chat, conversation: Conversation) -> str:
    """Return the whole chat, all its branches, as JSON with stable keys.

    `schema` (a number that grows when a key changes its meaning), `kind`, the fields of `Chat`,
    and `entries`, oldest first: the fields of `Question` or `Answer` and a `type` that says which.
    Times are in seconds since 1970.
    """
    facts = asdict(replace(chat, head=conversation.head))
    entries = [
        {"type": "question" if isinstance(entry, Question) else "answer", **asdict(entry)}
        for entry in conversation.entries()
    ]
    document = {"schema": SCHEMA, "kind": KIND, **facts, "entries": entries}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def from_json(text: str) -> tuple[Chat, Conversation]:
    """Return the chat that `to_json` wrote. Raises InputError."""
    try:
        document = json.loads(text)
        if document.get("kind") != KIND or document.get("schema") != SCHEMA:
            raise InputError(
                f"this is not an export of a chat in schema {SCHEMA}", hint="export it again"
            )
        entries = [_entry(values) for values in document.pop("entries")]
        facts = {key: document[key] for key in Chat.__dataclass_fields__}
        if facts["sampling"] is not None:
            values = facts["sampling"]
            facts["sampling"] = Sampling(**{**values, "stop": tuple(values["stop"])})
        chat = Chat(**facts)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"this is not an export of a chat: {error}") from error
    return chat, Conversation(entries, chat.head)


def _entry(values: dict[str, Any]) -> Entry:
    values = dict(values)
    if values.pop("type") == "answer":
        return Answer(**values)
    attachments = tuple(Attachment(**attachment) for attachment in values.pop("attachments"))
    return Question(**values, attachments=attachments)


def redacted(chat: Chat, conversation: Conversation) -> tuple[Chat, Conversation, list[Finding]]:
    """Return a copy without personal data in its texts, and what was found. Best effort.

    Every text is redacted by itself, with one numbering: in JSON, an escaped newline would hide
    what follows it.
    """
    redactor = Redactor()
    redact = redactor.redact

    def without(entry: Entry) -> Entry:
        if isinstance(entry, Answer):
            return replace(entry, text=redact(entry.text))
        attachments = tuple(
            replace(attachment, name=redact(attachment.name), text=redact(attachment.text))
            for attachment in entry.attachments
        )
        return replace(entry, text=redact(entry.text), attachments=attachments)

    facts = replace(
        chat,
        title=redact(chat.title),
        system=redact(chat.system),
        persona=redact(chat.persona),
    )
    entries = [without(entry) for entry in conversation.entries()]
    return facts, Conversation(entries, conversation.head), redactor.findings


def export_path(typed: str, exports: Path | None = None) -> Path:
    """Return where an export called `typed` goes. `~` is the home folder.

    `exports` is set in private mode: a relative path is below it, and PrivacyError is raised for
    one that leads elsewhere. Raises InputError for an empty name.
    """
    if not typed.strip():
        raise InputError("no file was named", hint="/export chat.md, or chat.json for everything")
    path = as_path(typed)
    if exports is None:
        return path
    path = exports / path
    if not path.resolve().is_relative_to(exports.resolve()):
        raise PrivacyError(
            f"{clean_line(str(path))} cannot be written: in private mode exports go to {exports}",
            hint="give a name without a folder",
        )
    make_folder(exports)
    return path


def write_export(path: Path, text: str, *, replace: bool = False) -> None:
    """Write an export, readable by its owner only: all of it or nothing.

    Raises InputError if the folder is not there, or the file is and `replace` is false; GateError
    if the disk is full.
    """
    shown = clean_line(str(path))
    if path.is_dir():
        raise InputError(f"{shown} is a folder", hint="add a name for the file")
    if not path.parent.is_dir():
        raise InputError(
            f"the folder {clean_line(str(path.parent))} does not exist", hint="make it"
        )
    with disk_errors(path.parent):
        handle, temporary = tempfile.mkstemp(prefix=".export.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(text.encode("utf-8", "replace"))
                stream.flush()
                os.fsync(stream.fileno())
            _put_in_place(temporary, path, replace=replace)
        except FileExistsError as error:
            raise InputError(f"{shown} is there already", hint="choose another name") from error
        finally:
            Path(temporary).unlink(missing_ok=True)
        fsync_folder(path.parent)


def _put_in_place(temporary: str, path: Path, *, replace: bool) -> None:
    """Give `temporary` its name. Raises FileExistsError."""
    if not replace:
        try:
            os.link(temporary, path)  # unlike a rename, never over another file
            return
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if path.exists():
                raise FileExistsError(path) from None
    os.replace(temporary, path)
