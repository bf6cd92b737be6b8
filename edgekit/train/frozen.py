"""Which parts of a model stay as they are: `embeddings`, `head`, `norm`, `layers.3`, `layers.0-9`.

`norm` is the last one, behind the layers; a head that is tied to the embeddings is the same matrix
and stays with them. It knows names, no weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from edgekit.errors import InputError

Learns = Callable[[str], bool]
"""Says of a parameter's or a layer's name whether it may learn."""

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
_PART = re.compile(r"layers\.(\d{1,6})(?:-(\d{1,6}))?")
OUTSIDE = {
    "embeddings": re.compile(r"(?:^|\.)(?:embed_tokens|embeddings?)(?:\.|$)"),
    "head": re.compile(r"^lm_head(?:\.|$)"),
    "norm": re.compile(r"(?:^|\.)norm(?:\.|$)"),
}


def learning(parts: Sequence[str], names: Iterable[str]) -> Learns:
    """Return what says of each name whether it may learn if `parts` are frozen.

    `names` are those of all the model's tensors. Raises InputError for a part that there is not,
    and if nothing would be left to learn.
    """
    known = list(names)
    tests = [_test(part, known) for part in parts]

    def learns(name: str) -> bool:
        return not any(test(name) for test in tests)

    if not any(map(learns, known)):
        raise InputError("freezes all of the model: nothing is left to learn")
    return learns


def _test(part: str, names: Sequence[str]) -> Learns:
    """Return what says of a name whether it belongs to `part`. Raises InputError."""
    if part in OUTSIDE:
        pattern = OUTSIDE[part]

        def is_outside(name: str) -> bool:
            return _LAYER.search(name) is None and pattern.search(name) is not None

        if not any(map(is_outside, names)):
            tied = ": its head is tied to the embeddings" if part == "head" else ""
            raise InputError(f"names {part!r}, which the model does not have{tied}")
        return is_outside
    first, last = _range(part, 1 + max((_layer(name) for name in names), default=-1))
    return lambda name: first <= _layer(name) <= last


def _range(part: str, count: int) -> tuple[int, int]:
    found = _PART.fullmatch(part)
    if found is None:
        known = ", ".join([*OUTSIDE, "layers.3", "layers.0-9"])
        raise InputError(f"names {part!r:.60}, which is none of: {known}")
    first, last = int(found[1]), int(found[2] or found[1])
    if first > last or last >= count:
        raise InputError(f"names {part!r}, and the model has the layers 0 to {count - 1}")
    return first, last


def _layer(name: str) -> int:
    """Return the number of the layer that `name` belongs to, -1 for one outside of them."""
    found = _LAYER.search(name)
    return -1 if found is None else int(found[1])
