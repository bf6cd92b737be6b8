"""Checkpoint: what a trainer left, a folder in the Hugging Face layout.

Opening one reads JSON and safetensors *headers* only; tensors are read one at a time, in slabs
of rows, with plain reads: mapped pages would count as resident memory. It knows nothing of
output formats. Pickled weights are refused: unpickling a file runs its author's code.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.files import sha256_file
from edgekit.safetensors_header import ITEM_BYTES, TensorInfo, damaged, read_header
from edgekit.store import refuse_adapter

MAX_JSON_BYTES = 64 << 20
DIGEST_FILES = ("config.json", "tokenizer.json", "tokenizer.model")


class Checkpoint:
    """A folder with `config.json`, a tokenizer and safetensors weights."""

    def __init__(self, path: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]) -> None:
        self.path = path
        self.config = config
        self.tensors = tensors

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read `config.json` and the safetensors headers of the folder `path`.

        Raises InputError for a missing or broken file, for weights that are pickled, and for an
        adapter without its model.
        """
        refuse_adapter(path)
        config = read_json(path / "config.json")
        tensors: dict[str, TensorInfo] = {}
        for file in _weight_files(path):
            for info in read_header(file):
                if info.name in tensors:
                    raise InputError(
                        f"{path}: tensor {info.name} is in {tensors[info.name].file.name} "
                        f"and in {file.name}"
                    )
                tensors[info.name] = info
        return cls(path, config, tensors)

    @property
    def architecture(self) -> str:
        """Return the model class that `config.json` names, such as `LlamaForCausalLM`."""
        names = self.config.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise InputError(f"{self.path / 'config.json'} names no architecture")
        return names[0]

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """Return `generation_config.json`, or an empty dictionary where there is none."""
        return self._optional_json("generation_config.json")

    @cached_property
    def tokenizer(self) -> dict[str, Any]:
        """Return `tokenizer.json` as parsed. Raises InputError where there is none."""
        return read_json(self.path / "tokenizer.json")

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """Return `tokenizer_config.json`, or an empty dictionary where there is none."""
        return self._optional_json("tokenizer_config.json")

    @cached_property
    def chat_template(self) -> str | None:
        """Return the default chat template, from its own file or from the tokenizer's config."""
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self.tokenizer_config.get("chat_template")
        if isinstance(template, list):
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None

    @cached_property
    def licence(self) -> str:
        """Return the licence's name from the pull record or the model card; "unknown" if unsaid."""
        recorded = self._optional_json("edgekit-source.json").get("licence")
        if isinstance(recorded, str) and recorded:
            return recorded
        card = self.path / "README.md"
        if card.is_file():
            for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:60]:
                if line.startswith("license:"):
                    return line.removeprefix("license:").strip().strip("'\"") or "unknown"
        return "unknown"

    @property
    def parameters(self) -> int:
        """Return the number of weights that are stored, tied ones once."""
        return sum(prod(info.shape) for info in self.tensors.values())

    def info(self, name: str) -> TensorInfo:
        """Return where the tensor `name` lies. Raises InputError if it is absent."""
        if name not in self.tensors:
            raise InputError(
                f"{self.path}: tensor {name} is missing",
                hint="the checkpoint is incomplete, or its architecture is not the one it names",
            )
        return self.tensors[name]

    def read(self, name: str, first_row: int = 0, rows: int | None = None) -> NDArray[np.float32]:
        """Return rows `first_row` to `first_row + rows` of a tensor as float32, freshly allocated.

        The result has shape [rows, ...]; a tensor with one dimension has its elements as rows.
        Raises InputError if the tensor is absent, not of a float type, or cut short on disk.
        """
        info = self.info(name)
        total = info.shape[0] if info.shape else 1
        count = total - first_row if rows is None else min(rows, total - first_row)
        row_shape = info.shape[1:]
        row_bytes = prod(row_shape) * ITEM_BYTES[info.dtype]
        data = np.empty(count * row_bytes, dtype=np.uint8)
        with info.file.open("rb", buffering=0) as stream:
            stream.seek(info.offset + first_row * row_bytes)
            _read_fully(stream, data, info)
        return _to_float32(data, info).reshape((count, *row_shape))

    def digest(self) -> str:
        """Return the SHA-256 over the hashes of the files that decide what the model answers."""
        files = {info.file for info in self.tensors.values()}
        files.update(p for name in DIGEST_FILES if (p := self.path / name).is_file())
        total = hashlib.sha256()
        for file in sorted(files):
            total.update(f"{file.name} {sha256_file(file)}\n".encode())
        return total.hexdigest()

    def _optional_json(self, name: str) -> dict[str, Any]:
        return read_json(self.path / name) if (self.path / name).is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`. Raises InputError if it is absent, huge or not one."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, more than {MAX_JSON_BYTES}")
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} holds no {path.name}",
            hint="a checkpoint is a folder in the Hugging Face layout",
        ) from error
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a JSON object")
    return document


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise InputError(f"{index} has no weight_map")
        names = sorted({str(name) for name in weight_map.values()})
        return [_shard(path, name) for name in names]
    # Some trainers save the weights twice, in their own layout beside this one.
    files = sorted(path.glob("model*.safetensors")) or sorted(path.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(
        p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in path.glob(pattern)
    )
    if pickled:
        raise InputError(
            f"{path} holds pickled weights ({pickled[0]}) and no safetensors",
            hint="unpickling runs the author's code; save it again with safe_serialization=True",
        )
    raise InputError(f"{path} holds no safetensors file", hint="is the download complete?")


def _shard(path: Path, name: str) -> Path:
    if Path(name).name != name:
        raise InputError(f"{path}: the index names {name!r}, which points outside the folder")
    if not (path / name).is_file():
        raise InputError(f"{path}: {name} is missing", hint="is the download complete?")
    return path / name


def _read_fully(stream: Any, data: NDArray[np.uint8], info: TensorInfo) -> None:
    view = memoryview(data.data)
    while view:
        count = stream.readinto(view)
        if not count:
            raise damaged(info.file, f"it ends inside tensor {info.name}")
        view = view[count:]


def _to_float32(data: NDArray[np.uint8], info: TensorInfo) -> NDArray[np.float32]:
    match info.dtype:
        case "F32":
            return data.view("<f4").astype(np.float32, copy=False)
        case "F16":
            return data.view("<f2").astype(np.float32)
        case "BF16":
            return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
        case "F64":
            return data.view("<f8").astype(np.float32)
    raise InputError(f"{info.file}: tensor {info.name} is {info.dtype}, not a float type")
