"""inspect: the facts of a path, from its headers alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.lineage import read_stage
from edgekit.artifact import MANIFEST_NAME, Artifact
from edgekit.errors import InputError
from edgekit.gguf_header import read_header
from edgekit.progress import Progress
from edgekit.store import artifacts, installed_artifacts, models
from edgekit.units import format_bytes


def inspect(path: Path, verify: bool, progress: Progress) -> dict[str, Any]:
    """Return the facts of an artifact, a checkpoint, a GGUF, ONNX or safetensors file.

    With `verify`, an artifact's hashes are compared. Raises InputError.
    """
    path = _locate(path)
    if (path / MANIFEST_NAME).is_file():
        return _artifact(path, verify, progress)
    if path.is_dir():
        return _checkpoint(path)
    match path.suffix.lower():
        case ".gguf":
            return _gguf(path)
        case ".onnx":
            return _onnx(path)
        case ".dat" | ".imatrix":
            return _importance(path)
        case ".safetensors":
            return _safetensors(path)
    raise InputError(
        f"{path} is not a folder, a .gguf, .onnx or .safetensors file",
        hint="edgekit inspect takes a checkpoint, an artifact, or a model file",
    )


def _locate(path: Path) -> Path:
    if path.exists():
        return path
    for folder in (artifacts(), installed_artifacts(), models()):
        if path.name == str(path) and (folder / path).is_dir():
            return folder / path
    raise InputError(f"there is no file, folder, artifact or checkpoint '{path}'")


def _artifact(path: Path, verify: bool, progress: Progress) -> dict[str, Any]:
    artifact = Artifact.open(path)
    if verify:
        with progress.task("verifying", artifact.manifest.total_bytes) as advance:
            artifact.verify(advance)
    manifest = artifact.manifest
    template = manifest.chat_template
    return (
        {"kind": "artifact", "path": str(path), "size": format_bytes(manifest.total_bytes)}
        | asdict(manifest)
        | {"chat_template": None if template is None else f"{len(template)} characters"}
        | ({"verified": True} if verify else {})
    )


def _checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = Checkpoint.open(path)
    size = sum(info.bytes for info in checkpoint.tensors.values())
    stage = read_stage(checkpoint)
    return {
        "kind": "checkpoint",
        "path": str(path),
        "architecture": checkpoint.architecture,
        "parameters": checkpoint.parameters,
        "size": format_bytes(size),
        "dtypes": ", ".join(sorted({info.dtype for info in checkpoint.tensors.values()})),
        "licence": checkpoint.licence,
        "chat_template": checkpoint.chat_template is not None,
        **({"stage": stage.kind, "made_from": stage.parent, "how": stage.how} if stage else {}),
        "tensors": {name: list(info.shape) for name, info in checkpoint.tensors.items()},
    }


def _gguf(path: Path) -> dict[str, Any]:
    header = read_header(path)
    if header.metadata.get("general.type") == "imatrix":
        return _importance(path)
    types: dict[str, int] = {}
    for tensor in header.tensors:
        types[tensor.type_name] = types.get(tensor.type_name, 0) + 1
    return {
        "kind": "gguf",
        "path": str(path),
        "size": format_bytes(path.stat().st_size),
        "version": header.version,
        "architecture": str(header.metadata.get("general.architecture", "unknown")),
        "name": str(header.metadata.get("general.name", "unknown")),
        "types": ", ".join(f"{count} {name}" for name, count in sorted(types.items())),
        "tensors": {tensor.name: list(tensor.shape) for tensor in header.tensors},
    }


def _importance(path: Path) -> dict[str, Any]:
    from converters.importance_file import importance_facts

    size = format_bytes(path.stat().st_size)
    return {"kind": "importance", "path": str(path), "size": size} | importance_facts(path)


def _onnx(path: Path) -> dict[str, Any]:
    from edgekit.onnx_header import check

    check(path)
    return {"kind": "onnx", "path": str(path), "size": format_bytes(path.stat().st_size)}


def _safetensors(path: Path) -> dict[str, Any]:
    from edgekit.safetensors_header import read_header as read_safetensors_header

    tensors = list(read_safetensors_header(path))
    types = Counter(tensor.dtype for tensor in tensors)
    return {
        "kind": "safetensors",
        "path": str(path),
        "size": format_bytes(path.stat().st_size),
        "types": ", ".join(f"{count} {name}" for name, count in sorted(types.items())),
        "tensors": {tensor.name: list(tensor.shape) for tensor in tensors},
    }
