"""The options of a budget, as `edgekit tune` and `edgekit convert` take them, and their search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint
    from edgekit.artifact import Format
    from edgekit.workflows.tune.wish import Budget, Tuned


def budget_of(
    format_name: str,
    max_size: str | None,
    max_kld: float | None,
    device: str | None,
    min_tokens_per_s: float | None,
) -> Budget:
    """Return the budget that the options name. Raises UsageError, InputError."""
    from devices.profile import load_profile
    from edgekit.units import parse_bytes
    from edgekit.workflows.tune.wish import Budget

    profile = None if device is None else load_profile(device)
    known_format = cast("Format", format_name)
    max_bytes = None if max_size is None else parse_bytes(max_size)
    return Budget(known_format, max_bytes, max_kld, profile, min_tokens_per_s)


def search(checkpoint: str, budget: Budget, text: Path | None) -> tuple[Checkpoint, Tuned]:
    """Search for the recipe of a checkpoint, a folder or a name in the store."""
    from converters.checkpoint import Checkpoint
    from edgekit.cli.progress import Bars
    from edgekit.store import cache, find_checkpoint
    from edgekit.workflows.tune.laboratory import Laboratory
    from edgekit.workflows.tune.search import tune

    source = Checkpoint.open(find_checkpoint(checkpoint))
    return source, tune(source, budget, Laboratory(source, text, cache(), Bars()))
