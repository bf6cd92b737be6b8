"""edgekit prune: a smaller checkpoint, and an honest word on whether it pays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import facts, json_option, print_json
from edgekit.errors import InputError, UsageError

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint
    from converters.pruning.prune import Pruned, Texts

TEXT_TOKENS = 4096  # half to choose on, half to measure


@click.command(short_help="Remove parts of a checkpoint, and measure what that costs.")
@click.argument("checkpoint")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The new checkpoint's folder.")
@click.option("--layers", help="Remove so many layers, 3 or 10%, chosen by divergence.")
@click.option("--drop", metavar="N,N", help="Remove these layers, counted from 0.")
@click.option("--feed-forward", type=int, metavar="N", help="Keep N units in each layer.")
@click.option("--exact-width", is_flag=True, help="Do not round N to a multiple of 256.")
@click.option("--kv-groups", type=int, metavar="N", help="Keep N key-value heads, and theirs.")
@click.option("--sparsity", metavar="S", help="Set weights to zero: a share (0.5), or 2:4.")
@click.option("--method", type=click.Choice(["wanda", "magnitude"]), default="wanda",
              help="How --sparsity chooses; default wanda.")  # fmt: skip
@click.option("--vocabulary", type=click.Path(path_type=Path), metavar="FILE",
              help="Keep only the tokens that this text needs.")  # fmt: skip
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE",
              help="Choose and measure on this; default: the model's own writing.")  # fmt: skip
@click.option("--held-out", type=click.Path(path_type=Path), metavar="FILE",
              help="Measure on this; default: half of the text.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Choose and measure, and write nothing.")
@click.option("--replace", is_flag=True, help="Replace the folder if it exists.")
@json_option
def prune(
    checkpoint: str, out: Path | None, drop: str | None, text: Path | None,
    held_out: Path | None, dry_run: bool, replace: bool, as_json: bool, **asked: Any,
) -> None:  # fmt: skip
    """Make a smaller checkpoint from CHECKPOINT, an ordinary one that transformers loads.

    Kinds combine; they are carried out in this order: layers, feed-forward units, attention
    groups, single weights, vocabulary. Each is chosen on what the one before has left. What it
    cost is measured on text that no choice has seen.
    """
    from converters.checkpoint import Checkpoint
    from converters.pruning.draft import Draft
    from converters.pruning.prune import prune as prune_checkpoint
    from converters.pruning.prune import write
    from converters.pruning.request import Request
    from edgekit.cli.progress import Bars
    from edgekit.store import find_checkpoint

    source = Checkpoint.open(find_checkpoint(checkpoint))
    request = Request(drop=_layers(drop), **asked)
    request.check(Draft.of(source).shape)
    _check_out(out, dry_run, replace)
    progress = Bars()
    pruned = prune_checkpoint(source, request, _texts(source, text, held_out, progress), progress)
    if out is not None and not dry_run:
        write(pruned, out, progress, replace=replace)
    _print(pruned, None if dry_run else out, as_json)


def _layers(drop: str | None) -> tuple[int, ...]:
    if drop is None:
        return ()
    parts = [part.strip() for part in drop.split(",")]
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise UsageError(f"--drop {drop!r:.60} is not a list of layers", "write --drop 11,12,13")
    return tuple(int(part) for part in parts)


def _check_out(out: Path | None, dry_run: bool, replace: bool) -> None:
    """Raise now for what would fail after minutes of work."""
    if out is None and not dry_run:
        raise UsageError("where to? -o is missing", "give -o FOLDER, or --dry-run")
    if out is not None and out.exists() and not replace and not dry_run:
        raise InputError(f"{out} exists already", "choose another folder, or add --replace")


def _texts(source: Checkpoint, text: Path | None, held_out: Path | None, progress: Any) -> Texts:
    from converters.calibrate import OWN_TEXT, calibration_windows
    from converters.pruning.prune import split
    from edgekit.store import cache

    folder = cache() / "importance"
    windows = calibration_windows(source, text, folder, progress, tokens=TEXT_TOKENS)
    other = None
    if held_out is not None:
        other = calibration_windows(source, held_out, folder, progress, tokens=TEXT_TOKENS // 2)
    return split(windows, OWN_TEXT if text is None else text.name, other)


def _print(pruned: Pruned, out: Path | None, as_json: bool) -> None:
    record = pruned.record()
    if as_json:
        print_json({"path": None if out is None else str(out), **record})
        return
    for step in record["steps"]:
        click.echo(_step(step))
    click.echo(facts([
        ("weights", f"{pruned.weights_before / 1e6:.1f}M -> {pruned.weights_after / 1e6:.1f}M"),
        ("divergence", f"{pruned.figures.divergence:.4f} nats per position"),
        *([("removed tokens", f"had {pruned.lost_mass:.2%} of the probability")]
          if pruned.lost_mass else []),
        ("same top token", f"{pruned.figures.top1_agreement:.1%}"),
        ("perplexity", f"{pruned.perplexity_before:.2f} -> {pruned.figures.perplexity:.2f}"),
        ("measured on", f"{pruned.figures.positions} positions of {pruned.texts.held_out_source}"),
        ("verdict", f"{pruned.verdict.advice}: {pruned.verdict.why}"),
        *([("checkpoint", str(out))] if out else []),
    ]))  # fmt: skip


def _step(step: dict[str, Any]) -> str:
    """Return one line on what was removed."""
    why = f" ({step['why']})" if step.get("why") else ""
    match step["kind"]:
        case "layers":
            numbers = ", ".join(map(str, step["removed"]))
            return f"removed layers {numbers}, by {step['method']}"
        case "single weights":
            return (
                f"{step['zeros']:.1%} of the layers' weights are zero ({step['pattern']}, by "
                f"{step['method']}); zeros alone make neither engine faster nor the file smaller"
            )
    return f"kept {step['kept']} of {step['of']} {step['kind']}, by {step['method']}{why}"
