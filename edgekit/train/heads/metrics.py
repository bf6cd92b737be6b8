"""How well a model with a head does: the field's own measures, each from a library that keeps it.

Accuracy and F1 from torchmetrics, entities from nervaluate, BLEU and chrF from sacrebleu, ROUGE
from rouge-score. Shares are from 0 to 1; BLEU and chrF from 0 to 100, as they are reported. It
knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from edgekit.entities import Entity
from edgekit.extras import need
from edgekit.train.answer_figures import figures

LOSS = "evaluation_loss"
PREFIX = "evaluation_"

NAMES = {
    "loss": "loss, nats",
    "accuracy": "accuracy",
    "macro_f1": "F1, mean over the classes",
    "precision": "precision, exact entities",
    "recall": "recall, exact entities",
    "f1": "F1, exact entities",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L, F1",
    "exact_match": "exact match",
}


def class_figures(truth: Sequence[int], said: Sequence[int], classes: int) -> dict[str, float]:
    """Return accuracy, and the F1 of a class as the mean over those that occur.

    `truth` and `said` are the numbers of classes, below `classes`. Raises MissingExtraError.
    """
    functional = need("torchmetrics.functional.classification", "train")
    import torch

    both = torch.tensor(said), torch.tensor(truth)
    accuracy = functional.multiclass_accuracy(*both, num_classes=classes, average="micro")
    f1 = functional.multiclass_f1_score(*both, num_classes=classes, average="macro")
    return {"accuracy": float(accuracy), "macro_f1": float(f1)}


def entity_figures(
    truth: Sequence[Sequence[Entity]], said: Sequence[Sequence[Entity]], labels: Sequence[str]
) -> dict[str, float]:
    """Return precision, recall and F1 of entities: right are those with the true label, beginning
    and end (the strict scheme of SemEval-2013, task 9.1). Raises MissingExtraError."""
    evaluator = need("nervaluate", "train").Evaluator(
        *([[_plain(e) for e in entities] for entities in side] for side in (truth, said)),
        tags=list(labels),
        loader="dict",
    )
    strict = evaluator.evaluate()["overall"]["strict"]
    return {
        "precision": float(strict.precision),
        "recall": float(strict.recall),
        "f1": float(strict.f1),
    }


def text_figures(truth: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    """Return BLEU, chrF and ROUGE-L as `answer_figures.figures` does, and the share of equal texts.

    Raises MissingExtraError.
    """
    found = figures(said, truth)
    equal = fmean(float(a.strip() == b.strip()) for a, b in zip(truth, said, strict=True))
    return {
        "bleu": found["bleu"],
        "chrf": found["chrf"],
        "rouge_l": found["rouge_l"] / 100,
        "exact_match": equal,
    }


def _plain(entity: Entity) -> dict[str, object]:
    # nervaluate counts the last place as a part of an entity
    return {"label": entity.label, "start": entity.start, "end": entity.end - 1}
