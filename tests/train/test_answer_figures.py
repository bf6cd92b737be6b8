"""Figures of answers, against values worked out by hand and against other implementations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pytest

from edgekit.train.answer_figures import figures, is_exact, normalised, rows, word_f1

ANSWERS = ["The cat sat on the mat.", "exit code 4", "no", "It is a very long way home"]
WANTED = ["A cat sat on a mat", "Exit code 5.", "yes", "It is a long, long way to go home"]


def test_case_space_punctuation_and_articles_do_not_count() -> None:
    assert normalised("  The  `--dry-run`\tof AN answer! ") == "dryrun of answer"
    assert is_exact("Use edgekit  pull", "use EDGEKIT pull.")
    assert not is_exact("Use edgekit push", "Use edgekit pull.")
    assert not is_exact("than a", "than the n")  # an article is a whole word


def test_f1_counts_words_that_both_have_as_often_as_both_have_them() -> None:
    # said: it is very long way home; wanted: it is long long way to go home; common: 5
    assert word_f1(ANSWERS[3], WANTED[3]) == pytest.approx(2 * 5 / (6 + 8))
    assert word_f1("home home", "home") == pytest.approx(2 / 3)
    assert [word_f1("", ""), word_f1("the", "."), word_f1("", "x")] == [1, 1, 0]


def test_the_means_are_over_all_answers() -> None:
    found = figures(ANSWERS, WANTED)
    assert found["exact_match"] == 25
    assert found["f1"] == pytest.approx(100 * (1 + 4 / 6 + 0 + 10 / 14) / 4)


def test_equal_answers_have_full_marks_and_strange_ones_none() -> None:
    assert list(figures(WANTED, WANTED).values()) == pytest.approx([100] * 5)
    assert set(figures(["qqq zzz"] * 4, WANTED).values()) == {0}


def longest_common(left: Sequence[str], right: Sequence[str]) -> int:
    if not left or not right:
        return 0
    if left[-1] == right[-1]:
        return 1 + longest_common(left[:-1], right[:-1])
    return max(longest_common(left[:-1], right), longest_common(left, right[:-1]))


def test_rouge_l_is_the_longest_common_subsequence_of_words_in_any_script() -> None:
    pairs = [*zip(ANSWERS, WANTED, strict=True), ("выпей чаю да", "да выпей ещё чаю")]
    expected = []
    for answer, wanted in pairs:
        left, right = (re.findall(r"\w+", text.lower()) for text in (answer, wanted))
        expected.append(2 * longest_common(left, right) / (len(left) + len(right)))
    assert expected[-1] > 0
    found = figures(*map(list, zip(*pairs, strict=True)))
    assert found["rouge_l"] == pytest.approx(100 * sum(expected) / len(expected))


def test_chrf_is_the_f2_of_the_mean_precision_and_recall_of_character_grams() -> None:
    precisions, recalls = [], []
    for order in range(1, 7):
        same = said = wanted = 0
        for texts in zip(ANSWERS, WANTED, strict=True):
            left, right = (grams(text.replace(" ", ""), order) for text in texts)
            same += (left & right).total()
            said += left.total() if right else 0  # nothing is asked of what is shorter
            wanted += right.total()
        precisions.append(same / said)
        recalls.append(same / wanted)
    precision, recall = sum(precisions) / 6, sum(recalls) / 6
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert figures(ANSWERS, WANTED)["chrf"] == pytest.approx(expected)


def grams(text: str, order: int) -> Counter[str]:
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))


def test_the_rows_for_people_have_both_stages() -> None:
    before, after = ({"answers": figures(texts, WANTED)} for texts in (ANSWERS, WANTED))
    assert rows(before, after)[0] == ("exact match, %", "25.0", "100.0")
    assert rows({}, {}) == []


@pytest.mark.slow
def test_the_figures_are_those_of_other_libraries() -> None:
    """torchmetrics, for SQuAD's figures and for BLEU, which it computes itself."""
    from torchmetrics.functional.text import sacre_bleu_score, squad

    answers = [*ANSWERS, "Press Ctrl+R, then `Esc`!", "Record n. 3 is bad"]
    wanted = [*WANTED, "Press Ctrl+R then Esc.", "Record no. 3 is the bad one"]
    found = figures(answers, wanted)
    numbered = list(enumerate(zip(answers, wanted, strict=True)))
    theirs = squad(
        [{"prediction_text": answer, "id": str(n)} for n, (answer, _) in numbered],
        [{"answers": {"answer_start": [0], "text": [w]}, "id": str(n)} for n, (_, w) in numbered],
    )
    assert found["exact_match"] == pytest.approx(float(theirs["exact_match"]))
    assert found["f1"] == pytest.approx(float(theirs["f1"]))
    references = [[text] for text in wanted]
    assert found["bleu"] == pytest.approx(100 * float(sacre_bleu_score(answers, references)), 1e-4)
