"""A folder with a torch model, read as hostile input: its configuration and its header.

bitsandbytes follows sizes that a file states in C, and transformers fills what is missing with
random numbers. So what passes here has exactly the tensors that the configuration implies, each
of its type and shape. No weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.bitsandbytes_layout import FLOAT_NAMES, Kind, Part, nf4_state, parts
from edgekit.errors import InputError
from edgekit.model_config import ModelConfig, read_config, unsound
from edgekit.safetensors_header import TensorInfo, read_header

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# transformers looks for these beside the weights, and would load or run what they say.
FORBIDDEN_NAMES = ("adapter_config.json", "model.safetensors.index.json")
FORBIDDEN_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".py", ".msgpack", ".h5")


@dataclass(frozen=True, slots=True)
class TorchFolder:
    """A checked folder: what its configuration says, and where each tensor lies, by name."""

    path: Path
    config: ModelConfig
    tensors: dict[str, TensorInfo]

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Return each matrix of the layers with its rows and columns."""
        return {
            f"model.layers.{layer}.{module}.weight": size
            for layer in range(self.config.layers)
            for module, size in self.config.projections().items()
        }

    def kind_of(self, matrix: str) -> Kind | None:
        """Return how a matrix of the layers is stored, None for one in float."""
        kept = matrix.removesuffix(".weight") in self.config.kept_modules
        return None if kept else self.config.kind

    def parts_of(self, matrix: str, rows: int, columns: int) -> dict[str, Part]:
        """Return all that is stored of a matrix of the layers, by name."""
        kind, float_name = self.kind_of(matrix), self.config.float_name
        if kind is None:
            return {matrix: (FLOAT_NAMES[float_name], (rows, columns))}
        return parts(matrix, rows, columns, kind, float_name)

    def stored_bytes(self, matrix: str, rows: int, columns: int) -> int:
        """Return the bytes of all that is stored of a matrix of the layers."""
        return sum(self.tensors[name].bytes for name in self.parts_of(matrix, rows, columns))


def read_folder(path: Path) -> TorchFolder:
    """Return the facts of the folder `path`. Raises InputError for anything that is not sound."""
    try:
        _refuse_strangers(path)
        config = read_config(path / CONFIG)
        tensors = {info.name: info for info in read_header(path / WEIGHTS)}
    except OSError as error:
        raise InputError(f"{path} cannot be read as a torch model: {error}") from error
    folder = TorchFolder(path, config, tensors)
    # before a hostile count makes millions of names
    if config.layers > len(tensors):
        raise unsound(config.path, f"{config.layers} layers, {WEIGHTS} has {len(tensors)} tensors")
    _check_tensors(folder)
    _check_states(folder)
    return folder


def _refuse_strangers(path: Path) -> None:
    for file in sorted(path.iterdir()):
        if file.name in FORBIDDEN_NAMES or file.suffix.lower() in FORBIDDEN_SUFFIXES:
            raise InputError(
                f"{path} holds {file.name}: a torch artifact has one {WEIGHTS}, and no code",
                hint="unpickling runs the author's code; convert the checkpoint again",
            )


def _check_tensors(folder: TorchFolder) -> None:
    """Compare every tensor with what the configuration implies, and find none missing."""
    path = folder.path / WEIGHTS
    needed, possible = _needed(folder), _possible(folder.config)
    for name, info in folder.tensors.items():
        wanted = needed.get(name) or possible.get(name)
        if wanted is None:
            raise unsound(path, f"tensor {name!r:.80} is not part of the model")
        if (info.dtype, info.shape) != wanted:
            found = f"{info.dtype} {list(info.shape)}"
            raise unsound(path, f"tensor {name} is {found}, not {wanted[0]} {list(wanted[1])}")
    for name in needed:
        if name not in folder.tensors:
            raise unsound(path, f"tensor {name} is missing")


def _needed(folder: TorchFolder) -> dict[str, Part]:
    """Return the tensors that must be there."""
    config = folder.config
    dtype = FLOAT_NAMES[config.float_name]
    table: Part = (dtype, (config.vocabulary_size, config.hidden))
    norm: Part = (dtype, (config.hidden,))
    needed = {"model.embed_tokens.weight": table, "model.norm.weight": norm}
    if not config.tied:
        needed["lm_head.weight"] = table
    for layer in range(config.layers):
        needed[f"model.layers.{layer}.input_layernorm.weight"] = norm
        needed[f"model.layers.{layer}.post_attention_layernorm.weight"] = norm
    for name, (rows, columns) in folder.matrices().items():
        needed |= folder.parts_of(name, rows, columns)
    return needed


def _possible(config: ModelConfig) -> dict[str, Part]:
    """Return the tensors that some families have: biases, norms of each head."""
    dtype = FLOAT_NAMES[config.float_name]
    found: dict[str, Part] = {}
    for layer in range(config.layers):
        prefix = f"model.layers.{layer}."
        for module, (rows, _) in config.projections().items():
            found[f"{prefix}{module}.bias"] = (dtype, (rows,))
        for norm in ("q_norm", "k_norm"):
            found[f"{prefix}self_attn.{norm}.weight"] = (dtype, (config.head_dim,))
    return found


def _check_states(folder: TorchFolder) -> None:
    """Compare what stands beside each matrix with its shape: bitsandbytes believes it."""
    with (folder.path / WEIGHTS).open("rb") as stream:
        for name, (rows, columns) in folder.matrices().items():
            info = folder.tensors.get(f"{name}.quant_state.bitsandbytes__nf4")
            if info is None:
                continue
            stream.seek(info.offset)
            if stream.read(info.bytes) != nf4_state(rows, columns, folder.config.float_name):
                raise unsound(
                    folder.path / WEIGHTS, f"what stands beside {name} is not its shape and type"
                )
