"""The model card of a checkpoint with a head: what it says, how well, and what it learnt from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgekit.task import IN_WORDS, TaskKind
from edgekit.train.card import origin
from edgekit.train.figures import rows

SHOWN_LABELS = 40


def head_card(
    name: str, parent: str, licence: str, how: Mapping[str, Any], configuration: str
) -> bytes:
    """Return README.md of the checkpoint `name`.

    `how` is the record of the stage, `configuration` the text of the file that it was made by.
    """
    data = how["data"]
    kind: TaskKind = how["kind"]
    lines = [
        "---",
        *([] if licence == "unknown" else [f"license: {licence}"]),
        f"base_model: {json.dumps(parent)}",
        "---",
        "",
        f"# {name}",
        "",
        f"It {IN_WORDS[kind]}. Trained from {parent} by edgekit: {how['steps']} steps, "
        f"{how['tokens']} tokens. The weights are those of step {how['best_step']}, "
        "which had the smallest loss on the held-out records.",
        *_labels(how["labels"]),
        "",
        "| held-out records | before | after |",
        "|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows(how)),
        "",
        f"The figures are over {data['evaluation_records']} records that took no part in "
        "training. The curve is in `training.png`, its figures are in `training.jsonl`.",
        "",
        *origin(how, configuration),
    ]
    return ("\n".join(lines) + "\n").encode()


def _labels(labels: list[str]) -> list[str]:
    if not labels:
        return []
    shown = ", ".join(f"`{label}`" for label in labels[:SHOWN_LABELS])
    more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    return ["", f"Its outputs are {shown}{more}."]
