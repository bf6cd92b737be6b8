"""A torch artifact read back by the safetensors library: what its folder says, and its weights.

Codes become weights by the formulas of LLM.int8 (arXiv 2208.07339) and QLoRA (arXiv 2305.14314),
with the levels and scales that stand in the file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from converters.architectures import ModelShape, Role, TensorSpec
from converters.checkpoint import Checkpoint
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.safetensors_header import read_header
from edgekit.workflows.certify.stored import Floats, Rope, Said, StoredTensor

LAYER = re.compile(r"model\.layers\.(\d+)\.")
NF4_BLOCK, INT8_LARGEST = 64, 127.0
TOKENIZER_PARTS = ("model", "normalizer", "pre_tokenizer", "added_tokens", "post_processor")
NUMBERS = {
    "architecture": "model_type",
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "vocabulary": "vocab_size",
}
FLOAT_BITS = {"torch.float32": 32, "torch.bfloat16": 16, "torch.float16": 16}
FACTS = (".SCB", ".weight_format", ".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4")


class TorchFile:
    """One folder that transformers loads; `stored.ModelFile` says what each method means."""

    def __init__(self, folder: Path, entry: Path) -> None:
        """Check the header, then let safetensors open the file. Raises InputError."""
        names = [info.name for info in read_header(entry)]
        safetensors = need("safetensors", "convert")
        need("torch", "convert")
        self._folder = folder
        self._names = set(names)
        try:
            self._file = safetensors.safe_open(entry, framework="pt")
        except Exception as error:  # the library's errors have no public base
            raise InputError(f"safetensors cannot read {entry}: {error}") from error

    def said(self) -> Said:
        config = self._json("config.json")
        numbers = {name: config.get(key) for name, key in NUMBERS.items()}
        found = {int(match[1]) for name in self._names if (match := LAYER.match(name))}
        eos = self._json("generation_config.json").get("eos_token_id", config.get("eos_token_id"))
        tokenizer = self._json("tokenizer.json")
        return Said(
            numbers=numbers,
            layers=sorted(found),
            special={} if eos is None else {"ends": eos if isinstance(eos, list) else [eos]},
            tokenizer={name: tokenizer.get(name) for name in TOKENIZER_PARTS},
            chat_template=self._chat_template(),
            rope=Rope(config.get("rope_theta"), _scaling(config)),
        )

    def _chat_template(self) -> str | None:
        file = self._folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8", errors="replace")
        template = self._json("tokenizer_config.json").get("chat_template")
        return template if isinstance(template, str) else None

    def _json(self, name: str) -> dict[str, Any]:
        path = self._folder / name
        if not path.is_file() and name == "generation_config.json":
            return {}
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{name} of the artifact cannot be read: {error}") from error
        if not isinstance(document, dict):
            raise InputError(f"{name} of the artifact is not a JSON object")
        return document

    def names(self, shape: ModelShape) -> set[str]:
        specs = [*shape.tensors(), _output(shape)]
        return {spec.name for spec in specs if spec.name in self._names}

    def unknown(self, shape: ModelShape) -> list[str]:
        known = {spec.name for spec in (*shape.tensors(), _output(shape))}
        return sorted(n for n in self._names - known if not n.endswith(FACTS))

    def tensor(self, spec: TensorSpec) -> StoredTensor | None:
        if spec.name not in self._names:
            return None
        stored = self._file.get_tensor(spec.name)
        stem = spec.name.removesuffix("weight")
        if f"{stem}SCB" in self._names:
            scales = self._file.get_tensor(f"{stem}SCB").numpy()
            values = stored.numpy().astype(np.float32) * (scales[:, None] / INT8_LARGEST)
            kind, bits = "int8", 8
        elif f"{spec.name}.absmax" in self._names:
            values, kind, bits = self._nf4(spec, stored.numpy()), "nf4", 4
        else:
            kind = str(stored.dtype)
            values, bits = stored.float().numpy(), FLOAT_BITS.get(kind, 32)
        if values.shape != spec.shape:
            raise InputError(f"{spec.name} has shape {list(values.shape)}, not {list(spec.shape)}")
        return StoredTensor(np.asarray(values, np.float32), kind.removeprefix("torch."), bits)

    def _nf4(self, spec: TensorSpec, packed: Any) -> Floats:
        """Return level * scale of each code; the first of two codes is in the upper half."""
        levels = self._file.get_tensor(f"{spec.name}.quant_map").numpy()
        scales = self._file.get_tensor(f"{spec.name}.absmax").numpy()
        flat = packed.reshape(-1)
        count = int(np.prod(spec.shape))
        codes = np.stack([flat >> 4, flat & 15], axis=1).reshape(-1)[:count]
        values = levels[codes] * np.repeat(scales, NF4_BLOCK)[:count]
        return np.asarray(values.reshape(spec.shape), dtype=np.float32)

    def expected_tokenizer(self, checkpoint: Checkpoint, rows: int) -> dict[str, Any]:
        return {name: checkpoint.tokenizer.get(name) for name in TOKENIZER_PARTS}


def _output(shape: ModelShape) -> TensorSpec:
    return TensorSpec(Role.OUTPUT, None, "weight", (shape.vocabulary_size, shape.hidden))


def _scaling(config: dict[str, Any]) -> dict[str, Any]:
    """Return the rotary scaling in the words of GGUF, which knows llama3's by a tensor only."""
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "none"))
    if kind in ("default", "llama3"):
        return {}
    return {"type": kind, "factor": scaling.get("factor")}
