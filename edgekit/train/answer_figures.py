"""Figures of answers: how close texts are to the answers that were wanted.

All are from 0 to 100, higher is better. It knows texts alone, no model.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from edgekit.extras import need

KEY = "answers"  # of all these in a record
NAMES = {
    "exact_match": "exact match, %",
    "f1": "F1 of words",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
}
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W_]+")


class _Words:
    """rouge-score's own words, but of every script: its default knows only a to z and digits."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def require_figures() -> None:
    """Raise MissingExtraError unless the libraries are installed: told before long work."""
    need("sacrebleu", "train")
    need("rouge_score.rouge_scorer", "train")


def figures(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the figures of `answers`, one for each of `references`, by the keys of `NAMES`.

    Exact match and F1 as SQuAD 1.1 defines them (Rajpurkar et al. 2016, arXiv 1606.05250), mean
    over the answers. BLEU (Papineni et al. 2002) and chrF2 (Popović 2015) over all answers as
    one corpus, by sacrebleu with its defaults. ROUGE-L (Lin 2004), mean F-measure, by
    rouge-score. There must be at least one answer. Raises MissingExtraError.
    """
    sacrebleu = need("sacrebleu", "train")
    scorer = need("rouge_score.rouge_scorer", "train").RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = list(zip(answers, references, strict=True))
    return {
        "exact_match": 100 * fmean(is_exact(answer, wanted) for answer, wanted in pairs),
        "f1": 100 * fmean(word_f1(answer, wanted) for answer, wanted in pairs),
        "bleu": float(sacrebleu.corpus_bleu(answers, [references]).score),
        "chrf": float(sacrebleu.corpus_chrf(answers, [references]).score),
        "rouge_l": 100 * fmean(scorer.score(w, a)["rougeL"].fmeasure for a, w in pairs),
    }


def normalised(text: str) -> str:
    """Return `text` as SQuAD's evaluation compares it.

    In lower case, without ASCII punctuation and English articles, one space between words.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def is_exact(answer: str, reference: str) -> bool:
    """Return whether both are the same but for case, spaces, punctuation and articles."""
    return normalised(answer) == normalised(reference)


def word_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean, 0 to 1, of the shares of words that both have in common."""
    said, wanted = normalised(answer).split(), normalised(reference).split()
    if not said or not wanted:
        return float(said == wanted)
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted))


def rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a name and two values for each figure of two stages, for people; none without."""
    if KEY not in before:
        return []
    old, new = before[KEY], after[KEY]
    return [(name, f"{old[key]:.1f}", f"{new[key]:.1f}") for key, name in NAMES.items()]
