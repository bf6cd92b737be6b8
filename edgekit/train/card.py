"""The model card of a trained checkpoint: what it was made from, by what, and how well it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgekit.train.answers import shown
from edgekit.train.figures import rows
from edgekit.train.personal_data import in_words

APART = [
    "This is an adapter alone, in PEFT's format: load it beside the model above, with "
    "`peft.PeftModel.from_pretrained(model, folder)`.",
    "",
]


def card(name: str, parent: str, licence: str, how: Mapping[str, Any], configuration: str) -> bytes:
    """Return README.md of the checkpoint `name`.

    `how` is the record of the stage, `configuration` the text of the file that it was made by.
    A model that began with random weights has no parent to name: `how` has its facts as "new".
    """
    data, new = how["data"], how.get("new")
    method = how["method"] + (f", rank {how['rank']}" if "rank" in how else "")
    lines = [
        "---",
        *([] if licence == "unknown" else [f"license: {licence}"]),
        *([f"base_model: {json.dumps(parent)}"] if new is None else []),
        "---",
        "",
        f"# {name}",
        "",
        f"Trained from {parent if new is None else 'random weights'} by edgekit ({method}): "
        f"{how['steps']} steps, "
        f"{how['tokens']} tokens. The weights are those of step {how['best_step']}, "
        "which did best on the held-out records.",
        "",
        *([] if new is None else [*_beginning(new), ""]),
        *(APART if how["configuration"].get("adapter", {}).get("merge") is False else []),
        "| held-out records | before | after |",
        "|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows(how)),
        "",
        f"The figures are over {data['evaluation_targets']} tokens of "
        f"{data['evaluation_records']} records that took no part in training. The curve is in "
        "`training.png`, its figures are in `training.jsonl`.",
        "",
        *_answers(how),
        *origin(how, configuration),
    ]
    return ("\n".join(lines) + "\n").encode()


def origin(how: Mapping[str, Any], configuration: str) -> list[str]:
    """Return the lines of a card on what a model learnt from, and by which configuration.

    `how` is the record of the stage, `configuration` the text of the file.
    """
    data = how["data"]
    tokens = "" if "labels" in how else f", {data['training_targets']} tokens of them"
    return [
        "## Data",
        "",
        f"- {', '.join(data['files'])}: {data['training_records']} records to learn from{tokens}",
        f"- SHA-256 over the files' hashes: `{data['digest']}`",
        f"- the same words as an earlier record: {data['duplicates']}; "
        f"similar to one: {data['near_duplicates']}, {data['straddling']} of them across the split",
        *_personal(how["configuration"]["data"], data["personal_data"]),
        *(["", f"Training stopped early: {how['stopped']}."] if how["stopped"] else []),
        "",
        "## Configuration",
        "",
        "```toml",
        configuration.strip("\n"),
        "```",
    ]


def _beginning(new: Mapping[str, Any]) -> list[str]:
    """Return a sentence on a model that began with random weights."""
    trained = new["tokenizer"] == "trained"
    tokenizer = "trained on the training records" if trained else f"that of {new['tokenizer']}"
    return [
        f"A new model of the family {new['family']} with {new['parameters']} weights. Its "
        f"tokenizer, of {new['tokens']} tokens, is {tokenizer}."
    ]


def _personal(section: Mapping[str, Any], found: dict[str, Any]) -> list[str]:
    """Return what is said of personal data: what was found, nothing, or that nobody looked."""
    if section["personal_data"] == "ignore":
        return ["- personal data was not looked for"]
    return [f"- personal data that was found: {'; '.join(in_words(found)) or 'none'}"]


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
