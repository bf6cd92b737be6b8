"""edgekit check: certify how far an artifact is from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import facts, json_option, print_json, table

if TYPE_CHECKING:
    from edgekit.artifact import Certificate


@click.command(short_help="Certify an artifact against its checkpoint.")
@click.argument("artifact")
@click.option("--against", required=True, metavar="CHECKPOINT", help="What it was made from.")
@click.option("--text", type=click.Path(path_type=Path), help="Measure on this text instead.")
@click.option("--max-kld", type=float, help="Exit 5 if the mean KL divergence is larger.")
@click.option("--min-top1", type=float, help="Exit 5 if the top-1 agreement is smaller.")
@json_option
def check(
    artifact: str,
    against: str,
    text: Path | None,
    max_kld: float | None,
    min_top1: float | None,
    as_json: bool,
) -> None:
    """Run ARTIFACT in its own engine, compare it with its checkpoint in float32, store the result.

    Both arguments are folders, or names in the store.
    """
    from converters.checkpoint import Checkpoint
    from edgekit.artifact import Artifact
    from edgekit.cli.progress import Bars
    from edgekit.store import find_artifact, find_checkpoint
    from edgekit.workflows.check import Limits, enforce
    from edgekit.workflows.check import check as check_artifact

    opened = Artifact.open(find_artifact(artifact))
    source = Checkpoint.open(find_checkpoint(against))
    certificate = check_artifact(opened, source, text, Bars()).manifest.certificate
    assert certificate is not None  # noqa: S101 - check has just stored it
    _print(certificate, as_json)
    enforce(certificate, Limits(max_kld, min_top1))


def _print(certificate: Certificate, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print_json(asdict(certificate))
        return
    c = certificate
    click.echo(
        facts(
            [
                ("token ids", "equal" if c.token_ids_equal else "DIFFERENT"),
                ("KL divergence", f"{c.kld_mean:.5f} ± {c.kld_standard_error:.5f} nats (mean)"),
                ("", f"{c.kld_p99:.5f} nats (99th percentile)"),
                ("noise floor", f"{c.noise_floor:.1e} nats"),
                ("top-1 agreement", f"{c.top1_agreement:.2%}"),
                (
                    "perplexity",
                    f"{c.perplexity:.2f}, the checkpoint's is {c.perplexity_source:.2f}",
                ),
                ("positions", f"{c.positions}"),
            ]
        )
    )
    rows = [
        [kind, f"{v['positions']:.0f}", f"{v['kld_mean']:.5f}", f"{v['top1_agreement']:.2%}"]
        for kind, v in c.by_kind.items()
    ]
    click.echo("\n" + table(["kind of text", "positions", "KL divergence", "top-1"], rows))
