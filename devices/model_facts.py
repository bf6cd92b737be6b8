"""ModelFacts: what of a model decides how much memory it takes and how fast it answers.

Read from headers and manifests alone, never from weights. It knows no machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifact import Artifact, Format
from edgekit.errors import InputError
from edgekit.gguf_header import GgufHeader, read_header
from edgekit.task import require_chat
from edgekit.torch_folder import TorchFolder, read_folder

MAX_CONFIG_BYTES = 1 << 20
MAX_GRAPH_BYTES = 64 << 20
TOKENIZER_FILE = "tokenizer.json"
_DECODER_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "head_size",
    "num_attention_heads",
    "num_key_value_heads",
)
# What an ONNX scheme stores the tables of embeddings and outputs in, where that differs.
ONNX_TABLE_TYPES = {"int4": "int8", "int4_asymmetric": "int8"}
# How transformers names the float types, and we.
TORCH_FLOATS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
ONNX_BITS = {"f32": 32.0, "f16": 16.0, "int8": 8.5, "int4_asymmetric": 4.625, "int4": 4.5}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model in one format and scheme.

    `weight_bytes` counts all tensors, `file_bytes` the file that the engine opens with its data.
    `block_weights` counts the weights of the layers' matrices by their type (`q4_k`, `int8`, ...);
    a token reads each once. `output_weights` is the matrix that makes logits: the embedding's own
    where `tied`. `embedding_bytes` is the size of the table; a token reads one row of it.
    `tokenizer_bytes` is the size of tokenizer.json, 0 where the model file holds the vocabulary.
    `kv_bytes_per_token` is the cache's cost of one position in the engine's default precision.
    """

    name: str
    format: Format
    scheme: str
    parameters: int
    weight_bytes: int
    file_bytes: int
    layers: int
    hidden_size: int
    intermediate_size: int
    vocabulary_size: int
    kv_bytes_per_token: int
    context_length: int
    block_weights: Mapping[str, int]
    block_bytes: Mapping[str, int]
    output_type: str
    output_weights: int
    output_bytes: int
    embedding_bytes: int
    tied: bool
    tokenizer_bytes: int = 0

    @property
    def read_bytes_per_token(self) -> int:
        """Return the bytes of weights that one decoded token reads."""
        return sum(self.block_bytes.values()) + self.output_bytes

    @property
    def multiplied_weights(self) -> int:
        """Return how many weights of the layers multiply every token of a prompt."""
        return sum(self.block_weights.values())

    @classmethod
    def of(cls, artifact: Artifact, header: GgufHeader | TorchFolder | None = None) -> ModelFacts:
        """Return the facts of an artifact; its header is read unless `header` is given.

        Raises InputError for a header that makes no sense, UsageError for a model that is no chat.
        """
        manifest = artifact.manifest
        require_chat(manifest.name, manifest.task)
        match manifest.format:
            case "gguf":
                known = header if isinstance(header, GgufHeader) else None
                return cls.of_gguf(
                    artifact.entry, name=manifest.name, scheme=manifest.scheme, header=known
                )
            case "onnx":
                return _of_onnx(artifact)
            case "torch":
                found = header if isinstance(header, TorchFolder) else read_folder(artifact.path)
                return _of_torch(artifact, found)

    @classmethod
    def of_gguf(
        cls, path: Path, *, name: str = "", scheme: str = "", header: GgufHeader | None = None
    ) -> ModelFacts:
        """Return the facts of a GGUF file, from its header. Raises InputError."""
        header = header or read_header(path)
        try:
            return _of_header(header, name or path.stem, scheme or _main_type(header))
        except (OverflowError, ZeroDivisionError) as error:
            raise InputError(f"{path}: impossible sizes in the header: {error}") from error


def _of_header(header: GgufHeader, name: str, scheme: str) -> ModelFacts:
    family = header.architecture
    layers = _count(header, f"{family}.block_count")
    hidden = _count(header, f"{family}.embedding_length")
    heads = _count(header, f"{family}.attention.head_count")
    kv_heads = _optional(header, f"{family}.attention.head_count_kv", heads)
    head_dim = _optional(header, f"{family}.attention.key_length", max(1, hidden // max(1, heads)))
    weights: dict[str, int] = {}
    sizes: dict[str, int] = {}
    named = {tensor.name: tensor for tensor in header.tensors}
    for tensor in header.tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            kind = tensor.type_name.lower()
            weights[kind] = weights.get(kind, 0) + tensor.elements
            sizes[kind] = sizes.get(kind, 0) + tensor.bytes
    embedding = named.get("token_embd.weight")
    output = named.get("output.weight", embedding)
    if embedding is None or output is None:
        raise InputError(f"{header.path}: the tensor token_embd.weight is missing")
    return ModelFacts(
        name=name,
        format="gguf",
        scheme=scheme,
        parameters=sum(tensor.elements for tensor in header.tensors),
        weight_bytes=sum(tensor.bytes for tensor in header.tensors),
        file_bytes=header.path.stat().st_size,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=_optional(header, f"{family}.feed_forward_length", 4 * hidden),
        vocabulary_size=embedding.shape[-1],
        kv_bytes_per_token=2 * 2 * layers * kv_heads * head_dim,  # keys and values in float16
        context_length=_count(header, f"{family}.context_length"),
        block_weights=weights,
        block_bytes=sizes,
        output_type=output.type_name.lower(),
        output_weights=output.elements,
        output_bytes=output.bytes,
        embedding_bytes=embedding.bytes,
        tied=output is embedding,
    )


def _count(header: GgufHeader, key: str) -> int:
    value = header.metadata.get(key)
    if type(value) is not int or not 0 < value < 2**40:
        raise InputError(f"{header.path}: {key} is {value!r:.60}, not a possible count")
    return value


def _optional(header: GgufHeader, key: str, default: int) -> int:
    return _count(header, key) if type(header.metadata.get(key)) is int else default


def _main_type(header: GgufHeader) -> str:
    """Return the type that most weights have: a bare file does not say its scheme."""
    weights: dict[str, int] = {}
    for tensor in header.tensors:
        weights[tensor.type_name] = weights.get(tensor.type_name, 0) + tensor.elements
    return max(weights, key=lambda kind: weights[kind]).lower() if weights else "unknown"


def _of_onnx(artifact: Artifact) -> ModelFacts:
    manifest = artifact.manifest
    decoder = _genai_decoder(artifact.path / "genai_config.json")
    hidden, layers = decoder["hidden_size"], decoder["num_hidden_layers"]
    table = hidden * manifest.vocabulary_size
    tied = not _names_output(artifact.entry)
    blocks = max(0, manifest.parameters - table * (1 if tied else 2))
    kind = manifest.scheme
    table_type = ONNX_TABLE_TYPES.get(kind, kind)
    table_bytes = round(table * ONNX_BITS.get(table_type, 32.0) / 8)
    weight_bytes = round(manifest.bits_per_weight * manifest.parameters / 8)
    attention = 2 * hidden * decoder["head_size"] * (
        decoder["num_attention_heads"] + decoder["num_key_value_heads"]
    )  # fmt: skip
    return ModelFacts(
        name=manifest.name,
        format="onnx",
        scheme=kind,
        parameters=manifest.parameters,
        weight_bytes=weight_bytes,
        file_bytes=sum(f.bytes for f in manifest.files if f.path.startswith(manifest.entry)),
        layers=layers,
        hidden_size=hidden,
        # what attention leaves is three matrices; norms and biases are less than a multiple of 8
        intermediate_size=max(0, blocks // layers - attention) // (3 * hidden) // 8 * 8,
        vocabulary_size=manifest.vocabulary_size,
        kv_bytes_per_token=manifest.kv_bytes_per_token,
        context_length=manifest.context_length,
        block_weights={kind: blocks},
        block_bytes={kind: max(0, weight_bytes - table_bytes * (1 if tied else 2))},
        output_type=table_type,
        output_weights=table,
        output_bytes=table_bytes,
        embedding_bytes=table_bytes,
        tied=tied,
        tokenizer_bytes=sum(f.bytes for f in manifest.files if f.path == TOKENIZER_FILE),
    )


def _genai_decoder(path: Path) -> dict[str, int]:
    """Return the counts of the decoder in GenAI's configuration. Raises InputError."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, too many for it")
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        decoder = document["model"]["decoder"]
        found = {key: decoder[key] for key in _DECODER_KEYS}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} does not describe a decoder: {error!r}") from error
    for key, value in found.items():
        if type(value) is not int or not 0 < value < 2**31:
            raise InputError(f"{path}: {key} is {value!r:.60}, not a possible count")
    return found


def _names_output(graph: Path) -> bool:
    """Return whether the graph has an output matrix of its own beside the embedding."""
    with open(graph, "rb") as stream:
        return b"lm_head.weight" in stream.read(MAX_GRAPH_BYTES)


def _of_torch(artifact: Artifact, folder: TorchFolder) -> ModelFacts:
    manifest, config = artifact.manifest, folder.config
    float_type = TORCH_FLOATS[config.float_name]
    weights: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name, (rows, columns) in folder.matrices().items():
        kind = folder.kind_of(name) or float_type
        weights[kind] = weights.get(kind, 0) + rows * columns
        sizes[kind] = sizes.get(kind, 0) + folder.stored_bytes(name, rows, columns)
    embedding = folder.tensors["model.embed_tokens.weight"]
    return ModelFacts(
        name=manifest.name,
        format="torch",
        scheme=manifest.scheme,
        parameters=manifest.parameters,
        weight_bytes=sum(tensor.bytes for tensor in folder.tensors.values()),
        file_bytes=artifact.entry.stat().st_size,
        layers=config.layers,
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        vocabulary_size=config.vocabulary_size,
        kv_bytes_per_token=manifest.kv_bytes_per_token,
        context_length=manifest.context_length,
        block_weights=weights,
        block_bytes=sizes,
        output_type=float_type,
        output_weights=config.vocabulary_size * config.hidden,
        output_bytes=embedding.bytes,
        embedding_bytes=embedding.bytes,
        tied=config.tied,
        tokenizer_bytes=sum(f.bytes for f in manifest.files if f.path == TOKENIZER_FILE),
    )
