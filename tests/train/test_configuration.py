"""A configuration is strict: each mistake is one sentence with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.train.configuration import read_configuration
from edgekit.train.model_section import notes

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
        "personal_data": "report",
    }  # fmt: skip
    assert found["train"]["learning_rate"] == 1e-3
    assert found["adapter"] == {"kind": "lora", "rank": 8, "alpha": 16.0, "merge": True}


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
        ('kind = "chat"', 'kind = "chat"\npersonal_data = "no"', 6, "unknown .data. personal_data"),
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


METHODS = """freeze = ["layers.0-1", "embeddings"]
gradient_checkpointing = true
[adapter]
alpha = 4
layers = ["q_proj"]
merge = false
base = "nf4"
[teacher]
checkpoint = "larger"
weight = 0.25
temperature = 2
"""


def test_methods_are_read_and_decide_what_comes_out(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, GOOD + METHODS))
    assert found.train.freeze == ("layers.0-1", "embeddings")
    assert found.keeps_adapter
    plain = found.to_dict()
    assert plain["train"]["gradient_checkpointing"] is True
    assert plain["train"]["freeze"] == ("layers.0-1", "embeddings")
    assert plain["adapter"] == {
        "kind": "lora", "rank": 8, "alpha": 4.0, "layers": ("q_proj",), "merge": False,
        "base": "nf4",
    }  # fmt: skip
    assert plain["teacher"] == {"checkpoint": "larger", "weight": 0.25, "temperature": 2.0}


def test_preferences_have_rates_and_a_beta_of_their_own(tmp_path: Path) -> None:
    text = GOOD.replace('"chat"', '"preference"')
    found = read_configuration(written(tmp_path, text))
    assert (found.learning_rate, found.to_dict()["preference"]) == (1e-6, {"beta": 0.1})
    found = read_configuration(written(tmp_path, text + "[preference]\nbeta = 1\n[adapter]\n"))
    assert (found.learning_rate, found.to_dict()["preference"]) == (5e-5, {"beta": 1.0})


@pytest.mark.parametrize(
    ("more", "line", "why"),
    [
        ("[adapter]\nalpha = 0", 11, "alpha is 0, not a number above 0"),
        ("[adapter]\nlayers = []", 11, r"layers is \[\], not a list of texts"),
        ('[adapter]\nlayers = "q"', 11, "layers is 'q', not a list of texts"),
        ("[adapter]\nmerge = 1", 11, "merge is 1, not true or false"),
        ('[adapter]\nbase = "int8"', 11, r"unknown \[adapter\] base 'int8'"),
        ('freeze = "head"', 10, "freeze is 'head', not a list of texts"),
        ('gradient_checkpointing = "yes"', 10, "'yes', not true or false"),
        ("[preference]\nbeta = 0.1", 10, r"goes only with \[data\] kind = \"preference\""),
        ("[teacher]\nweight = 0.5", 10, "checkpoint is missing"),
        ('[teacher]\ncheckpoint = "a"\nweight = 1.5', 12, "at most 1"),
        ('[teacher]\ncheckpoint = "a"\ntemperature = -1', 12, "number above 0"),
    ],
)
def test_a_mistake_in_a_method_is_named(tmp_path: Path, more: str, line: int, why: str) -> None:
    path = written(tmp_path, GOOD + more + "\n")
    with pytest.raises(InputError, match=why) as caught:
        read_configuration(path)
    assert f"{path}, line {line}: " in caught.value.message


def test_preferences_have_no_teacher_and_a_beta_above_0(tmp_path: Path) -> None:
    text = GOOD.replace('"chat"', '"preference"')
    with pytest.raises(InputError, match=r"line 10: \[teacher\] does not go with"):
        read_configuration(written(tmp_path, text + '[teacher]\ncheckpoint = "a"\n'))
    with pytest.raises(InputError, match=r"line 11: .*beta is 0, not a number above 0"):
        read_configuration(written(tmp_path, text + "[preference]\nbeta = 0\n"))


NEW = GOOD.replace('checkpoint = "tiny"', 'new = "llama"')


def test_a_new_model_has_sensible_numbers(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, NEW))
    model = found.model
    assert (model.layers, model.width, model.heads, model.key_value_heads) == (8, 256, 4, 4)
    assert (model.feed_forward, model.context, model.licence) == (768, 512, None)
    assert (found.tokenizer.vocabulary, found.learning_rate) == (8192, 1e-3)
    assert notes(model) == []
    wide = read_configuration(written(tmp_path, NEW.replace('"llama"', '"llama"\nwidth = 400')))
    assert (wide.model.heads, wide.model.feed_forward) == (5, 1280)
    said = found.to_dict()
    assert said["model"]["heads"] == 4
    assert said["tokenizer"] == {"vocabulary": 8192}
    old = read_configuration(written(tmp_path, GOOD))
    assert (old.tokenizer, old.to_dict()["model"]) == (None, {"checkpoint": "tiny"})


@pytest.mark.parametrize(
    ("added", "line", "why"),
    [
        ('checkpoint = "tiny"', 2, r"\[model\] new cannot go with checkpoint"),
        ("width = 96\nheads = 4", 4, "heads does not fit: 4 heads cannot share a width of 96"),
        ("width = 136", 3, "width does not fit: 1 heads cannot share a width of 136"),
        ("heads = 4\nkey_value_heads = 3", 4, "4 heads cannot share 3 key-value heads"),
        ("heads = 4\nkey_value_heads = 8", 4, "not a whole number from 1 to 4"),
        ("layers = 0", 3, "layers is 0, not a whole number from 1"),
        ('licence = "mit\\n---"', 3, "not an SPDX name"),
        ("[adapter]", 3, r"\[adapter\] cannot go with \[model\] new"),
        ("[tokenizer]\nvocabulary = 200", 4, "not a whole number from 300"),
        ('[tokenizer]\nvocabulary = 999\ncheckpoint = "x"', 4, "vocabulary cannot go with"),
    ],
)
def test_a_mistake_in_a_new_model_is_named(tmp_path: Path, added: str, line: int, why: str) -> None:
    path = written(tmp_path, NEW.replace('"llama"', f'"llama"\n{added}'))
    with pytest.raises(InputError, match=why) as caught:
        read_configuration(path)
    assert f"line {line}:" in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"llama"', '"lama"', r"unknown \[model\] new 'lama'"),
        ("steps = 10", 'steps = 1\nonly = "norms"', "only cannot go with .model. new"),
        ('new = "llama"', 'checkpoint = "tiny"\nwidth = 64', "width is of a new model"),
        (
            'new = "llama"',
            'checkpoint = "tiny"\n[tokenizer]\nvocabulary = 999',
            "its own tokenizer",
        ),
    ],
)
def test_what_goes_with_no_model_is_named(tmp_path: Path, old: str, new: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_configuration(written(tmp_path, NEW.replace(old, new)))


def test_widths_that_forbid_types_are_told(tmp_path: Path) -> None:
    text = NEW.replace('"llama"', '"llama"\nwidth = 96\nheads = 3\nfeed_forward = 100')
    model = read_configuration(written(tmp_path, text)).model
    assert [note.split(":")[0] for note in notes(model)] == [
        "[model] width is 96, not a multiple of 256",
        "[model] feed_forward is 100, not a multiple of 32",
    ]


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
