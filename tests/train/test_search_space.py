"""The section [search]: strict, each mistake with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.train.configuration import parse_configuration, read_configuration
from edgekit.train.search_space import Choices, Parameter, Range, SearchSection, size

GOOD = """\
[model]
checkpoint = "tiny"
[data]
kind = "chat"
files = ["chats.jsonl"]
[train]
steps = 10
[search]
trials = 20
[search.space]
"train.learning_rate" = {low = 1e-5, high = 1e-2, log = true}
"train.batch_tokens" = {low = 512, high = 4096, step = 512}
"train.clip" = {choices = [0.5, 1, 2.0]}
"""
RATE = '"train.learning_rate" = {low = 1e-5, high = 1e-2, log = true}'


def written(folder: Path, text: str) -> Path:
    (folder / "chats.jsonl").write_text("{}\n")
    (folder / "run.toml").write_text(text)
    return folder / "run.toml"


def test_what_is_searched_over_is_read(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, GOOD))
    assert found.search == SearchSection(
        "tpe", 20, None, True,
        (
            Parameter("train.learning_rate", Range(1e-5, 1e-2, log=True)),
            Parameter("train.batch_tokens", Range(512, 4096, step=512)),
            Parameter("train.clip", Choices((0.5, 1, 2.0))),
        ),
    )  # fmt: skip
    domains = [parameter.domain for parameter in found.search.space]
    assert [d.whole for d in domains if isinstance(d, Range)] == [False, True]
    assert size(found.search.space) is None
    assert size(found.search.space[1:]) == 8 * 3


def test_a_dot_without_quotes_and_a_table_of_its_own_say_the_same(tmp_path: Path) -> None:
    found = read_configuration(written(tmp_path, GOOD)).search
    for new in (
        "train.learning_rate = {low = 1e-5, high = 1e-2, log = true}",
        "train = {learning_rate = {low = 1e-5, high = 1e-2, log = true}}",
    ):
        again = read_configuration(written(tmp_path, GOOD.replace(RATE, new))).search
        assert again == found


def test_the_run_does_not_depend_on_what_would_be_searched(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    without = parse_configuration(path, GOOD[: GOOD.index("[search]")])
    assert read_configuration(path).to_dict() == without.to_dict()


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ("trials = 20", "trails = 20", 9, r"unknown key in \[search\] 'trails'"),
        ("trials = 20", "trials = 0", 9, r"\[search\] trials is 0, not a whole"),
        ("trials = 20", 'trials = 2\nsampler = "tp"', 10, r"unknown \[search\] sampler 'tp'"),
        ("trials = 20", "trials = 2\npruner = 1", 10, "pruner is 1, not true or false"),
        ("trials = 20", "pruner = true", 8, "neither trials nor minutes"),
        ("trials = 20", 'sampler = "grid"', 11, "is a range, and a grid needs choices"),
        ("{low = 1e-5, high = 1e-2, log = true}", "3", 11, "learning_rate is 3, not {low"),
        ("low = 1e-5, ", "", 11, "has no low"),
        ("low = 1e-5", "lo = 1e-5", 11, "has the unknown key 'lo'"),
        ("low = 1e-5", 'low = "a"', 11, "has low = 'a', not a number"),
        ("low = 1e-5", "low = nan", 11, "has low = nan, not a number"),
        ("low = 1e-5", "low = true", 11, "has low = True, not a number"),
        ("low = 1e-5", "low = 0.5", 11, "which is not above it"),
        ("low = 1e-5", "low = 0", 11, "log = true with low = 0"),
        ("log = true", "log = 1", 11, "has log = 1, not true or false"),
        ("log = true", "log = true, step = 1e-5", 11, "log = true with a step"),
        ("high = 1e-2", "high = 2.0", 11, r"refused with 2.0: \[train\] learning_rate is 2.0, not"),
        ("low = 512, high", "low = 512.0, high", 12, r"refused with 512.0: \[train\] batch_tokens"),
        ("step = 512", "step = 500", 12, "in steps of 500, which do not lead to 4096"),
        ("step = 512", "step = -512", 12, "in steps of -512, which do not"),
        ("step = 512", "choices = [1]", 12, "choices, and a range beside them"),
        ("[0.5, 1, 2.0]", "[]", 13, "choices that are .., not a list of values"),
        ("[0.5, 1, 2.0]", "[0.5, [1]]", 13, "has the choice .1., not a number"),
        ("[0.5, 1, 2.0]", "[0.5, 1, 1.0]", 13, "has a choice twice"),
        ("[0.5, 1, 2.0]", "[0.5, 0]", 13, r"refused with 0: \[train\] clip is 0, not a number"),
        ("train.clip", "train.klip", 13, r"unknown key in \[train\] 'klip' did you mean clip"),
        ("train.clip", "trian.clip", 13, "unknown section 'trian' did you mean train"),
        ("train.clip", "clip", 13, "it is no section.key"),
        ("train.clip", "adapter.rank", 13, r"the file has no section \[adapter\]"),
        ("train.clip", "train.seed", 13, "cannot be searched over: all trials have the same"),
        ("train.clip", "data.context", 13, "could not be compared"),
        ("train.clip", "search.trials", 13, "it is the search itself"),
        (
            GOOD[GOOD.index('"train.l') :],
            "",
            8,
            r"\[search\] space is missing or empty: name a key",
        ),
        (
            GOOD[GOOD.index("[search.s") :],
            "",
            8,
            r"\[search\] space is missing or empty: name a key",
        ),
        (GOOD[GOOD.index("[search.s") :], "space = 3\n", 10, "space is 3, not a section"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, line: int, why: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(InputError, match=why) as caught:
        read_configuration(path)
    assert str(path) in caught.value.message
    assert f"line {line}" in caught.value.message
