"""Ways to break a finished artifact or a checkpoint, each leaving files that are well formed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgekit.artifact import Artifact
from edgekit.certificate import StageReport
from edgekit.errors import GateError
from edgekit.files import sha256_file
from edgekit.workflows.check import enforce_stages

Bytes = NDArray[Any]
Change = Callable[[Bytes], Bytes]


def named(stages: list[StageReport]) -> str:
    """Return the stage that `edgekit check` names, and require its sentence and exit code."""
    with pytest.raises(GateError) as caught:
        enforce_stages(stages)
    assert caught.value.exit_code == 5
    first = next(report for report in stages if report.ok is False)
    assert f"the conversion broke at the stage '{first.stage}': " in caught.value.message
    return str(first.stage)


def edit_json(path: Path, **values: Any) -> None:
    """Replace keys of a JSON object; None removes one."""
    document = json.loads(path.read_text(encoding="utf-8")) | values
    kept = {key: value for key, value in document.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def reseal(artifact: Artifact, **values: Any) -> Artifact:
    """Write the manifest again, with right sizes and hashes, and `values` in place of its own."""
    path = artifact.path / "edgekit.json"
    document = json.loads(path.read_text(encoding="utf-8")) | values
    for entry in document["files"]:
        file = artifact.path / entry["path"]
        entry |= {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    path.write_text(json.dumps(document), encoding="utf-8")
    return Artifact.open(artifact.path)


def rewrite_gguf(
    artifact: Artifact,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Change] | None = None,
    more: Mapping[str, NDArray[np.float32]] | None = None,
    drop: tuple[str, ...] = (),
) -> Artifact:
    """Write the model file again with other metadata (None removes a key) or other tensors."""
    path = artifact.entry
    reader = gguf.GGUFReader(path)
    architecture = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(path.with_suffix(".new"), architecture)
    for name, field in reader.fields.items():
        value = (metadata or {}).get(name, field.contents())
        if name.startswith("GGUF.") or name == "general.architecture" or value is None:
            continue
        kind = gguf.GGUFValueType.get_type(value) if isinstance(value, list) else field.types[0]
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        if isinstance(value, list) and inner is None:
            inner = field.types[0]
        writer.add_key_value(name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        if tensor.name not in drop:
            data = (tensors or {}).get(tensor.name, lambda kept: kept)(np.array(tensor.data))
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").replace(path)
    return reseal(artifact)


def tensor_data(artifact: Artifact, name: str) -> Bytes:
    """Return the bytes of a GGUF tensor as gguf-py shapes them."""
    return next(np.array(t.data) for t in gguf.GGUFReader(artifact.entry).tensors if t.name == name)


def edit_graph(artifact: Artifact, change: Callable[[onnx.ModelProto], None]) -> Artifact:
    """Change the graph of an ONNX artifact; its data stays."""
    model = onnx.load(artifact.entry, load_external_data=False)
    change(model)
    artifact.entry.write_bytes(model.SerializeToString())
    return reseal(artifact)


def stored(artifact: Artifact, name: str) -> onnx.TensorProto:
    """Return the initialiser `name` of an ONNX artifact."""
    model = onnx.load(artifact.entry, load_external_data=False)
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def edit_data(artifact: Artifact, name: str, change: Change) -> Artifact:
    """Change the values of one initialiser in the data file; its shape and type stay."""
    tensor = stored(artifact, name)
    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    offset, length = int(place["offset"]), int(place["length"])
    with (artifact.path / place["location"]).open("r+b") as stream:
        stream.seek(offset)
        values = np.frombuffer(stream.read(length), dtype).reshape(tuple(tensor.dims))
        stream.seek(offset)
        stream.write(np.ascontiguousarray(change(values)).astype(dtype).tobytes())
    return reseal(artifact)


def values_of(artifact: Artifact, name: str) -> Bytes:
    """Return the values of an initialiser of an ONNX artifact."""
    tensor = stored(artifact, name)
    place = {entry.key: entry.value for entry in tensor.external_data}
    data = (artifact.path / place["location"]).read_bytes()
    part = data[int(place["offset"]) :][: int(place["length"])]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.frombuffer(part, dtype).reshape(tuple(tensor.dims))


def set_attribute(operator: str, name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    """Return a change of one attribute of every node of `operator`."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == operator and attribute.name == name:
                    attribute.CopyFrom(onnx.helper.make_attribute(name, value))

    return change


def edit_weight(checkpoint: Path, name: str, change: Change) -> None:
    """Change a tensor of a checkpoint that has one safetensors file."""
    from safetensors.numpy import load_file, save_file

    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = np.ascontiguousarray(change(tensors[name].copy()))
    save_file(tensors, file, {"format": "pt"})
