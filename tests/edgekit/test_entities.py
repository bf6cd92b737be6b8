"""Entities and their tags: what goes in comes out, and odd tags are read as by conlleval."""

from __future__ import annotations

import pytest

from edgekit.entities import Entity, spans_of, tag_names, tags_of, trimmed

TEXT = "Ms Ann Lee met Bo in Rio"
#       0  3   7   11  15 18 21
WORDS = [(0, 2), (3, 6), (7, 10), (11, 14), (15, 17), (18, 20), (21, 24)]


def test_tags_stand_for_entities_and_back() -> None:
    entities = (Entity(3, 10, "PERSON"), Entity(15, 17, "PERSON"), Entity(21, 24, "PLACE"))
    tags = tags_of([(0, 0), *WORDS, (0, 0)], TEXT, entities)
    assert tags == ["O", "O", "B-PERSON", "I-PERSON", "O", "B-PERSON", "O", "B-PLACE", "O"]
    assert spans_of(tags) == [Entity(2, 4, "PERSON"), Entity(5, 6, "PERSON"), Entity(7, 8, "PLACE")]


def test_neighbours_with_one_label_stay_two() -> None:
    tags = tags_of(WORDS, TEXT, (Entity(3, 6, "A"), Entity(7, 10, "A")))
    assert tags[1:3] == ["B-A", "B-A"]
    assert [(e.start, e.end) for e in spans_of(tags)] == [(1, 2), (2, 3)]


def test_a_token_that_has_a_character_of_an_entity_is_a_part_of_it() -> None:
    assert tags_of([(0, 2), (2, 6), (6, 24)], TEXT, (Entity(4, 5, "X"),)) == ["O", "B-X", "O"]
    # the space in front of a token of a byte-level tokenizer is no part of it
    assert tags_of([(2, 6), (6, 10)], TEXT, (Entity(6, 7, "X"),)) == ["O", "O"]
    assert trimmed(TEXT, 2, 6) == (3, 6)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (["I-A", "I-A"], [(0, 2, "A")]),
        (["B-A", "I-B"], [(0, 1, "A"), (1, 2, "B")]),
        (["O", "I-A", "O", "I-A"], [(1, 2, "A"), (3, 4, "A")]),
        (["PER", "PER", "O"], [(0, 2, "PER")]),
        (["B-A-B", "I-A-B"], [(0, 2, "A-B")]),
        ([], []),
    ],
)
def test_odd_tags_are_read_all_the_same(tags: list[str], found: list[tuple[int, int, str]]) -> None:
    assert [(e.start, e.end, e.label) for e in spans_of(tags)] == found


def test_the_names_of_tags() -> None:
    assert tag_names(["A", "B"]) == ["O", "B-A", "I-A", "B-B", "I-B"]
