"""Parquet: the same records as lines of JSON, and what is wrong is one sentence with its row."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from converters.checkpoint import Checkpoint
from edgekit.errors import InputError, MissingExtraError
from edgekit.progress import NoProgress
from edgekit.train import parquet, records
from edgekit.train.configuration import DataSection
from edgekit.train.dataset import DataSet, read_data
from edgekit.train.examples import ChatEncoder, Encoder, TextEncoder
from edgekit.train.records import read_chats, read_texts

STRING = pa.string()
CHAT = pa.list_(pa.struct([("role", STRING), ("content", STRING)]))


def message(role: str | None, content: str | None) -> dict[str, str | None]:
    return {"role": role, "content": content}


def chats(count: int) -> list[list[dict[str, str | None]]]:
    found = []
    for number in range(count):
        asked = message("user", f"wie viel ist {number} mal 2? ü" * (1 + number % 3))
        turns = [asked, message("assistant", f"es ist {2 * number}")]
        found.append([message("system", ""), *turns] if number % 4 == 0 else turns * 2)
    return found


def written(file: Path, name: str, values: list[Any], kind: Any, **options: Any) -> Path:
    pq.write_table(pa.table({name: pa.array(values, kind)}), file, **options)
    return file


def read(checkpoint: Checkpoint, file: Path, name: str, folder: Path) -> DataSet:
    chat = name == "messages"
    encoder: Encoder = (
        ChatEncoder(checkpoint, 512, "error") if chat else TextEncoder(checkpoint, 20, None)
    )
    section = DataSection("chat" if chat else "text", (file,), evaluation_share=0.3)
    return read_data(section, encoder, 640, folder / "kept", NoProgress())


@pytest.mark.parametrize(("name", "folded"), [("messages", 0), ("text", 0), ("text", 1 << 20)])
def test_the_data_set_is_that_of_the_same_lines(
    tiny_checkpoint: Path, tmp_path: Path, name: str, folded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "FOLDED_BYTES", folded)
    monkeypatch.setattr(parquet, "BATCH_ROWS", 7)  # so that batches and row groups have ends
    values: list[Any] = chats(60)
    if name == "text":
        values = [f"{n} Kessel kochen bei {n} Grad.\n" * (n % 5 + 1) for n in range(60)] + ["x"]
    kind = CHAT if name == "messages" else STRING
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({name: value}) + "\n" for value in values))
    rows = written(tmp_path / "a.parquet", name, values, kind, row_group_size=25)
    checkpoint = Checkpoint.open(tiny_checkpoint)
    one, other = (read(checkpoint, file, name, tmp_path) for file in (lines, rows))
    for left, right in ((one.training, other.training), (one.evaluation, other.evaluation)):
        assert left.stored.tobytes() == right.stored.tobytes()
        for column in ("lengths", "targets", "starts", "places", "records"):
            assert getattr(left, column) == getattr(right, column)
    assert one.training.records > 10
    assert other.training.named(range(20)).startswith("a.parquet rows ")
    said = one.report.first_duplicate.replace("jsonl", "parquet").replace(", line ", ", row ")
    assert other.report == replace(one.report, first_duplicate=said)


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_list(pa.struct([("content", pa.large_string()), ("role", STRING)])),
        pa.list_(pa.struct([("role", pa.dictionary(pa.int8(), STRING)), ("content", STRING)])),
    ],
)
@pytest.mark.parametrize("options", [{}, {"use_compliant_nested_type": False}, {"version": "1.0"}])
def test_other_writers_types_are_read(tmp_path: Path, kind: Any, options: dict[str, Any]) -> None:
    values = chats(9)
    if "dictionary" in str(kind):
        roles = pa.array([m["role"] for c in values for m in c]).dictionary_encode()
        said = pa.array([m["content"] for c in values for m in c])
        ends = [0]
        for chat in values:
            ends.append(ends[-1] + len(chat))
        structs = pa.StructArray.from_arrays([roles, said], ["role", "content"])
        array = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs)
    else:
        array = pa.array(values, kind)
    pq.write_table(pa.table({"id": range(9), "messages": array}), tmp_path / "a.parquet", **options)
    found = list(read_chats(tmp_path / "a.parquet"))
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in values))
    assert [r.content for r in found] == [r.content for r in read_chats(lines)]


@pytest.mark.parametrize(
    ("chat", "why"),
    [
        (None, "'messages' is missing"),
        ([], r"'messages' is \[\]"),
        ([None], "message 1 is None, not an object"),
        ([message("bot", "x")], "message 1: 'role' is 'bot'"),
        ([message("user", "x"), message("assistant", None)], "message 2: 'content' is missing"),
        ([message("user", "x")], "no message is the assistant's"),
    ],
)
def test_a_bad_chat_is_named_by_its_row(tmp_path: Path, chat: Any, why: str) -> None:
    values = [*chats(16), chat, *chats(3)]
    file = written(tmp_path / "a.parquet", "messages", values, CHAT, row_group_size=5)
    with pytest.raises(InputError, match=why) as caught:
        list(read_chats(file))
    assert f"{file}, row 17" in caught.value.message


def test_a_bad_text_is_named_by_its_row(tmp_path: Path) -> None:
    for value, why in ((None, "'text' is missing"), (" ", "'text' is ' '")):
        file = written(tmp_path / "a.parquet", "text", ["x", value], STRING)
        with pytest.raises(InputError, match=f"row 2: {why}"):
            list(read_texts(file))
    bad = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(STRING)
    pq.write_table(pa.table({"text": bad}), file)
    with pytest.raises(InputError, match="row 2 is not UTF-8"):
        list(read_texts(file))


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"word": ["x"]}, "has no column 'text'"),
        ({"text": [1]}, "the column 'text' is int64, not of strings"),
        ({"text": [["x"]]}, "is list<element: string>, not of strings"),
    ],
)
def test_a_column_of_another_type_is_told(tmp_path: Path, table: Any, why: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=why) as caught:
        list(read_texts(tmp_path / "a.parquet"))
    assert str(tmp_path / "a.parquet") in caught.value.message


@pytest.mark.parametrize(
    "values",
    [["a chat"], [[{"role": "user", "content": 1}]], [[{"role": "user"}]],
     [[{"role": "user", "content": "x", "tool": "y"}]], [["x"]]],
)  # fmt: skip
def test_messages_of_another_type_are_told(tmp_path: Path, values: Any) -> None:
    pq.write_table(pa.table({"messages": values}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"'messages' is .*, not of lists of structs"):
        list(read_chats(tmp_path / "a.parquet"))


def test_a_row_that_unfolds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 1000)
    file = written(tmp_path / "a.parquet", "text", ["x", "y" * 1001], STRING)
    with pytest.raises(InputError, match="row 2 has more than 1000 bytes"):
        list(read_texts(file))
    written(file, "messages", [[message("user", "")] * 100], CHAT)
    with pytest.raises(InputError, match="row 1 has more than 1000 bytes"):
        list(read_chats(file))


def test_without_the_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "a.parquet", "text", ["x"], STRING)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pyarrow") as caught:
        list(read_texts(file))
    assert caught.value.hint == "pip install 'edgekit[train]'"


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    values = [f"a text of {n} words" * (n % 7) + "." for n in range(300)]
    whole = written(tmp_path / "a.parquet", "text", values, STRING, row_group_size=64).read_bytes()
    file, generator, said = tmp_path / "b.parquet", random.Random(5), []
    for content in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-9] + whole[-8:]):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"b\.parquet cannot be read as Parquet"):
            list(read_texts(file))
    for _ in range(80):
        broken = bytearray(whole)
        for _ in range(3):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        file.write_bytes(broken)
        try:
            list(read_texts(file))
        except InputError as error:
            said.append(error.message)
    assert len(said) > 40
    assert not [message for message in said if "\n" in message]
