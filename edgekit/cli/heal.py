"""edgekit heal: a pruned checkpoint learns again from the original."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import json_option, print_json, table
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.train.loop import Settings
    from edgekit.train.trained import Method
    from edgekit.workflows.heal import Healed

DEFAULT_STEPS = 160


@click.command(short_help="Train a pruned checkpoint to answer like the original again.")
@click.argument("checkpoint")
@click.option("--from", "original", help="The unpruned checkpoint. Default: as the record says.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: into the store.")
@click.option("--lora", "rank", type=click.IntRange(1), help="Train adapters of this rank only.")
@click.option("--only", type=click.Choice(["norms"]), help="Train only the gains of the norms.")
@click.option("--steps", type=click.IntRange(1), help=f"Default {DEFAULT_STEPS}.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Train so long.")
@click.option("--batch-tokens", type=click.IntRange(1), default=512, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(0, 1, min_open=True), help="The peak.")
@click.option("--text", type=click.Path(path_type=Path), help="Default: the original's writing.")
@click.option("--text-tokens", type=click.IntRange(1), help="How much of it the original writes.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--replace", is_flag=True, help="Replace the folder if it exists.")
@json_option
def heal(
    checkpoint: str,
    original: str | None,
    out: Path | None,
    rank: int | None,
    only: str | None,
    text: Path | None,
    text_tokens: int | None,
    replace: bool,
    as_json: bool,
    **training: Any,
) -> None:
    """Distil the unpruned model into CHECKPOINT, a pruned one, and write the result.

    Where layers were removed, those around the gap take over by least squares first (not with
    --only). Then it learns to predict what the original predicts, on text that the original
    writes itself. Run the same command again after an interruption: it goes on. Nothing is written
    unless held-out text shows that the answers came closer to the original.
    """
    from converters.checkpoint import Checkpoint
    from edgekit.cli.progress import Bars
    from edgekit.store import find_checkpoint, models
    from edgekit.workflows.heal import heal as heal_checkpoint

    method = _method(rank, only)
    pruned = Checkpoint.open(find_checkpoint(checkpoint))
    healed = heal_checkpoint(
        pruned,
        None if original is None else Checkpoint.open(find_checkpoint(original)),
        out or models() / f"{pruned.path.resolve().name}-healed",
        method=method,
        rank=rank or 0,
        settings=_settings(method, **training),
        source=_source(text, text_tokens),
        progress=Bars(),
        replace=replace,
    )
    _print(healed, as_json)


def _method(rank: int | None, only: str | None) -> Method:
    if rank is not None and only is not None:
        raise UsageError("--lora and --only train different weights", "give one of them")
    if only is not None:
        return "norms"
    return "full" if rank is None else "lora"


def _settings(
    method: Method,
    steps: int | None,
    minutes: float | None,
    batch_tokens: int,
    learning_rate: float | None,
    seed: int,
) -> Settings:
    from edgekit.train.loop import Settings
    from edgekit.train.schedule import Budget
    from edgekit.workflows.heal import PEAK

    if steps is None and minutes is None:
        steps = DEFAULT_STEPS
    peak = PEAK[method] if learning_rate is None else learning_rate
    return Settings(Budget(steps, minutes), peak, batch_tokens, seed=seed)


def _source(text: Path | None, tokens: int | None) -> Any:
    from edgekit.train.lessons import Source

    if text is not None and tokens is not None:
        raise UsageError("--text-tokens is for text that the original writes", "leave it out")
    return Source(text) if tokens is None else Source(text, tokens)


def _print(healed: Healed, as_json: bool) -> None:
    run = healed.outcome.run
    if as_json:
        print_json(_document(healed))
        return
    click.echo(table(["perplexity", "original", "pruned", "healed", "KL before", "KL after"],
                     [*_rows(healed, "held_out"), *_rows(healed, "others")]))  # fmt: skip
    click.echo(
        f"\n{healed.checkpoint.path}: {_bridged(healed)}{run.step} steps, {run.tokens} tokens"
    )
    click.echo(_verdict("text like the healing text", healed.gap_closed("held_out")))
    click.echo(_verdict("other texts", healed.gap_closed("others")))
    if healed.outcome.stopped:
        click.echo(f"stopped early: {healed.outcome.stopped}; the best state was kept")


def _bridged(healed: Healed) -> str:
    """Return which layers took over from removed ones before training, for the report."""
    layers = ", ".join(str(bridge.layer) for bridge in healed.bridges)
    return f"gaps bridged in layers {layers}, " if layers else ""


def _verdict(name: str, share: float) -> str:
    """Return what healing was worth on one sort of text, in a sentence."""
    if share < 0:
        return f"{name}: the perplexity is further from the original's than before"
    return f"{name}: {share:.0%} of what pruning changed in the perplexity came back"


def _rows(healed: Healed, texts: str) -> list[list[str]]:
    original = getattr(healed, f"original_{texts}")
    before, after = getattr(healed.before, texts), getattr(healed.after, texts)
    name = "held out" if texts == "held_out" else "other texts"
    return [
        [
            f"{name}: {kind}",
            f"{original[kind]:.2f}",
            f"{before[kind].perplexity:.2f}",
            f"{after[kind].perplexity:.2f}",
            f"{before[kind].kld:.4f}",
            f"{after[kind].kld:.4f}",
        ]
        for kind in sorted(original, key=lambda k: k != "all")
    ]


def _document(healed: Healed) -> dict[str, Any]:
    from edgekit.train.held_out import plain

    run = healed.outcome.run
    return {
        "checkpoint": str(healed.checkpoint.path),
        "original": str(healed.original.path),
        "bridges": [asdict(bridge) for bridge in healed.bridges],
        "steps": run.step,
        "best_step": int(run.best["step"]),
        "tokens": run.tokens,
        "seconds": run.elapsed_s,
        "stopped": healed.outcome.stopped or None,
        "kld_before": healed.before.held_out["all"].kld,
        "kld_after": healed.after.held_out["all"].kld,
    } | {
        texts: {
            "perplexity_original": getattr(healed, f"original_{texts}"),
            "before": plain(getattr(healed.before, texts)),
            "after": plain(getattr(healed.after, texts)),
            "gap_closed": healed.gap_closed(texts),
        }
        for texts in ("held_out", "others")
    }
