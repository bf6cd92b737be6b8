"""`[model]` and `[tokenizer]` of a configuration: what a run begins with.

A checkpoint, or a new model of a known family with a tokenizer trained for it. It checks that the
numbers fit each other; it makes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from edgekit.errors import InputError
    from edgekit.train.toml_table import Table

Family = Literal["llama", "mistral", "qwen2", "qwen3"]
HEAD_WIDTH = 64  # as most families have it
HEAD_STEP = 16  # ONNX Runtime's attention takes no other widths of a head
ROW = 256  # weights in a block of the GGUF types that are called K-quants
SMALL_ROW = 32  # in a block of all other types
LEAST_VOCABULARY = 300  # 256 bytes, the special tokens, and some merges


@dataclass(frozen=True, slots=True)
class ModelSection:
    """`[model]`: the `checkpoint` to begin with, a folder or a name in the store; or `new`, the
    family of a model that begins with random weights.

    Of a new one: `layers`, `width` (of the embedding and between layers), `heads` of attention,
    which share `key_value_heads`, `feed_forward` (the inner width), `context` in tokens, and the
    `licence` to state. All are set for a new model, but for the licence; else none is.
    """

    checkpoint: str | None = None
    new: Family | None = None
    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    feed_forward: int | None = None
    context: int | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class TokenizerSection:
    """`[tokenizer]` of a new model: how many tokens to train, or the `checkpoint` to take it of."""

    vocabulary: int | None = None
    checkpoint: str | None = None


def read_model(table: Table) -> ModelSection:
    """Return the section. Raises InputError for numbers that fit no model of the family."""
    if not table.has("new"):
        for key in (field.name for field in fields(ModelSection)[1:]):
            if table.has(key):
                raise table.error(key, 'is of a new model: say new = "llama", or leave it out')
        return ModelSection(table.text("checkpoint"))
    if table.has("checkpoint"):
        raise table.error("new", "cannot go with checkpoint: a run begins with one of them")
    width = table.whole("width", 256, least=HEAD_STEP, most=1 << 16) or 0
    heads = table.whole("heads", _usual_heads(width), least=1, most=1024) or 1
    shared = table.whole("key_value_heads", heads, least=1, most=heads) or heads
    if not _fits(heads, width):
        raise _blamed(
            table, "heads", "width",
            f"{heads} heads cannot share a width of {width}: each needs the same multiple of "
            f"{HEAD_STEP}",
        )  # fmt: skip
    if heads % shared:
        raise _blamed(
            table, "key_value_heads", "heads",
            f"{heads} heads cannot share {shared} key-value heads evenly",
        )  # fmt: skip
    return ModelSection(
        new=table.choice("new", get_args(Family)),
        layers=table.whole("layers", 8, least=1, most=512),
        width=width,
        heads=heads,
        key_value_heads=shared,
        feed_forward=table.whole("feed_forward", feed_forward(width), least=1, most=1 << 18),
        context=table.whole("context", 512, least=8, most=1 << 20),
        licence=_licence(table),
    )


def read_tokenizer(table: Table, model: ModelSection) -> TokenizerSection | None:
    """Return the section, None for a model that has a tokenizer. Raises InputError."""
    if model.new is None:
        for key in ("vocabulary", "checkpoint"):
            if table.has(key):
                raise table.error(key, "is for [model] new: a checkpoint brings its own tokenizer")
        return None
    if table.has("checkpoint"):
        if table.has("vocabulary"):
            raise table.error("vocabulary", "cannot go with checkpoint: its tokenizer has its own")
        return TokenizerSection(checkpoint=table.text("checkpoint"))
    return TokenizerSection(table.whole("vocabulary", 8192, least=LEAST_VOCABULARY, most=1 << 20))


def _usual_heads(width: int) -> int:
    """Return the most heads of at least the usual width that can share `width`, else 1."""
    most = max(1, width // HEAD_WIDTH)
    return next((heads for heads in range(most, 0, -1) if _fits(heads, width)), 1)


def _fits(heads: int, width: int) -> bool:
    return width % heads == 0 and width // heads % HEAD_STEP == 0


def feed_forward(width: int) -> int:
    """Return the usual inner width: 8/3 of `width`, rounded up to whole blocks of a K-quant.

    With its gate that has as many weights as two matrices of 4 times the width (Shazeer 2020,
    "GLU Variants Improve Transformer", arXiv 2002.05202).
    """
    return -(-8 * width // (3 * ROW)) * ROW


def notes(model: ModelSection) -> list[str]:
    """Return, in sentences, which ways of storing weights the widths of a new model forbid."""
    found = []
    for key in ("width", "feed_forward"):
        size = getattr(model, key)
        if size is not None and size % ROW:
            found.append(_note(key, size))
    return found


def _note(key: str, size: int) -> str:
    if size % SMALL_ROW:
        return (
            f"[model] {key} is {size}, not a multiple of {SMALL_ROW}: rows of that length can be "
            "stored in no quantised type, and stay floats"
        )
    return (
        f"[model] {key} is {size}, not a multiple of {ROW}: K-quants such as q4_k cannot store "
        f"rows of that length; types with blocks of {SMALL_ROW}, such as q5_0, take their place"
    )


def _blamed(table: Table, key: str, other: str, what: str) -> InputError:
    """Return an error at the one of two keys that the configuration has."""
    named = key if table.has(key) or not table.has(other) else other
    return table.error(named, f"does not fit: {what}")


def _licence(table: Table) -> str | None:
    found = table.optional_text("licence")
    allowed = "-.+ ()"  # an SPDX expression, which goes into the head of a card
    if found and not (found.isascii() and all(c.isalnum() or c in allowed for c in found)):
        raise table.error("licence", f"is {found!r:.60}, not an SPDX name such as apache-2.0")
    return found
