"""Examples: the tokens of a text, and what is to be said of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.heads.model import text_tokenizer
from edgekit.entities import Entity, tag_names
from edgekit.errors import InputError
from edgekit.train.configuration import TooLong
from edgekit.train.heads.examples import HeadEncoder
from edgekit.train.heads.records import Labelled, Pair, Tagged

FILE = Path("a.jsonl")
TAGS = tag_names(["PERSON"])


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_tags_of_tokens_are_those_of_their_characters(
    make_base: Callable[..., Path], family: str
) -> None:
    checkpoint = Checkpoint.open(make_base(family))
    encoder = HeadEncoder(checkpoint, TAGS, 64, "error")
    text = "it was Kalomi, really"
    (example,) = encoder.examples(Tagged(FILE, 1, text, (Entity(7, 13, "PERSON"),)))
    half = len(example.token_ids) // 2
    ids, numbers = example.token_ids[:half], example.token_ids[half:]
    assert example.learnt == (False,) * half + (True,) * half
    assert (numbers[0], numbers[-1]) == (encoder.unlearnt, encoder.unlearnt)
    tags = [TAGS[number] for number in numbers[1:-1]]
    inside = [place for place, tag in enumerate(tags, 1) if tag != "O"]
    assert tags[inside[0] - 1] == "B-PERSON"
    assert all(tags[place - 1] == "I-PERSON" for place in inside[1:])
    words = text_tokenizer(checkpoint).decode([ids[place] for place in inside])
    assert words.replace(" ", "") == "Kalomi"


def test_a_class_stands_behind_its_text(make_base: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(make_base("bert"))
    encoder = HeadEncoder(checkpoint, ["bad", "good"], 64, "error")
    (example,) = encoder.examples(Labelled(FILE, 1, "it was [SEP] lovely", "good"))
    *ids, answer = example.token_ids
    assert (answer, example.learnt[-2:], example.targets) == (1, (False, True), 1)
    end = text_tokenizer(checkpoint).token_to_id("[SEP]")
    assert [place for place, token in enumerate(ids) if token == end] == [len(ids) - 1]


def test_a_target_ends_with_the_token_that_ends_texts(make_base: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(make_base("t5"))
    tokenizer = text_tokenizer(checkpoint)
    (example,) = HeadEncoder(checkpoint, [], 64, "error").examples(Pair(FILE, 1, "one", "uno due"))
    target = example.token_ids[-example.targets :]
    assert target[-1] == checkpoint.config["eos_token_id"]
    assert target == tuple(tokenizer.encode("uno due").ids)


@pytest.mark.parametrize(("too_long", "lengths"), [("skip", []), ("cut", [8])])
def test_a_text_that_is_too_long(
    make_base: Callable[..., Path], too_long: TooLong, lengths: list[int]
) -> None:
    checkpoint = Checkpoint.open(make_base("bert"))
    record = Labelled(FILE, 7, "lovely " * 20, "good")
    found = HeadEncoder(checkpoint, ["bad", "good"], 8, too_long).examples(record)
    assert [len(example.token_ids) - 1 for example in found] == lengths
    end = text_tokenizer(checkpoint).token_to_id("[SEP]")
    assert all(example.token_ids[-2] == end for example in found)
    encoder = HeadEncoder(checkpoint, ["bad", "good"], 8, "error")
    with pytest.raises(InputError, match=r"a.jsonl, line 7: the text has 22 tokens, the window 8"):
        encoder.examples(record)
    assert len(encoder.examples(Labelled(FILE, 8, "lovely", "good"))) == 1
