"""A configuration is strict: each mistake is one sentence with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.train.configuration import read_configuration

GOOD = """\
[model]
checkpoint = "tiny"

[data]
kind = "chat"
files = ["chats.jsonl"]

[train]
steps = 10
"""


def written(folder: Path, text: str) -> Path:
    (folder / "chats.jsonl").write_text("{}\n")
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_defaults_fit_the_method(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, GOOD))
    assert (found.method, found.learning_rate, found.evaluate.times) == ("full", 5e-5, 6)
    assert found.data.files == (tmp_path / "chats.jsonl",)
    found = read_configuration(written(tmp_path, GOOD + "learning_rate = 1\n[adapter]\nrank = 4\n"))
    assert (found.method, found.learning_rate, found.adapter.rank) == ("lora", 1, 4)
    found = read_configuration(written(tmp_path, GOOD + 'only = "norms"\n'))
    assert found.method == "norms"


def test_what_is_recorded_is_plain_and_complete(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, GOOD + "[adapter]\n")).to_dict()
    assert found["data"] == {
        "kind": "chat", "files": ["chats.jsonl"], "evaluation_share": 0.05, "too_long": "error",
    }  # fmt: skip
    assert found["train"]["learning_rate"] == 1e-3
    assert found["adapter"] == {"kind": "lora", "rank": 8}


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ("steps = 10", "steps = 1O", 9, "cannot be read as TOML"),
        ("[train]", "[trian]", 8, "unknown section 'trian'"),
        ("steps = 10", "stpes = 10", 9, r"unknown key in \[train\] 'stpes'"),
        ("steps = 10", "steps = 0", 9, r"\[train\] steps is 0, not a whole number from 1"),
        ("steps = 10", "steps = true", 9, r"\[train\] steps is True"),
        ("steps = 10", "minutes = -1", 9, r"\[train\] minutes is -1, not a number above 0"),
        ("steps = 10", "steps = 1\nclip = nan", 10, r"\[train\] clip is nan"),
        ("steps = 10", "steps = 1\nlearning_rate = 2", 10, "at most 1"),
        ("steps = 10", "", 8, "neither steps, epochs nor minutes"),
        ("steps = 10", 'steps = 1\nonly = "norms"\n[adapter]', 10, "cannot go with"),
        ('kind = "chat"', 'kind = "chats"', 5, r"unknown \[data\] kind 'chats'"),
        ('kind = "chat"', "", 4, r"\[data\] kind is missing"),
        ('["chats.jsonl"]', '"chats.jsonl"', 6, "not a list of files"),
        ('["chats.jsonl"]', "[]", 6, "not a list of files"),
        ("chats.jsonl", "absent.jsonl", 6, "absent.jsonl, which is not a file"),
        ("chats.jsonl", "x" * 5000, 6, "x, which is not a file"),
        ("chats.jsonl", "~no-such-user/x", 6, "~no-such-user/x, which is not a file"),
        ('["chats.jsonl"]', '["chats.jsonl", "chats.jsonl"]', 6, "names a file twice"),
        ('"tiny"', "3", 2, r"\[model\] checkpoint is 3, not a text"),
        ('[model]\ncheckpoint = "tiny"', "model = 3", 1, r"model is 3, not a section \[model\]"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, line: int, why: str) -> None:
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(InputError, match=why) as caught:
        read_configuration(path)
    assert str(path) in caught.value.message
    assert f"line {line}" in caught.value.message


def test_a_near_name_is_offered(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("steps", "stepps"))
    with pytest.raises(InputError) as caught:
        read_configuration(path)
    assert caught.value.hint.startswith("did you mean steps?")


def test_a_missing_section_or_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the section \[model\] is missing"):
        read_configuration(written(tmp_path, GOOD.replace('[model]\ncheckpoint = "tiny"', "")))
    with pytest.raises(InputError, match="there is no file"):
        read_configuration(tmp_path / "other.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_configuration(tmp_path / "bytes.toml")


def test_answers_are_for_chats(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, GOOD))
    assert (found.evaluate.answers, found.evaluate.answer_tokens) == (0, 128)
    text = GOOD + "[evaluate]\nanswers = 50\nanswer_tokens = 32\n"
    found = read_configuration(written(tmp_path, text))
    assert (found.evaluate.answers, found.evaluate.answer_tokens) == (50, 32)
    assert found.to_dict()["evaluate"] == {"times": 6, "answers": 50, "answer_tokens": 32}
    with pytest.raises(InputError, match=r"line 11: \[evaluate\] answers asks for answers"):
        read_configuration(written(tmp_path, text.replace('"chat"', '"text"')))
    with pytest.raises(InputError, match=r"line 12: \[evaluate\] answer_tokens is 0"):
        read_configuration(written(tmp_path, text.replace("= 32", "= 0")))
