"""Draft: a pruned checkpoint before it is written: a configuration, and tensors read lazily.

Each kind of pruning takes a draft and returns the next one. A draft can be loaded by transformers,
so what is measured is what will be written. It knows no way to choose what to remove.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import FAMILIES, ModelShape, Role, describe
from converters.architectures.settings import Settings
from converters.checkpoint import Checkpoint
from converters.checkpoint_writer import NewTensor, copied
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.privacy import quiet

Rows = NDArray[np.float32]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Draft:
    """A checkpoint made from `source`.

    `weights` maps the new names to tensors. `files` replaces companion files of the source (None:
    left out). `kept_ids` are the source's ids of the kept tokens, in the order of the new ids,
    int64; None where the vocabulary is whole.
    """

    source: Checkpoint
    config: dict[str, Any]
    weights: dict[str, NewTensor]
    files: dict[str, bytes | None] = field(default_factory=dict)
    kept_ids: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Draft:
        """Return `checkpoint` unchanged. Raises InputError for one that `describe` refuses."""
        names = [spec.name for spec in describe(checkpoint).tensors()]
        names += [n for n in (f"{Role.OUTPUT}.weight",) if n in checkpoint.tensors.keys() - names]
        return cls(
            checkpoint, checkpoint.config, {name: copied(checkpoint, name) for name in names}
        )

    @property
    def shape(self) -> ModelShape:
        """Return the shape that the configuration describes."""
        family = FAMILIES[self.config["architectures"][0]]
        module = importlib.import_module(f"converters.architectures.{family}")
        shape: ModelShape = module.describe(
            Settings(self.config, f"the pruned {self.source.path.name}")
        )
        return shape

    @property
    def parameters(self) -> int:
        """Return the number of stored weights."""
        return sum(prod(tensor.shape) for tensor in self.weights.values())

    def changed(self, config: Mapping[str, Any], weights: Mapping[str, NewTensor]) -> Draft:
        """Return the draft with some settings and some tensors replaced."""
        return replace(self, config={**self.config, **config}, weights={**self.weights, **weights})


def load(draft: Draft, change: Callable[[str, Rows], Rows] | None = None) -> Any:
    """Return the draft as a transformers model in float32, ready to compute.

    `change` is given each tensor's name and values and returns others of the same shape. Raises
    InputError if transformers refuses the configuration.
    """
    with quiet.applied():  # the hub's switches are read when transformers is imported
        torch, transformers = need("torch", "convert"), need("transformers", "convert")
        model_class = getattr(transformers, draft.config["architectures"][0])
        state = {
            name: torch.from_numpy(change(name, values) if change else values)
            for name, values in ((name, whole(t)) for name, t in draft.weights.items())
        }
        try:
            config = model_class.config_class.from_dict(draft.config)
            model = model_class.from_pretrained(
                None, config=config, state_dict=state, dtype=torch.float32
            )
        except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
            raise InputError(f"transformers cannot load the pruned model: {error}") from error
    return model.eval()


def whole(tensor: NewTensor) -> Rows:
    """Return all of a tensor, float32 of its shape."""
    pieces = [slab.reshape(-1) for slab in tensor.slabs()]
    return np.concatenate(pieces).reshape(tensor.shape)


def keep_rows(tensor: NewTensor, kept: Indices) -> NewTensor:
    """Return the rows `kept` (ascending) of a tensor; the elements of one with one dimension."""

    def slabs() -> Iterator[Rows]:
        for first, rows in _row_slabs(tensor):
            start, end = np.searchsorted(kept, (first, first + len(rows)))
            if end > start:
                yield rows[kept[start:end] - first]

    return NewTensor((len(kept), *tensor.shape[1:]), slabs)


def keep_columns(tensor: NewTensor, kept: Indices) -> NewTensor:
    """Return the columns `kept` of a matrix."""

    def slabs() -> Iterator[Rows]:
        for _, rows in _row_slabs(tensor):
            yield rows[:, kept]

    return NewTensor((tensor.shape[0], len(kept)), slabs)


def with_zeros(tensor: NewTensor, kept: NDArray[np.bool_]) -> NewTensor:
    """Return a matrix with zeros where `kept`, of its shape, is false."""
    packed = np.packbits(kept, axis=1)  # an eighth of the memory, for every matrix of the model

    def slabs() -> Iterator[Rows]:
        for first, rows in _row_slabs(tensor):
            bits = np.unpackbits(packed[first : first + len(rows)], axis=1, count=rows.shape[1])
            yield np.where(bits.astype(bool), rows, np.float32(0))

    return NewTensor(tensor.shape, slabs)


def _row_slabs(tensor: NewTensor) -> Iterator[tuple[int, Rows]]:
    """Yield the slabs of a draft's tensor, which are whole rows, and the first row of each."""
    first = 0
    for slab in tensor.slabs():
        rows = slab.reshape(-1, *tensor.shape[1:])
        yield first, rows
        first += len(rows)
