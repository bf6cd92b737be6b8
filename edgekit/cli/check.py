"""edgekit check: certify how far an artifact is from its checkpoint, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import facts, json_option, print_json, styled, table

if TYPE_CHECKING:
    from edgekit.certificate import Certificate, StageReport
    from edgekit.workflows.check import Checked

SIGNS = {True: "ok", False: "FAULT", None: "-"}
COLOURS = {True: "green", False: "red", None: None}


@click.command(short_help="Certify an artifact against its checkpoint.")
@click.argument("artifact")
@click.option("--against", required=True, metavar="CHECKPOINT", help="What it was made from.")
@click.option("--text", type=click.Path(path_type=Path), help="Measure on this text instead.")
@click.option("--full", is_flag=True, help="Whole windows in torch, a longer text, questions.")
@click.option("--generation", is_flag=True, help="Ask both sides a few dozen questions.")
@click.option("--no-report", is_flag=True, help="Write no report and no model card beside it.")
@click.option("--max-kld", type=float, help="Exit 5 if the mean KL divergence is larger.")
@click.option("--min-top1", type=float, help="Exit 5 if the top-1 agreement is smaller.")
@json_option
def check(
    artifact: str,
    against: str,
    text: Path | None,
    full: bool,
    generation: bool,
    no_report: bool,
    max_kld: float | None,
    min_top1: float | None,
    as_json: bool,
) -> None:
    """Run ARTIFACT in its own engine, compare it with its checkpoint in float32, store the result.

    Each stage from the checkpoint to the engine is judged by itself; exit 5 names the stage at
    which a conversion broke. A report and a model card are written into the artifact's folder.
    Both arguments are folders, or names in the store.
    """
    from edgekit.artifact import Artifact
    from edgekit.cli.progress import Bars
    from edgekit.store import find_artifact, find_checkpoint
    from edgekit.task import require_chat
    from edgekit.workflows.certify.session import Wanted
    from edgekit.workflows.check import Limits, certify, enforce, enforce_stages

    opened = Artifact.open(find_artifact(artifact))
    require_chat(opened.manifest.name, opened.manifest.task)
    wanted = Wanted(text, full, generation)
    checked = certify(opened, find_checkpoint(against), wanted, Bars())
    written = [] if no_report else _write(checked)
    _print(checked, written, as_json)
    enforce_stages(checked.stages)
    if checked.certificate is not None:
        enforce(checked.certificate, Limits(max_kld, min_top1))


def _write(checked: Checked) -> list[Path]:
    from edgekit.workflows.certify.documents import write

    return write(checked)


def _print(checked: Checked, written: list[Path], as_json: bool) -> None:
    from dataclasses import asdict

    certificate = checked.certificate
    if as_json:
        known: dict[str, Any] = {} if certificate is None else asdict(certificate)
        print_json({**known, "stages": [asdict(report) for report in checked.stages]})
        return
    for report in checked.stages:
        click.echo(_stage(report))
    if certificate is not None:
        click.echo("\n" + facts(_facts(certificate)))
        click.echo("\n" + _kinds(certificate))
    for path in written:
        click.echo(f"wrote {path}")


def _stage(report: StageReport) -> str:
    sign = styled(SIGNS[report.ok].ljust(5), fg=COLOURS[report.ok], bold=report.ok is False)
    return f"{report.stage.ljust(9)}  {sign}  {report.what}"


def _facts(c: Certificate) -> list[tuple[str, str]]:
    interval = "" if c.kld_low is None else f"  (95 %: {c.kld_low:.5f} to {c.kld_high:.5f})"
    rows = [
        ("token ids", "equal" if c.token_ids_equal else "DIFFERENT"),
        ("KL divergence", f"{c.kld_mean:.5f} nats{interval}"),
        ("", f"{c.kld_p99:.5f} nats (99th percentile)"),
        ("noise floor", f"{c.noise_floor:.1e} nats"),
        ("top-1 agreement", f"{c.top1_agreement:.2%}"),
        ("perplexity", f"{c.perplexity:.2f}, the checkpoint's is {c.perplexity_source:.2f}"),
        ("positions", f"{c.positions}"),
    ]
    if c.greedy is not None:
        words = f"part after {c.greedy.median:g} of {c.greedy.tokens} tokens (median; knife-edge)"
        rows.append(("greedy answers", words))
    if c.generation is not None:
        g = c.generation
        words = f"{g.right_artifact} of {g.questions} right, the checkpoint {g.right_source}"
        rows.append(("questions", f"{words}; {g.same_answers} answered alike"))
    return rows


def _kinds(c: Certificate) -> str:
    rows = [
        [kind, f"{v['positions']:.0f}", f"{v['kld_mean']:.5f}", _range(v),
         f"{v.get('kld_p99', 0):.4f}", f"{v['top1_agreement']:.2%}"]
        for kind, v in c.by_kind.items()
    ]  # fmt: skip
    heads = ["kind of text", "positions", "KL divergence", "95 % interval", "p99", "top-1"]
    return table(heads, rows)


def _range(figures: dict[str, float]) -> str:
    return f"{figures['kld_low']:.4f} to {figures['kld_high']:.4f}"
