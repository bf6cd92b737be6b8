"""The model card: what a stranger needs to know of an artifact, in the form of the model hubs."""

from __future__ import annotations

import json
import re

from edgekit.artifact import Manifest
from edgekit.certificate import Certificate
from edgekit.units import format_bytes
from edgekit.workflows.certify.report import (
    KIND_HEADS,
    answers,
    kind_rows,
    made,
    markdown_table,
    plain,
    verdict,
)

MARK = "<!-- edgekit check writes this file; remove this line to keep your own words -->"
LIBRARIES = {"gguf": "gguf", "onnx": "onnx", "torch": "transformers"}
ELSEWHERE = {
    "gguf": "llama-cli -m {entry} -p 'How do I boil an egg?'   # or any program of llama.cpp",
    "onnx": "# or ONNX Runtime GenAI, with this folder as the model",
    "torch": "# or transformers, with this folder as the model",
}


def model_card(manifest: Manifest, certificate: Certificate) -> str:
    """Return README.md. Everything from outside is quoted or escaped."""
    return (
        "\n\n".join(
            [
                _front_matter(manifest),
                MARK,
                f"# {plain(manifest.name)}",
                _summary(manifest),
                "## How close it is",
                _closeness(certificate),
                markdown_table(KIND_HEADS, kind_rows(certificate)),
                *(f"- {name}: {words}" for name, words in answers(certificate)),
                "The whole report is in `report.html` and `report.md`.",
                "## How to run it",
                _commands(manifest),
                "## How it was made",
                markdown_table(("", ""), made(manifest)),
            ]
        )
        + "\n"
    )


def _front_matter(manifest: Manifest) -> str:
    licence = re.sub(r"[^A-Za-z0-9.+-]", "-", manifest.source.licence).lower() or "unknown"
    values = {
        "license": licence,
        "base_model": manifest.source.checkpoint,
        "library_name": LIBRARIES.get(manifest.format, manifest.format),
        "pipeline_tag": "text-generation",
        "tags": ["edgekit", manifest.format, manifest.scheme],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _summary(manifest: Manifest) -> str:
    return (
        f"{plain(manifest.source.checkpoint)} as {manifest.format} {plain(manifest.scheme)}: "
        f"{manifest.parameters / 1e6:.0f} million weights in "
        f"{format_bytes(manifest.total_bytes)} ({manifest.bits_per_weight:.2f} bits a weight), "
        f"a context of {manifest.context_length} tokens, "
        f"{format_bytes(manifest.kv_bytes_per_token)} of memory for each token of it. "
        f"Licence: {plain(manifest.source.licence)}, that of the model it was made from."
    )


def _closeness(c: Certificate) -> str:
    return (
        f"{verdict(c)} Run in its own engine it is {c.kld_mean:.4f} nats a token from the "
        f"checkpoint in float32 (mean KL divergence), and chooses the same most likely token "
        f"{c.top1_agreement:.1%} of the time; perplexity {c.perplexity:.2f} where the checkpoint "
        f"has {c.perplexity_source:.2f}."
    )


def _commands(manifest: Manifest) -> str:
    elsewhere = ELSEWHERE.get(manifest.format, "").format(entry=manifest.entry)
    lines = ["```sh", "edgekit run . 'How do I boil an egg?'", "edgekit chat .", elsewhere, "```"]
    return "\n".join(line for line in lines if line)
