"""A checkpoint with a head becomes ONNX: traced by optimum, compared with torch, quantised.

int8 is ONNX Runtime's dynamic quantisation: matrices as unsigned bytes with a scale for each of
their columns, activations as they come. Unsigned because processors without VNNI add products of
unsigned and signed bytes in 16 bits, which overflow (ONNX Runtime's documentation, "Quantize ONNX
models", on U8S8 and U8U8). It writes files; it knows no manifest.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.heads.model import load_headed
from edgekit.errors import GateError
from edgekit.extras import need
from edgekit.onnx_header import check
from edgekit.privacy import quiet
from edgekit.progress import Advance, Progress
from edgekit.task import TaskKind

TASKS: dict[TaskKind, str] = {
    "classes": "text-classification",
    "entities": "token-classification",
    "pairs": "text2text-generation-with-past",
}
ENCODER, DECODER, MODEL = "encoder_model.onnx", "decoder_model.onnx", "model.onnx"
FIRST, NEXT = "decoder_model", "decoder_with_past_model"  # as optimum calls the two
SCHEMES = ("f32", "int8")


def export_graphs(
    checkpoint: Checkpoint, kind: TaskKind, scheme: str, folder: Path, work: Path,
    progress: Progress,
) -> None:  # fmt: skip
    """Write the graphs of `checkpoint` into `folder`, in `scheme`; `work` is for what lies between.

    One `model.onnx`, or for pairs `encoder_model.onnx` and `decoder_model.onnx`, whose keys and
    values of earlier tokens are inputs. Raises InputError for a checkpoint that cannot be loaded,
    GateError where a graph does not compute what torch does, MissingExtraError.
    """
    model = load_headed(checkpoint, kind)
    with _silence():
        submodels = _submodels(model, kind)
        with progress.task("exporting to ONNX", len(submodels) + 1, unit="graphs") as advance:
            paths = {n: _export(*pair, work / f"{n}.onnx") for n, pair in _each(submodels, advance)}
            if scheme == "int8":
                paths = {name: _quantise(path) for name, path in paths.items()}
            _place(paths, folder)
            advance(1)
    for file in folder.glob("*.onnx"):
        check(file)


def initialiser_bytes(folder: Path) -> int:
    """Return the bytes of all constants in the graphs of `folder`, those inside branches too."""
    onnx = need("onnx", "convert")

    def count(graph: Any) -> int:
        nested = (a.g for node in graph.node for a in node.attribute if a.HasField("g"))
        return sum(len(t.raw_data) for t in graph.initializer) + sum(map(count, nested))

    return sum(count(onnx.load(file).graph) for file in folder.glob("*.onnx"))


def _submodels(model: Any, kind: TaskKind) -> dict[str, tuple[Any, Any]]:
    """Return the parts that become graphs, each with optimum's configuration, by their names."""
    need("optimum.exporters.onnx.model_configs", "train")  # registers what can be exported
    from optimum.exporters.tasks import TasksManager
    from optimum.exporters.utils import get_encoder_decoder_models_for_export

    TasksManager.standardize_model_attributes(model)
    constructor = TasksManager.get_exporter_config_constructor(
        model=model, exporter="onnx", task=TASKS[kind], library_name="transformers"
    )
    configuration = constructor(model.config, int_dtype="int64", float_dtype="fp32")
    if kind == "pairs":
        found: dict[str, tuple[Any, Any]] = get_encoder_decoder_models_for_export(
            model, configuration
        )
        return found
    return {"model": (model, configuration)}


def _each(
    submodels: dict[str, tuple[Any, Any]], advance: Advance
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name, pair in submodels.items():
        yield name, pair
        advance(1)


def _export(model: Any, configuration: Any, path: Path) -> Path:
    """Trace `model` into the file `path`, and compare what both compute."""
    from optimum.exporters.error_utils import AtolError, OutputMatchError, ShapeError
    from optimum.exporters.onnx import export, validate_model_outputs

    _, outputs = export(model, configuration, path, opset=configuration.DEFAULT_ONNX_OPSET)
    try:
        validate_model_outputs(
            configuration, model, path, outputs, _tolerance(configuration), use_subprocess=False
        )
    except (AtolError, OutputMatchError, ShapeError) as error:
        raise GateError(
            f"the graph {path.name} does not compute what the checkpoint does: {error}",
            hint="this is a fault of the export: report it with the model's name",
        ) from error
    return path


def _tolerance(configuration: Any) -> float:
    found = configuration.ATOL_FOR_VALIDATION
    return float(max(found.values()) if isinstance(found, dict) else found)


def _quantise(path: Path) -> Path:
    quantization = need("onnxruntime.quantization", "onnx")
    out = path.with_name(f"{path.stem}-int8.onnx")
    quantization.quantize_dynamic(
        path, out, per_channel=True, weight_type=quantization.QuantType.QUInt8
    )
    return out


def _place(paths: dict[str, Path], folder: Path) -> None:
    """Move finished graphs into `folder`; the decoder's two become one that shares its weights."""
    if FIRST not in paths:
        os.replace(paths["model"], folder / MODEL)
        return
    from optimum.onnx import merge_decoders

    os.replace(paths[ENCODER.removesuffix(".onnx")], folder / ENCODER)
    # not strict: what the first step says of the encoder, later ones need not say again
    merge_decoders(paths[FIRST], paths[NEXT], save_path=folder / DECODER, strict=False)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the libraries' warnings about their own workings from people."""
    before = logging.root.manager.disable
    with quiet.applied(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
