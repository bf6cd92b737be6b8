"""The model card of a trained checkpoint: what it was made from, by what, and how well it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgekit.train.answer_figures import rows
from edgekit.train.answers import shown


def card(name: str, parent: str, licence: str, how: Mapping[str, Any], configuration: str) -> bytes:
    """Return README.md of the checkpoint `name`.

    `how` is the record of the stage, `configuration` the text of the file that it was made by.
    """
    data, before, after = how["data"], how["before"], how["after"]
    method = how["method"] + (f", rank {how['rank']}" if "rank" in how else "")
    lines = [
        "---",
        *([] if licence == "unknown" else [f"license: {licence}"]),
        f"base_model: {json.dumps(parent)}",
        "---",
        "",
        f"# {name}",
        "",
        f"Trained from {parent} by edgekit ({method}): {how['steps']} steps, "
        f"{how['tokens']} tokens. The weights are those of step {how['best_step']}, "
        "which did best on the held-out records.",
        "",
        "| held-out records | before | after |",
        "|---|---|---|",
        f"| loss, nats a token | {before['loss']:.4f} | {after['loss']:.4f} |",
        f"| perplexity | {before['perplexity']:.3f} | {after['perplexity']:.3f} |",
        *(f"| {name} | {old} | {new} |" for name, old, new in rows(before, after)),
        "",
        f"The figures are over {data['evaluation_targets']} tokens of "
        f"{data['evaluation_records']} records that took no part in training. The curve is in "
        "`training.png`, its figures are in `training.jsonl`.",
        "",
        *_answers(how),
        "## Data",
        "",
        f"- {', '.join(data['files'])}: {data['training_records']} records to learn from, "
        f"{data['training_targets']} tokens of them",
        f"- SHA-256 over the files' hashes: `{data['digest']}`",
        f"- the same words as an earlier record: {data['duplicates']}; "
        f"similar to one: {data['near_duplicates']}, {data['straddling']} of them across the split",
        *(["", f"Training stopped early: {how['stopped']}."] if how["stopped"] else []),
        "",
        "## Configuration",
        "",
        "```toml",
        configuration.strip("\n"),
        "```",
    ]
    return ("\n".join(lines) + "\n").encode()


def _answers(how: Mapping[str, Any]) -> list[str]:
    """Return a few answers before and after, as a table; nothing where none were asked for."""
    if not how.get("examples"):
        return []
    keys = ("asked", "reference", "before", "after")
    return [
        f"Exact match to ROUGE-L are over {how['after']['answers']['asked']} answers, from 0 to "
        "100; some of them:",
        "",
        "| question | wanted | before | after |",
        "|---|---|---|---|",
        *(
            "| " + " | ".join(shown(example, key) for key in keys) + " |"
            for example in how["examples"]
        ),
        "",
    ]
