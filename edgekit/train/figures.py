"""What the figures of a trained model are called, and how precisely they are shown.

It knows no models, and not how a figure is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.train import answer_figures
from edgekit.train.heads import metrics

Row = tuple[str, str, str]
"""A figure's name, its value before training, and after."""

PRECISION = 4
PRECISIONS = {"perplexity": 3}
NAMES = {
    "loss": "loss, nats a token",
    "accuracy": "accuracy of preference",
    "margin": "margin of reward",
    "divergence": "divergence from the teacher, nats",
}
PAIR_LOSS, MIXED_LOSS = "loss, nats a pair", "loss with the teacher's, nats a token"


def loss_name(configuration: Mapping[str, Any]) -> str:
    """Return what is called loss where `configuration`, plain JSON, says what is learnt."""
    if "teacher" in configuration:
        return MIXED_LOSS
    return PAIR_LOSS if "preference" in configuration else NAMES["loss"]


def plain(judged: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of the held-out records by their names in a record: `loss` and others."""
    start = "evaluation_"
    return {k.removeprefix(start): v for k, v in judged.items() if k.startswith(start)}


def rows(how: Mapping[str, Any]) -> list[Row]:
    """Return a row for each figure in `how`, the record of a stage."""
    before, after = how["before"], how["after"]
    is_headed = "labels" in how
    names = metrics.NAMES if is_headed else NAMES | {"loss": loss_name(how["configuration"])}
    found = [
        (
            names.get(key, key),
            *(f"{figures[key]:.{PRECISIONS.get(key, PRECISION)}f}" for figures in (before, after)),
        )
        for key in before
        if key != answer_figures.KEY
    ]
    return [*found, *answer_figures.rows(before, after)]
