"""Equal and similar records, against the similarity computed from the sets themselves."""

from __future__ import annotations

import random

import pytest

from edgekit.train.duplicates import BANDS, ROWS, NearDuplicates, _minima, content_hash


def words(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [f"w{generator.randrange(10_000)}" for _ in range(count)]


def similarity(one: list[str], other: list[str]) -> float:
    """Return the Jaccard similarity of the sets of three words in a row."""
    sets = [{tuple(ws[i : i + 3]) for i in range(len(ws) - 2)} for ws in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_case_spaces_and_punctuation_do_not_count() -> None:
    assert content_hash("A kettle, boiling.") == content_hash("a  KETTLE\nboiling")
    assert content_hash("ﬁne") == content_hash("fine")
    assert content_hash("a kettle") != content_hash("a kettles")
    assert content_hash("!!") != content_hash("??")


def test_minima_estimate_the_similarity() -> None:
    text = words(200, 1)
    for changed in (0, 2, 8, 30):
        other = list(text)
        for place in range(0, 200, 200 // changed) if changed else ():
            other[place] = "changed"
        estimate = float((_minima(" ".join(text)) == _minima(" ".join(other))).mean())
        assert estimate == pytest.approx(
            similarity(text, other), abs=4 * 0.5 / (BANDS * ROWS) ** 0.5
        )


def test_similar_records_are_found_and_others_are_not() -> None:
    found = NearDuplicates()
    texts = [words(100, seed) for seed in range(40)]
    assert [found.add(" ".join(text)) for text in texts] == [None] * 40
    for number, text in enumerate(texts[:20]):
        assert found.add(" ".join([*text, "and", "more"])) == number


def test_short_and_empty_texts_do_no_harm() -> None:
    found = NearDuplicates()
    assert [found.add(text) for text in ("", "a", "?", "", "a")] == [None, None, None, 0, 1]
