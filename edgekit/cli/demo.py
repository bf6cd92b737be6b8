"""edgekit demo: the main job on the embedded default model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import json_option, print_json, table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.workflows.demo import Row
    from edgekit.workflows.demo_train import Learnt

HEADINGS = ("artifact", "size", "bits/weight", "KL div.", "top-1", "ids", "TTFT", "prefill",
            "decode", "roofline")  # fmt: skip


@click.command(short_help="The main job, on the embedded default model.")
@click.option("--source", help="Another source, as for edgekit pull.")
@click.option("--picture", type=click.Path(path_type=Path), help="Where the PNG goes.")
@click.option("--no-chat", is_flag=True, help="Do not open the chat at the end.")
@click.option("--train", is_flag=True, help="Teach it what edgekit is, convert it, ask it.")
@json_option
def demo(
    source: str | None, picture: Path | None, no_chat: bool, train: bool, as_json: bool
) -> None:
    """Pull a model, convert it to GGUF and ONNX, check and bench each, show a table, chat.

    The network is needed for the pull alone. A second run reuses what is there. With --train, the
    model is fine-tuned first, on 200 questions about edgekit, and its artifacts are asked 50
    others: minutes on two cores, no chat.
    """
    from edgekit.cli.progress import Bars
    from edgekit.store import home
    from edgekit.workflows.demo import DEFAULT_SOURCE
    from edgekit.workflows.demo import demo as run_demo
    from edgekit.workflows.picture import draw

    if train:
        if picture is not None:
            raise UsageError("--picture is of the other demo", "leave it out beside --train")
        _train(source or DEFAULT_SOURCE, as_json)
        return
    rows = run_demo(source or DEFAULT_SOURCE, Bars(), lambda line: click.echo(line, err=True))
    picture = picture or home() / "demo.png"
    draw(rows, picture)
    if as_json:
        print_json({"picture": str(picture), "artifacts": [_document(row) for row in rows]})
        return
    click.echo("\n" + table(HEADINGS, [_cells(row) for row in rows]))
    click.echo(f"\npicture: {picture}")
    if not no_chat and sys.stdin.isatty() and sys.stdout.isatty():
        _chat(rows)


def _cells(row: Row) -> list[str]:
    from edgekit.units import format_bytes

    manifest, certificate, bench = row.artifact.manifest, row.certificate, row.bench
    return [
        f"{manifest.format} {manifest.scheme}",
        format_bytes(manifest.total_bytes),
        f"{manifest.bits_per_weight:.2f}",
        f"{certificate.kld_mean:.4f}",
        f"{certificate.top1_agreement:.1%}",
        "equal" if certificate.token_ids_equal else "DIFFER",
        f"{bench.ttft_s:.2f} s",
        f"{bench.prefill_tokens_per_s:.0f}/s",
        f"{bench.decode_tokens_per_s:.0f}/s",
        f"{bench.roofline_share:.0%}",
    ]


def _document(row: Row) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "artifact": str(row.artifact.path),
        "bytes": row.artifact.manifest.total_bytes,
        "bits_per_weight": row.artifact.manifest.bits_per_weight,
        "check": asdict(row.certificate),
        "bench": asdict(row.bench),
    }


def _chat(rows: Sequence[Row]) -> None:
    """Open the chat on the artifact that loses least among the smaller half.

    Not in privacy mode: this chat would be stored unencrypted, and the user asked for a demo, not
    for a passphrase.
    """
    from edgekit.privacy.lock import current
    from edgekit.workflows.chat import Wish, chat
    from runtimes.base import Sampling

    by_size = sorted(rows, key=lambda row: row.artifact.manifest.total_bytes)
    best = min(by_size[: len(by_size) // 2 + 1], key=lambda row: row.certificate.kld_mean)
    if current() is not None:
        name = best.artifact.path.name
        click.echo(f"privacy mode is on: for a private chat, run edgekit chat {name}")
        return
    click.pause("press a key to chat (Ctrl+Q leaves the chat)")
    sampling = Sampling(temperature=0.7, top_p=0.9, min_p=0.05)
    chat(best.artifact.path.name, Wish(sampling))


def _train(source: str, as_json: bool) -> None:
    from edgekit.cli.training_view import TrainingView
    from edgekit.workflows.demo_train import CONFIGURATION, demo_train

    bars = TrainingView()
    learnt = demo_train(source, bars, lambda line: click.echo(line, err=True), bars.tell)
    checkpoint = learnt.trained.checkpoint.path
    if as_json:
        asked = [asked.evaluated.to_dict() for asked in learnt.asked]
        how = learnt.trained.how
        print_json({"checkpoint": str(checkpoint), "artifacts": asked, **how})
        return
    click.echo("\n" + _learnt(learnt))
    click.echo(f"\nwhat it learnt from: {CONFIGURATION.parent}")
    click.echo(f"the curve: {checkpoint / 'training.png'}")
    click.echo(f"now: edgekit chat {learnt.asked[0].artifact.path.name}")


def _learnt(learnt: Learnt) -> str:
    """Return the table: before, after, and each artifact."""
    from edgekit.train.answer_figures import NAMES
    from edgekit.units import format_bytes

    how = learnt.trained.how
    rows = [
        [name, "", f"{how[stage]['perplexity']:.2f}", *_figures(how[stage]["answers"])]
        for name, stage in (("before training", "before"), ("after training", "after"))
    ]
    for asked in learnt.asked:
        manifest = asked.artifact.manifest
        name, size = f"{manifest.format} {manifest.scheme}", format_bytes(manifest.total_bytes)
        rows.append([name, size, "", *_figures(asked.evaluated.figures)])
    return table(["held-out questions", "size", "perplexity", *NAMES.values()], rows)


def _figures(found: Mapping[str, float]) -> list[str]:
    from edgekit.train.answer_figures import NAMES

    return [f"{found[key]:.1f}" for key in NAMES]
