"""`config.json` of a torch model, read as hostile input.

transformers imports code and opens files that a configuration names, so only the keys that
edgekit writes are known here, and each value has its type and range. It reads no tensor.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bitsandbytes_layout import FLOAT_NAMES, KINDS, FloatName, Kind, quantisation_config
from edgekit.errors import InputError

MAX_CONFIG_BYTES = 4 << 20
MAX_COUNT = 1 << 31
MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
COUNTS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings",
)  # fmt: skip
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
FLAGS = ("tie_word_embeddings", "use_cache", "attention_bias", "mlp_bias")
OTHER_KEYS = (
    "architectures", "model_type", "torch_dtype", "hidden_act", "rms_norm_eps", "rope_theta",
    "rope_scaling", "sliding_window", "quantization_config",
)  # fmt: skip
ROPE_NUMBERS = (
    "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
    "beta_fast", "beta_slow", "attention_factor",
)  # fmt: skip
ROPE_TYPES = ("linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a sound configuration says.

    `kind` is how the layers' matrices are stored, None for a model in float; `kept_modules` are
    stored in float all the same.
    """

    path: Path
    architecture: str
    float_name: FloatName
    kind: Kind | None
    kept_modules: tuple[str, ...]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary_size: int
    context_length: int
    tied: bool

    def projections(self) -> dict[str, tuple[int, int]]:
        """Return rows and columns of each matrix of a layer."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (query, self.hidden),
            "self_attn.k_proj": (key, self.hidden),
            "self_attn.v_proj": (key, self.hidden),
            "self_attn.o_proj": (self.hidden, query),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }


def read_config(path: Path) -> ModelConfig:
    """Return what the file `path` says. Raises InputError for anything that is not sound."""
    values = _read_json(path)
    checked = _Values(path, values)
    checked.check_keys()
    checked.check_numbers()
    float_name = checked.float_name()
    kind, kept = checked.quantised(float_name)
    counts = [checked.count(key) for key in COUNTS]
    vocabulary, hidden, intermediate, layers, heads, kv_heads, head_dim, context = counts
    return ModelConfig(
        path=path,
        architecture=checked.architecture(),
        float_name=float_name,
        kind=kind,
        kept_modules=kept,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary_size=vocabulary,
        context_length=context,
        tied=values.get("tie_word_embeddings") is True,
    )


def unsound(path: Path, what: str) -> InputError:
    """Return the error for a configuration that edgekit would not have written."""
    return InputError(f"{path}: {what}", hint="convert the checkpoint again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise unsound(path, f"it has more than {MAX_CONFIG_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unsound(path, f"it cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise unsound(path, "it is not a JSON object")
    return document


@dataclass(frozen=True, slots=True)
class _Values:
    path: Path
    values: dict[str, Any]

    def check_keys(self) -> None:
        for key in self.values:
            if key not in (*COUNTS, *IDS, *FLAGS, *OTHER_KEYS):
                raise unsound(self.path, f"the key {key!r:.60} is not one that edgekit writes")

    def check_numbers(self) -> None:
        values = self.values
        for key in ("rms_norm_eps", "rope_theta"):
            if not _is_number(values.get(key)):
                raise self._error(key, "a number above 0")
        for key in FLAGS:
            if not isinstance(values.get(key, False), bool):
                raise self._error(key, "true or false")
        for key in (*IDS, "sliding_window"):
            value = values.get(key)
            if value is not None and not (type(value) is int and 0 <= value < MAX_COUNT):
                raise self._error(key, "a whole number")
        if values.get("hidden_act") != "silu":
            raise self._error("hidden_act", "silu")
        self._check_rope(values.get("rope_scaling"))

    def count(self, key: str) -> int:
        value = self.values.get(key)
        if type(value) is not int or not 0 < value < MAX_COUNT:
            raise self._error(key, "a possible count")
        return value

    def float_name(self) -> FloatName:
        for name in FLOAT_NAMES:
            if self.values.get("torch_dtype") == name:
                return name
        raise self._error("torch_dtype", " or ".join(FLOAT_NAMES))

    def architecture(self) -> str:
        names = self.values.get("architectures")
        name = names[0] if isinstance(names, list) and len(names) == 1 else None
        if not isinstance(name, str) or name not in MODEL_TYPES:
            raise self._error("architectures", f"one of {', '.join(MODEL_TYPES)}")
        if self.values.get("model_type") != MODEL_TYPES[name]:
            raise self._error("model_type", f"{MODEL_TYPES[name]}, as {name} has it")
        return name

    def quantised(self, float_name: FloatName) -> tuple[Kind | None, tuple[str, ...]]:
        """Return how matrices are stored, and the modules that are not stored so."""
        found = self.values.get("quantization_config")
        if found is None:
            return None, ()
        kept = found.get("llm_int8_skip_modules") if isinstance(found, dict) else None
        if isinstance(kept, list) and all(isinstance(name, str) for name in kept):
            for kind in KINDS:
                if found == quantisation_config(kind, float_name, kept):
                    return kind, tuple(kept)
        raise self._error("quantization_config", "one that edgekit writes")

    def _check_rope(self, rope: Any) -> None:
        if rope is None:
            return
        if not isinstance(rope, dict) or rope.get("rope_type") not in ROPE_TYPES:
            raise self._error("rope_scaling", f"of a kind that is known: {', '.join(ROPE_TYPES)}")
        for key, value in rope.items():
            if key != "rope_type" and (key not in ROPE_NUMBERS or not _is_number(value)):
                raise self._error("rope_scaling", "made of the numbers that its kind has")

    def _error(self, key: str, wanted: str) -> InputError:
        return unsound(self.path, f"{key} is {self.values.get(key)!r:.80}, not {wanted}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value < 1e18
