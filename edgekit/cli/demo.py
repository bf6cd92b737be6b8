"""edgekit demo: the main job on the embedded default model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import json_option, print_json, table

if TYPE_CHECKING:
    from edgekit.workflows.demo import Row

HEADINGS = ("artifact", "size", "bits/weight", "KL div.", "top-1", "ids", "TTFT", "prefill",
            "decode", "roofline")  # fmt: skip


@click.command(short_help="The main job, on the embedded default model.")
@click.option("--source", help="Another source, as for edgekit pull.")
@click.option("--picture", type=click.Path(path_type=Path), help="Where the PNG goes.")
@click.option("--no-chat", is_flag=True, help="Do not open the chat at the end.")
@json_option
def demo(source: str | None, picture: Path | None, no_chat: bool, as_json: bool) -> None:
    """Pull a model, convert it to GGUF and ONNX, check and bench each, show a table, chat.

    The network is needed for the pull alone. A second run reuses what is there.
    """
    from edgekit.cli.progress import Bars
    from edgekit.store import home
    from edgekit.workflows.demo import DEFAULT_SOURCE
    from edgekit.workflows.demo import demo as run_demo
    from edgekit.workflows.picture import draw

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
