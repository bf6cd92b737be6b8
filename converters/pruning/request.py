"""Request: what a user asks to have removed, checked against the model before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converters.architectures import ModelShape
from converters.pruning.attention import check_groups
from converters.pruning.depth import check_layers, count_to_remove
from converters.pruning.feed_forward import width_to_keep
from converters.pruning.sparsity import Method, parse_pattern
from edgekit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Request:
    """What to remove, as the command line says it; None of a kind leaves that kind alone.

    `layers`: how many to remove, "3" or "10%"; `drop`: which. `feed_forward`: how many units to
    keep in a layer, rounded unless `exact_width`. `kv_groups`: how many to keep. `sparsity`: "0.5"
    or "2:4", by `method`. `vocabulary`: a text whose tokens stay. Several kinds are carried out in
    this order, each chosen on what the one before has left.
    """

    layers: str | None = None
    drop: tuple[int, ...] = ()
    feed_forward: int | None = None
    exact_width: bool = False
    kv_groups: int | None = None
    sparsity: str | None = None
    method: Method = "wanda"
    vocabulary: Path | None = None

    def check(self, shape: ModelShape) -> None:
        """Raise UsageError for what a model of `shape` cannot do, and if nothing is asked."""
        asked = (self.feed_forward, self.kv_groups, self.sparsity, self.vocabulary, self.layers)
        if not self.drop and all(value is None for value in asked):
            raise UsageError(
                "nothing is asked to be removed",
                hint="give --layers, --drop, --feed-forward, --kv-groups, --sparsity, --vocabulary",
            )
        if self.layers is not None and self.drop:
            raise UsageError("--layers measures which layers go, --drop names them: give one")
        if self.layers is not None:
            count_to_remove(self.layers, shape.layers)
        if self.drop:
            check_layers(self.drop, shape.layers)
        if self.feed_forward is not None:
            width_to_keep(self.feed_forward, shape.intermediate, exact=self.exact_width)
        if self.kv_groups is not None:
            check_groups(self.kv_groups, shape.kv_heads)
        if self.sparsity is not None:
            parse_pattern(self.sparsity, shape)
