"""Models that are no chat, by ONNX Runtime: graphs made by hand, whose answers are known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.artifact import Artifact, Manifest, Source, finish
from edgekit.cli import cli
from edgekit.errors import InputError, UsageError
from edgekit.task import Task
from runtimes.load import load
from runtimes.onnx_tasks import OnnxTask
from runtimes.task_client import TaskModel
from runtimes.tasks import Classified, Found, FoundEntity

WORDS = ["[UNK]", "[CLS]", "[SEP]", "good", "bad", "Ann", "Lee", "Rio"]
CLASSES, TAGS = ["bad", "good"], ["O", "B-PERSON", "I-PERSON", "B-PLACE"]
SENTIMENT = np.zeros((len(WORDS), 2), np.float32)
SENTIMENT[3, 1] = SENTIMENT[4, 0] = 8.0
NAMES = np.tile(np.float32([3, 0, 0, 0]), (len(WORDS), 1))
NAMES[5, 1], NAMES[6, 2], NAMES[7, 3] = 7.0, 6.0, 5.0


def write_tokenizer(folder: Path, words: Sequence[str]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.save(str(folder / "tokenizer.json"))


def write_graph(file: Path, table: np.ndarray, *, pooled: bool) -> None:
    """Write a graph whose logits are a row of `table` for each token, or the mean of those."""
    from onnx import TensorProto, helper, numpy_helper, save

    kind, steps = ["batch", "length", table.shape[1]], ["logits"]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows" if pooled else "logits"])]
    if pooled:
        kind = ["batch", table.shape[1]]
        nodes.append(helper.make_node("ReduceMean", ["rows", "axes"], steps, keepdims=0))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, kind)
    constants = [numpy_helper.from_array(table, "table")]
    constants += [numpy_helper.from_array(np.array([1]), "axes")] if pooled else []
    graph = helper.make_graph(nodes, "made by hand", [ids], [logits], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Artifact]:
    """Return a function that writes an artifact of classes, or of entities."""

    def write(task: Task | None, table: np.ndarray, context: int = 16) -> Artifact:
        folder = tmp_path / "tiny"
        folder.mkdir()
        write_tokenizer(folder, WORDS)
        write_graph(folder / "model.onnx", table, pooled=task is None or task.kind == "classes")
        manifest = Manifest(
            name="tiny", format="onnx", scheme="f32", entry="model.onnx", architecture="ByHand",
            parameters=table.size, vocabulary_size=len(WORDS), context_length=context,
            kv_bytes_per_token=0, bits_per_weight=32.0, bos_token_id=None, add_bos_token=False,
            stop_token_ids=[], chat_template=None, files=[],
            source=Source("by hand", "0" * 64, "unknown", {}, {}), task=task,
        )  # fmt: skip
        finish(folder, manifest)
        return Artifact.open(folder)

    return write


@pytest.fixture
def sentiment(make: Callable[..., Artifact]) -> Artifact:
    return make(Task("classes", CLASSES), SENTIMENT)


def test_a_class_has_its_probability(sentiment: Artifact) -> None:
    found = OnnxTask(sentiment, 1).classify("good good bad")
    # five tokens with the two at the ends: the mean of their rows is (8 / 5, 16 / 5)
    good = 1 / (1 + np.exp(8 / 5 - 16 / 5))
    assert found.label == "good"
    assert found.probability == pytest.approx(good, rel=1e-6)
    assert found.probabilities == pytest.approx({"bad": 1 - good, "good": good}, rel=1e-6)
    assert (found.prompt_tokens, found.cut) == (5, False)


def test_entities_have_their_characters(make: Callable[..., Artifact]) -> None:
    text = "here  Ann Lee in Rio"
    found = OnnxTask(make(Task("entities", TAGS), NAMES), 1).entities(text)

    def chance(row: int) -> float:
        return float(np.exp(NAMES[row].max()) / np.exp(NAMES[row]).sum())

    assert found == Found(
        (
            FoundEntity(6, 13, "PERSON", "Ann Lee", pytest.approx(chance(6))),
            FoundEntity(17, 20, "PLACE", "Rio", pytest.approx(chance(7))),
        ),
        prompt_tokens=7,
        cut=False,
    )


def test_the_tokens_at_the_ends_are_no_entity(make: Callable[..., Artifact]) -> None:
    table = NAMES.copy()
    table[1:3, 2] = 9.0  # the tags of [CLS] and [SEP] mean nothing: I-PERSON goes on with no name
    found = OnnxTask(make(Task("entities", TAGS), table), 1).entities("[SEP] in Ann")
    assert [entity.text for entity in found.entities] == ["Ann"]


def test_a_worker_says_the_same(sentiment: Artifact) -> None:
    with TaskModel(sentiment, 1) as model:
        assert model.answer("bad") == OnnxTask(sentiment, 1).classify("bad")
        with pytest.raises(InputError, match="the text is empty"):
            model.answer(" \n")
        assert isinstance(model.answer("good"), Classified)  # it goes on


def test_a_text_beyond_the_context_is_cut_and_that_is_said(make: Callable[..., Artifact]) -> None:
    artifact = make(Task("classes", CLASSES), SENTIMENT, context=4)
    found = OnnxTask(artifact, 1).classify("good good bad bad bad")
    assert (found.label, found.prompt_tokens, found.cut) == ("good", 4, True)
    shown = CliRunner().invoke(cli, ["run", str(artifact.path), "good good bad bad bad"])
    assert "only the first 4 tokens" in shown.stderr


def test_a_manifest_that_lies_about_its_graph(make: Callable[..., Artifact]) -> None:
    artifact = make(Task("classes", [*CLASSES, "third"]), SENTIMENT)
    with pytest.raises(InputError, match=r"the shape \(1, 2\), its manifest says \(1, 3\)"):
        OnnxTask(artifact, 1).classify("good")


def test_a_tokenizer_that_knows_more_than_the_model(sentiment: Artifact) -> None:
    file = sentiment.path / "edgekit.json"
    document = json.loads(file.read_text())
    document["vocabulary_size"] = 3
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="makes token 3, and the model has 3"):
        OnnxTask(Artifact.open(sentiment.path), 1).classify("good")


def test_a_damaged_graph_reaches_no_engine(sentiment: Artifact) -> None:
    data = sentiment.entry.read_bytes()
    sentiment.entry.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="is damaged or not an ONNX model"):
        TaskModel(sentiment, 1)


def test_each_model_does_what_it_is_for(sentiment: Artifact, make: Callable[..., Artifact]) -> None:
    with pytest.raises(UsageError, match="tiny says of which class a text is, and nothing else"):
        OnnxTask(sentiment, 1).entities("good")
    with pytest.raises(UsageError, match="is no model to talk to"):
        load(sentiment)


def test_a_model_for_chats_has_no_task(make: Callable[..., Artifact]) -> None:
    with pytest.raises(InputError, match="is a model for chats"):
        TaskModel(make(None, SENTIMENT))


def test_the_command_shows_it(sentiment: Artifact) -> None:
    words = ["run", str(sentiment.path), "good"]
    shown = CliRunner().invoke(cli, words)
    assert shown.stdout.splitlines()[2].split() == ["good", "93.5%"]
    found = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert (found["task"], found["label"]) == ("classes", "good")
    assert found["probabilities"]["bad"] == pytest.approx(1 - found["probability"])
    refused = CliRunner().invoke(cli, [*words, "--system", "be brief"])
    assert isinstance(refused.exception, UsageError)
    assert "--system is for chats" in refused.exception.message
    for command in (["chat"], ["plan"], ["bench"], ["check", "--against", "x"]):
        name, *options = command
        refused = CliRunner().invoke(cli, [name, str(sentiment.path), *options])
        assert isinstance(refused.exception, UsageError), refused.output
        assert "is no model to talk to" in refused.exception.message


def test_the_device_needs_no_torch() -> None:
    program = (
        "import sys, runtimes.task_client, runtimes.task_worker, runtimes.onnx_tasks\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'optimum'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr
