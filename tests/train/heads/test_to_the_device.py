"""From records to the device: each kind of model is trained here, exported by optimum, quantised to
int8, run by ONNX Runtime, and does there what it did in torch, to one point of its measure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.heads.model import load_headed, text_tokenizer
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.entities import Entity
from edgekit.errors import GateError
from edgekit.progress import NoProgress
from edgekit.train.duplicates import content_hash
from edgekit.train.heads.lesson import SLACK
from edgekit.train.heads.metrics import class_figures, entity_figures, text_figures
from edgekit.workflows.train import FineTuned
from runtimes.onnx_tasks import OnnxTask
from runtimes.task_client import TaskModel
from runtimes.tasks import Written

from .conftest import RECORDS, configured, trained

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
LABELS = ["bad", "good", "plain"]
TEXTS = ("the film was lovely", "we thought it was dull, really", "tall")


def held_out(kind: str, count: int) -> list[dict[str, Any]]:
    """Return the records that took no part in training, by the rule itself."""
    texts = "source" if kind == "pairs" else "text"
    records = RECORDS[kind](count)
    return [r for r in records if content_hash(r[texts]) < 0.25 * 2**64]


def to_device(found: FineTuned, out: Path, scheme: str = "int8") -> Artifact:
    recipe = Recipe.of("onnx", scheme)
    return convert(found.checkpoint, recipe, out, progress=NoProgress())


def compare(found: FineTuned, device: dict[str, float], within: dict[str, float]) -> None:
    """Compare the measures on the device with those in torch."""
    for name, most in within.items():
        assert device[name] == pytest.approx(found.how["after"][name], abs=most), name


def test_classes(make_base: Callable[..., Path], tmp_path: Path) -> None:
    config = configured(
        tmp_path, make_base("bert"), "classes", 400, steps=80, learning_rate=4e-3, batch_tokens=512
    )
    found = trained(config, tmp_path / "out")
    artifact = to_device(found, tmp_path / "int8")
    model, records = OnnxTask(artifact, 1), held_out("classes", 400)
    assert len(records) == found.how["data"]["evaluation_records"]
    said = [model.classify(r["text"]).label for r in records]
    truth = [LABELS.index(r["label"]) for r in records]
    figures = class_figures(truth, [LABELS.index(label) for label in said], len(LABELS))
    compare(found, figures, {"accuracy": 0.01, "macro_f1": 0.01})
    assert figures["accuracy"] > 0.8  # guessing is right in a third
    assert artifact.manifest.bits_per_weight < 11
    with TaskModel(artifact, 1) as worker:
        assert worker.answer(records[0]["text"]) == model.classify(records[0]["text"])


def test_entities(make_base: Callable[..., Path], tmp_path: Path) -> None:
    config = configured(
        tmp_path, make_base("bert"), "entities", 250, steps=40, learning_rate=5e-3, batch_tokens=768
    )
    found = trained(config, tmp_path / "out")
    model, records = OnnxTask(to_device(found, tmp_path / "int8"), 1), held_out("entities", 250)
    said = [model.entities(r["text"]).entities for r in records]
    truth = [[Entity(**entity) for entity in r["entities"]] for r in records]
    figures = entity_figures(truth, said, ["PERSON", "PLACE"])
    compare(found, figures, {"precision": 0.01, "recall": 0.01, "f1": 0.01})
    assert figures["f1"] > 0.8
    for record, entities in zip(records, said, strict=True):
        assert all(record["text"][e.start : e.end] == e.text for e in entities)


def test_pairs(make_base: Callable[..., Path], tmp_path: Path) -> None:
    config = configured(
        tmp_path, make_base("t5"), "pairs", 300, steps=90, learning_rate=1e-2, batch_tokens=384,
        times=3,
    )  # fmt: skip
    found = trained(config, tmp_path / "out")
    artifact = to_device(found, tmp_path / "int8")
    model, records = OnnxTask(artifact, 1), held_out("pairs", 300)
    most = int(SLACK * 5) + 4  # as in torch: what does not end is cut there
    said = [model.translate(r["source"], most) for r in records]
    figures = text_figures([r["target"] for r in records], [written.text for written in said])
    compare(found, figures, {"bleu": 1.0, "chrf": 1.0, "rouge_l": 0.01, "exact_match": 0.01})
    assert figures["bleu"] > 80
    assert artifact.manifest.bits_per_weight < 16
    short = model.translate(records[0]["source"], 2)
    assert (short.tokens, short.finish) == (2, "length")
    with TaskModel(artifact, 1) as worker:
        answer = worker.answer(records[0]["source"], most)
        assert isinstance(answer, Written)
        assert answer == said[0]


def headed(base: Path, folder: Path, kind: Any, labels: Sequence[str]) -> Checkpoint:
    """Return a checkpoint with a head of random weights."""
    model = load_headed(Checkpoint.open(base), kind, labels, 1)
    model.save_pretrained(folder, safe_serialization=True)
    shutil.copyfile(base / "tokenizer.json", folder / "tokenizer.json")
    return Checkpoint.open(folder)


@pytest.mark.parametrize("family", ["distilbert", "roberta", "llama"])
def test_each_family_computes_in_float32_what_torch_does(
    make_base: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path: Path,
    family: str,
) -> None:  # fmt: skip
    import torch

    if family == "llama":
        base = make_checkpoint("llama", hidden_size=64, intermediate_size=128)
    else:
        base = make_base(family)
    checkpoint = headed(base, tmp_path / "headed", "classes", LABELS)
    recipe = Recipe.of("onnx", "f32")
    device = OnnxTask(convert(checkpoint, recipe, tmp_path / "f32", progress=NoProgress()), 1)
    model, tokenizer = load_headed(checkpoint, "classes"), text_tokenizer(checkpoint)
    for text in TEXTS:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            wanted = model(ids).logits[0].softmax(-1)
        said = device.classify(text).probabilities
        assert [said[label] for label in LABELS] == pytest.approx(wanted.tolist(), abs=1e-4)


def test_a_graph_that_computes_something_else_is_no_artifact(
    make_base: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimum.exporters import onnx as exporter

    checkpoint = headed(make_base("bert"), tmp_path / "headed", "entities", ["O", "B-X"])
    whole = exporter.export

    def other(model: Any, *rest: Any, **options: Any) -> Any:
        found = whole(model, *rest, **options)
        model.classifier.bias.data += 1.0
        return found

    monkeypatch.setattr(exporter, "export", other)
    with pytest.raises(GateError, match="does not compute what the checkpoint does"):
        convert(checkpoint, Recipe.of("onnx", "int8"), tmp_path / "out", progress=NoProgress())
    assert not [path.name for path in tmp_path.iterdir() if path.name != "headed"]


def test_from_records_to_an_answer_in_two_commands(
    make_base: Callable[..., Path], tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from edgekit.cli import cli

    config = configured(tmp_path, make_base("bert"), "entities", steps=6, times=1)
    words = ["train", str(config), "-o", str(tmp_path / "out"), "--then-convert", "onnx:int8"]
    result = CliRunner().invoke(cli, [*words, "--json"])
    assert result.exit_code == 0, result.output
    artifact = json.loads(result.stdout)["artifact"]
    answer = CliRunner().invoke(cli, ["run", artifact, "it was Kalomi, indeed.", "--json"])
    found = json.loads(answer.stdout)
    assert (found["task"], found["cut"]) == ("entities", False)
    facts = json.loads(CliRunner().invoke(cli, ["inspect", artifact, "--json"]).stdout)
    assert facts["task"]["labels"][0] == "O"
    assert sorted(f["path"] for f in facts["files"]) == ["model.onnx", "tokenizer.json"]
