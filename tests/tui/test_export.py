from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from edgekit.errors import GateError, InputError, PrivacyError
from runtimes.base import Sampling
from tui.conversation import Answer, Attachment, Chat, Conversation, Question
from tui.export import (
    export_path,
    export_text,
    from_json,
    redacted,
    to_json,
    to_markdown,
    write_export,
)

CHAT = Chat(
    "c" * 32, "About <b>eggs</b>", 0.0, 60.0, None, "Be brief.\nAnd kind.", "cook", "tiny",
    Sampling(temperature=0.5, stop=("a", "b"), seed=7),
)  # fmt: skip


def conversation() -> Conversation:
    """A question in two wordings; the first with two answers, one of them being read."""
    return Conversation(
        [
            Question("q1", None, "first", (Attachment("n.txt", "a ``` b", 3),), 1.0),
            Answer("a1", "q1", "one", "stop", "tiny", 2, 0.5, 20.0, 2.0),
            Answer("a2", "q1", "```python\nx = 1", "interrupted", "", 3, None, None, 3.0),
            Question("q2", None, "other words \ud800 \u2028 \x00", (), 4.0),
            Question("q3", "a2", "second", (), 5.0),
        ],
        "q3",
    )


def test_json_holds_everything_and_reads_back() -> None:
    text = to_json(CHAT, conversation())
    chat, again = from_json(text)
    assert chat == Chat(**{**{f: getattr(CHAT, f) for f in CHAT.__slots__}, "head": "q3"})
    assert again.entries() == conversation().entries()
    assert again.turns() == conversation().turns()
    assert to_json(chat, again) == text


def test_the_keys_of_the_json_are_a_contract() -> None:
    document = json.loads(to_json(CHAT, conversation()))
    assert list(document) == [
        "schema", "kind", "id", "title", "made_at", "changed_at", "head", "system", "persona",
        "model", "sampling", "entries",
    ]  # fmt: skip
    assert (document["schema"], document["kind"]) == (1, "edgekit chat")
    question, answer = document["entries"][:2]
    assert list(question) == ["type", "id", "parent", "text", "attachments", "at"]
    assert list(answer) == [
        "type", "id", "parent", "text", "ending", "model", "tokens", "first_token_s",
        "decode_tokens_per_s", "at",
    ]  # fmt: skip
    assert question["attachments"] == [{"name": "n.txt", "text": "a ``` b", "tokens": 3}]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "1", '{"kind": "edgekit chat", "schema": 2}', "[" * 100_000,
     '{"kind": "edgekit chat", "schema": 1, "entries": [{"type": "answer", "x": 1}]}',
     '{"kind": "edgekit chat", "schema": 1, "entries": [{}]}'],
)  # fmt: skip
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not an export of a chat"):
        from_json(text)


def test_markdown_is_the_branch_that_is_read() -> None:
    assert to_markdown(CHAT, conversation()) == (
        "# About <b>eggs</b>\n\n"
        "- begun 1970-01-01 00:00 UTC\n- model: tiny\n- persona: cook\n"
        "- 2 other branches of this chat are not in this file; a JSON export holds everything\n"
        "- system prompt:\n\n  > Be brief.\n  > And kind.\n\n"
        "## You\n\nn.txt:\n````\na ``` b\n````\n\nfirst\n\n"
        "## Model\n\n```python\nx = 1\n```\n\n"
        f"*{Answer('', '', 'x').note()}*\n\n"
        "## You\n\nsecond\n\n*not answered*\n"
    )


def test_an_empty_chat_is_a_title() -> None:
    assert to_markdown(Chat("x", made_at=0.0), Conversation()) == (
        "# Untitled\n\n- begun 1970-01-01 00:00 UTC\n"
    )


def test_the_name_chooses_the_form() -> None:
    for name, start in (("a.json", "{"), ("a.JSON", "{"), ("a.md", "#"), ("a", "#")):
        assert export_text(Path(name), CHAT, conversation()).startswith(start)


def test_redaction_reaches_every_text_with_one_numbering() -> None:
    mail = "ann@example.com"
    entries = [
        Question("q", None, f"{mail}\n07700900123", (Attachment(f"{mail} notes", f"x {mail}"),)),
        Answer("a", "q", f"bob@example.com and {mail}", "stop", at=9e9),
    ]
    chat = Chat("c", f"to {mail}", system=f"You are {mail}", persona=mail)
    facts, conversation, findings = redacted(chat, Conversation(entries, "a"))
    text = to_json(facts, conversation)
    assert "example" not in text
    assert "07700900123" not in text
    assert [(f.text, f.replacement, f.count) for f in findings] == [
        (mail, "[e-mail 1]", 7),
        ("07700900123", "[phone 1]", 1),
        ("bob@example.com", "[e-mail 2]", 1),
    ]
    assert chat.title == f"to {mail}"  # the chat itself stays


def test_an_export_is_whole_private_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "chat.md"
    write_export(path, "ä\ud800")
    assert path.read_bytes() == "ä?".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="is there already"):
        write_export(path, "b")
    assert path.read_text() == "ä?"
    write_export(path, "b", replace=True)
    assert path.read_text() == "b"
    assert os.listdir(tmp_path) == ["chat.md"]


def test_of_many_who_export_to_one_name_one_wins(tmp_path: Path) -> None:
    path, refused = tmp_path / "chat.md", list[str]()

    def export(number: int) -> None:
        try:
            write_export(path, f"{number}" * 1000)
        except InputError as error:
            refused.append(error.message)

    threads = [threading.Thread(target=export, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert len(set(path.read_text())) == 1
    assert os.listdir(tmp_path) == ["chat.md"]


def test_folders_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        write_export(tmp_path, "x")
    with pytest.raises(InputError, match="does not exist"):
        write_export(tmp_path / "no" / "chat.md", "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a small file system limit")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(GateError):
            write_export(tmp_path / "chat.md", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_paths_are_expanded(tmp_path: Path) -> None:
    assert export_path("~/chat.md") == Path.home() / "chat.md"
    assert export_path("'my chat.md'") == Path("my chat.md")
    with pytest.raises(InputError, match="no file was named"):
        export_path(" ")


def test_in_private_mode_exports_stay_in_their_folder(tmp_path: Path) -> None:
    exports = tmp_path / "exports"
    assert export_path("chat.md", exports) == exports / "chat.md"
    assert exports.is_dir()
    assert export_path(str(exports / "a.md"), exports) == exports / "a.md"
    (exports / "link").symlink_to(tmp_path)
    for typed in ("../a.md", "/tmp/a.md", "~/a.md", "link/a.md", "x/../../a.md"):
        with pytest.raises(PrivacyError, match="in private mode exports go to"):
            export_path(typed, exports)
