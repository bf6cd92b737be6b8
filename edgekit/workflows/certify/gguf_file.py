"""A GGUF file read back by gguf-py: its metadata, and its weights as llama.cpp computes with them.

Names come from gguf-py's own map and rows are put back by llama.cpp's own rule, so that no
mistake of the exporter can hide in code that both share.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import ModelShape, Role, TensorSpec
from converters.checkpoint import Checkpoint
from converters.gguf_vocabulary import read_vocabulary
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.gguf_header import read_header
from edgekit.workflows.certify.stored import Floats, Rope, Said, StoredTensor

LAYER = re.compile(r"blk\.(\d+)\.")
BITS = re.compile(r"[A-Z]+(\d+)")
FLOAT_BITS = {"F32": 32, "F16": 16, "BF16": 16, "F64": 64}
COMPUTED = "rope_freqs.weight"
# llama.cpp rotates neighbours in these graphs; the rows of each head are stored in that order.
PERMUTED = ("llama", "mistral")
NUMBERS = {
    "layers": "block_count",
    "hidden": "embedding_length",
    "intermediate": "feed_forward_length",
    "heads": "attention.head_count",
    "kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "value_dim": "attention.value_length",
    "rotated_dim": "rope.dimension_count",
    "norm_epsilon": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "context_length": "context_length",
    "vocabulary": "vocab_size",
}
TOKENIZER = {
    "model": "tokenizer.ggml.model",
    "pre-tokenizer": "tokenizer.ggml.pre",
    "tokens": "tokenizer.ggml.tokens",
    "token types": "tokenizer.ggml.token_type",
    "merges": "tokenizer.ggml.merges",
}
SPECIAL = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
    "add_bos": "tokenizer.ggml.add_bos_token",
}


class GgufFile:
    """One GGUF file; `stored.ModelFile` says what each method means."""

    def __init__(self, path: Path, shape: ModelShape) -> None:
        """Check the header, then let gguf-py map the file. Raises InputError."""
        read_header(path)  # strict, before a lenient reader sees the file
        self._gguf = need("gguf", "convert")
        try:
            self._reader = self._gguf.GGUFReader(path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise InputError(f"gguf-py cannot read {path}: {error}") from error
        self._path = path
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._shape = shape

    @cached_property
    def _architecture(self) -> str:
        return str(self._value("general.architecture"))

    def _value(self, key: str) -> Any:
        field = self._reader.get_field(key)
        return None if field is None else field.contents()

    def said(self) -> Said:
        numbers = {name: self._value(f"{self._architecture}.{k}") for name, k in NUMBERS.items()}
        found = {int(match[1]) for name in self._tensors if (match := LAYER.match(name))}
        return Said(
            numbers={"architecture": self._architecture, **numbers},
            layers=sorted(found),
            special={name: self._value(key) for name, key in SPECIAL.items()},
            tokenizer={name: self._value(key) for name, key in TOKENIZER.items()},
            chat_template=self._value("tokenizer.chat_template"),
            rope=self._rope(),
        )

    def _rope(self) -> Rope:
        prefix = f"{self._architecture}.rope.scaling."
        keys = [key for key in self._reader.fields if key.startswith(prefix)]
        scaling = {key.removeprefix(prefix): self._value(key) for key in keys}
        base = self._value(f"{self._architecture}.rope.freq_base")
        return Rope(None if base is None else float(base), scaling)

    @cached_property
    def _names(self) -> Any:
        """Return gguf-py's map from names of checkpoints to names of GGUF."""
        architectures = {name: arch for arch, name in self._gguf.MODEL_ARCH_NAMES.items()}
        wanted = "llama" if self._shape.family in PERMUTED else self._shape.family
        return self._gguf.get_tensor_name_map(architectures[wanted], self._shape.layers)

    def _name(self, spec: TensorSpec) -> str:
        found = self._names.get_name(spec.name, try_suffixes=(".weight", ".bias"))
        return str(found)

    def names(self, shape: ModelShape) -> set[str]:
        specs = [*shape.tensors(), _output(shape)]
        return {spec.name for spec in specs if self._name(spec) in self._tensors}

    def unknown(self, shape: ModelShape) -> list[str]:
        known = {self._name(spec) for spec in (*shape.tensors(), _output(shape))}
        return sorted(self._tensors.keys() - known - {COMPUTED})

    def tensor(self, spec: TensorSpec) -> StoredTensor | None:
        tensor = self._tensors.get(self._name(spec))
        if tensor is None:
            return None
        try:
            with np.errstate(all="ignore"):
                values = self._gguf.dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise InputError(f"{tensor.name} cannot be dequantised: {error}") from error
        found = tuple(int(size) for size in reversed(tensor.shape))
        if found != spec.shape:
            raise InputError(f"{tensor.name} has shape {list(found)}, not {list(spec.shape)}")
        values = np.asarray(values, dtype=np.float32).reshape(spec.shape)
        if self._shape.family in PERMUTED and spec.role in (Role.QUERY, Role.KEY):
            values = put_back(values, self._shape.head_dim)
        kind = tensor.tensor_type.name
        return StoredTensor(values, kind.lower(), _bits(kind))

    def expected_tokenizer(self, checkpoint: Checkpoint, rows: int) -> dict[str, Any]:
        vocabulary = read_vocabulary(checkpoint, rows)
        return {
            "model": vocabulary.model,
            "pre-tokenizer": vocabulary.pre,
            "tokens": vocabulary.tokens,
            "token types": vocabulary.types,
            "merges": vocabulary.merges or None,
        }


def put_back(rows: NDArray[np.float32], head_dim: int) -> Floats:
    """Undo llama.cpp's `permute`: its element 2 i + j of a head is row j * head_dim / 2 + i."""
    order = np.arange(head_dim).reshape(-1, 2).T.reshape(-1)
    heads = rows.reshape(-1, head_dim, *rows.shape[1:])
    return np.ascontiguousarray(heads[:, order]).reshape(rows.shape)


def _output(shape: ModelShape) -> TensorSpec:
    return TensorSpec(Role.OUTPUT, None, "weight", (shape.vocabulary_size, shape.hidden))


def _bits(kind: str) -> int:
    """Return the bits of one weight: 4 of "IQ4_NL" and of "MXFP4"."""
    match = BITS.match(kind)
    return FLOAT_BITS.get(kind) or (int(match[1]) if match else 4)
