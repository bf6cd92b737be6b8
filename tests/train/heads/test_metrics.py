"""The measures, against their formulas written anew."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from edgekit.entities import Entity
from edgekit.train.heads.metrics import class_figures, entity_figures, text_figures


def test_accuracy_and_f1() -> None:
    truth, said = [0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 2, 0, 2]
    by_class = []
    for kind in range(3):
        both = sum(t == s == kind for t, s in zip(truth, said, strict=True))
        by_class.append(2 * both / (truth.count(kind) + said.count(kind)))
    found = class_figures(truth, said, 3)
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["macro_f1"] == pytest.approx(sum(by_class) / 3)


def test_a_class_that_does_not_occur_counts_for_nothing() -> None:
    assert class_figures([0, 1], [0, 1], 5)["macro_f1"] == pytest.approx(1)


def test_an_entity_is_right_with_its_label_and_both_ends() -> None:
    truth = [[Entity(0, 2, "A"), Entity(4, 5, "B")], [Entity(1, 3, "A")], []]
    said = [[Entity(0, 2, "A"), Entity(4, 6, "B")], [Entity(1, 3, "B")], [Entity(0, 1, "A")]]
    found = entity_figures(truth, said, ["A", "B"])
    precision, recall = 1 / 4, 1 / 3
    assert found["precision"] == pytest.approx(precision)
    assert found["recall"] == pytest.approx(recall)
    assert found["f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_neighbours_are_no_overlap() -> None:
    found = entity_figures([[Entity(0, 2, "A"), Entity(2, 4, "A")]], [[Entity(2, 4, "A")]], ["A"])
    assert (found["precision"], found["recall"]) == (1, 0.5)


def test_texts() -> None:
    truth, said = ["the cat sat on the mat", "a dog ran off"], ["the cat sat on a mat", "a dog ran"]
    logs = []
    for size in range(1, 5):  # BLEU, Papineni et al. 2002
        matched = total = 0
        for wanted, got in zip(truth, said, strict=True):
            left, right = (
                Counter(tuple(t.split()[i : i + size]) for i in range(len(t.split()) - size + 1))
                for t in (wanted, got)
            )
            matched, total = matched + (left & right).total(), total + right.total()
        logs.append(math.log(matched / total))
    brevity = math.exp(1 - 10 / 9)
    found = text_figures(truth, said)
    assert found["bleu"] == pytest.approx(100 * brevity * math.exp(sum(logs) / 4))
    assert 0 < found["chrf"] < 100
    # the longest common subsequences have 5 of 6 and 6, and 3 of 4 and 3 words
    assert found["rouge_l"] == pytest.approx((5 / 6 + 6 / 7) / 2)
    assert found["exact_match"] == 0
    assert text_figures(truth, truth) == {
        "bleu": pytest.approx(100), "chrf": pytest.approx(100), "rouge_l": 1, "exact_match": 1,
    }  # fmt: skip
