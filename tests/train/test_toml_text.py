"""Values put into a TOML text: what is said is right, and comments stay where they can."""

from __future__ import annotations

import random
import tomllib
from typing import Any

import pytest

from edgekit.train.toml_text import as_toml, with_values

TEXT = """\
# mine
[model]
checkpoint = "tiny"  # beside

[train]
steps = 10
  learning_rate = 1e-3 # a guess
[adapter]
[search.space]
"train.learning_rate" = {low = 1e-5, high = 1e-2}
learning_rate = 5
"""


def test_a_line_is_changed_and_the_others_stay() -> None:
    found = with_values(TEXT, {"train.learning_rate": 0.25, "adapter.rank": 16, "train.clip": 2.0})
    assert found == TEXT.replace("1e-3 # a", "0.25 # a").replace(
        "[adapter]\n", "[adapter]\nrank = 16\n"
    ).replace("[train]\n", "[train]\nclip = 2.0\n")


@pytest.mark.parametrize(
    "text",
    [
        'train = {steps = 10, only = "norms"}\n',
        'train.steps = 10\ntrain.only = "norms"\n',
        '[ train ]\n"steps" = 10\n\'only\' = "norms"',
        '["train"]\nsteps = 10\nonly = """norms"""\n',
        "[train]\nfiles = [\n[1],\n]\nsteps = 10\n",
        '[model]\nnote = """\n[train]\nsteps = 3\n"""\n[train]\nsteps = 10\n',
        "",
    ],
)
def test_however_it_is_written_it_says_what_was_wanted(text: str) -> None:
    wanted = tomllib.loads(text)
    wanted.setdefault("train", {})["steps"] = 7
    wanted["train"]["only"] = "a # \"b\" \\ 'c' \x7f \t ä 😀"
    found = with_values(text, {"train.steps": 7, "train.only": wanted["train"]["only"]})
    assert tomllib.loads(found) == wanted


def test_any_document_is_written_as_it_is_read() -> None:
    generator = random.Random(5)

    def value(depth: int) -> Any:
        plain = [
            generator.random() * 10.0 ** generator.randint(-320, 300), generator.randint(-9, 9),
            generator.random() < 0.5, "".join(chr(generator.randint(0, 0x2FF)) for _ in range(9)),
        ]  # fmt: skip
        if depth and generator.random() < 0.4:
            inner = [value(depth - 1) for _ in range(3)]
            return inner if generator.random() < 0.5 else {str(v)[:9]: v for v in inner}
        return generator.choice(plain)

    for _ in range(200):
        document = {"a b": value(0), "train": {"x": value(2), "y.z": value(2)}}
        assert repr(tomllib.loads(as_toml(document))) == repr(document)
