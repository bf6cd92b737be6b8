"""Records: read as a stream, and the first bad one is named by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import InputError
from edgekit.train import records
from edgekit.train.records import read_chats, read_texts

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


def test_chats_have_their_lines_and_end_with_the_assistant(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    chats = [[USER, ANSWER], [{"role": "system", "content": ""}, USER, ANSWER, USER]]
    lines = [json.dumps({"messages": chat, "source": "us"}) for chat in chats]
    file.write_text(f"{lines[0]}\n\n{lines[1]}")
    found = list(read_chats(file))
    assert [(r.line, len(r.content)) for r in found] == [(1, 2), (3, 3)]
    assert found[0].text == "user: hi\n\nassistant: ho"


def chat(*messages: Any) -> str:
    return json.dumps({"messages": messages})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "is not JSON"),
        ("[1]", r"is \[1\], not a JSON object"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "'messages' is missing"),
        ('{"messages": []}', r"'messages' is \[\]"),
        (chat(3), "message 1 is 3, not an object"),
        (chat(USER, {"role": "bot", "content": "x"}), "message 2: 'role' is 'bot', not one of"),
        (chat({"role": ["user"], "content": "x"}), "message 1: 'role' is"),
        (chat(USER, {"role": "assistant", "content": " "}), "message 2: 'content' is ' '"),
        (chat(USER, {"role": "assistant"}), "message 2: 'content' is missing"),
        (chat(USER, ANSWER | {"tool_calls": []}), "message 2 has the key 'tool_calls'"),
        (chat(USER), "no message is the assistant's"),
        (chat(ANSWER, USER, ANSWER), "answers before the user has asked"),
        (chat(USER, {"role": "assistant", "content": "\ud800"}), r"half a character \(\\ud800\)"),
    ],
)
def test_a_bad_chat_is_named_by_its_line(tmp_path: Path, line: str, why: str) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(f"{chat(USER, ANSWER)}\n{line}\n")
    with pytest.raises(InputError, match=why) as caught:
        list(read_chats(file))
    assert f"{file}, line 2" in caught.value.message


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(InputError, match="line 1 is not UTF-8"):
        list(read_texts(tmp_path / "a.jsonl"))
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n\xff\n")
    with pytest.raises(InputError, match="line 3 is not UTF-8"):
        list(read_texts(tmp_path / "a.txt"))


def test_a_huge_line_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 100)
    (tmp_path / "a.txt").write_text("short\n" + "x" * 101)
    with pytest.raises(InputError, match="line 2 has more than 100 bytes"):
        list(read_texts(tmp_path / "a.txt"))


def test_texts_come_a_line_each_or_in_passages(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one\\ntwo"}\n{"text": ""}\n')
    with pytest.raises(InputError, match="line 2: 'text' is ''"):
        list(read_texts(tmp_path / "a.jsonl"))
    paragraph = "A kettle boils at 100 degrees. " * 30 + "\n"  # 930 bytes
    (tmp_path / "a.txt").write_text("\n\n" + f"{paragraph}\n" * 7, encoding="utf-8")
    found = list(read_texts(tmp_path / "a.txt"))
    assert [r.line for r in found] == [3, 9, 15]
    assert found[0].text == f"{paragraph}\n{paragraph}\n{paragraph}"
    assert found[2].text == paragraph
