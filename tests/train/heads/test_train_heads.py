"""Training of models with heads, whole: it learns, resumes to the bit, and leaves a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from converters.checkpoint import Checkpoint
from converters.lineage import read_stage
from edgekit.cli import cli
from edgekit.errors import GateError, InputError, UsageError
from edgekit.files import FolderExistsError
from edgekit.progress import NoProgress
from edgekit.train.configuration import read_configuration
from edgekit.workflows.conversion import Request, plan_request
from edgekit.workflows.train import prepare_training

from .conftest import configured, trained

pytestmark = pytest.mark.filterwarnings("ignore")


class Interrupts:
    """A watcher that interrupts the run once so many steps were made."""

    def __init__(self, after: int) -> None:
        self._left = after

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Any]:
        def advance(count: int) -> None:
            if unit == "steps":
                self._left -= count
                if self._left < 0:
                    raise KeyboardInterrupt

        yield advance


def weights(checkpoint: Checkpoint) -> bytes:
    return (checkpoint.path / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not_dropout_and_all(
    make_base: Callable[..., Path], tmp_path: Path, edgekit_home: Path
) -> None:
    import torch

    base = make_base("bert")
    config = configured(tmp_path, base, "classes", learning_rate=1e-3, save_seconds=1e-9)
    straight = trained(config, tmp_path / "straight")
    for after in (0, 3):
        with pytest.raises(KeyboardInterrupt):
            trained(config, tmp_path / "resumed", Interrupts(after))
    assert prepare_training(read_configuration(config), NoProgress()).resumed_step == 3
    torch.rand(7)  # another process has another random state
    resumed = trained(config, tmp_path / "resumed")
    assert weights(resumed.checkpoint) == weights(straight.checkpoint)
    # what is left: an ordinary checkpoint, with its labels, its card, its curve and its record
    found = straight.checkpoint
    assert found.architecture == "BertForSequenceClassification"
    assert found.config["id2label"] == {"0": "bad", "1": "good", "2": "plain"}
    assert (found.path / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    stage = read_stage(found)
    assert stage is not None
    assert (stage.kind, stage.how["kind"]) == ("trained", "classes")
    after = stage.how["after"]
    assert set(after) == {"loss", "accuracy", "macro_f1"}
    assert after["loss"] < stage.how["before"]["loss"]
    card = (found.path / "README.md").read_text()
    assert f"| accuracy | {stage.how['before']['accuracy']:.4f} | {after['accuracy']:.4f} |" in card
    assert "Its outputs are `bad`, `good`, `plain`." in card
    assert (found.path / "training.png").read_bytes().startswith(b"\x89PNG")
    assert not list((edgekit_home / "cache" / "training").iterdir())
    assert trained(config, tmp_path / "straight").already_there
    config.write_text(config.read_text().replace("steps = 8", "steps = 2"))
    with pytest.raises(FolderExistsError, match="not from this configuration"):
        trained(config, tmp_path / "straight")


@pytest.mark.slow
def test_a_head_that_knows_the_labels_goes_on_learning_in_its_own_order(
    make_base: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_base("distilbert")
    first = trained(configured(tmp_path, base, "classes", steps=3), tmp_path / "first")
    file = first.checkpoint.path / "config.json"
    document = json.loads(file.read_text())
    document["id2label"] = {"0": "plain", "1": "bad", "2": "good"}
    document["label2id"] = {"plain": 0, "bad": 1, "good": 2}
    file.write_text(json.dumps(document))
    config = configured(tmp_path, first.checkpoint.path, "classes", steps=3)
    again = trained(config, tmp_path / "again")
    assert again.how["labels"] == ["plain", "bad", "good"]
    assert again.checkpoint.config["id2label"] == document["id2label"]


def test_the_command_tells_the_measures(make_base: Callable[..., Path], tmp_path: Path) -> None:
    config = configured(tmp_path, make_base("bert"), "entities", steps=4, times=1)
    out = str(tmp_path / "out")
    plan = json.loads(CliRunner().invoke(cli, ["train", str(config), "--dry-run", "--json"]).stdout)
    assert plan["training_records"] + plan["evaluation_records"] == 60
    shown = CliRunner().invoke(cli, ["train", str(config), "-o", out])
    assert shown.exit_code == 0, shown.output
    assert "F1, exact entities" in shown.stdout
    found = json.loads(CliRunner().invoke(cli, ["train", str(config), "-o", out, "--json"]).stdout)
    assert set(found["after"]) == {"loss", "precision", "recall", "f1"}
    assert found["labels"] == ["O", "B-PERSON", "I-PERSON", "B-PLACE", "I-PLACE"]


def test_what_cannot_be_done_is_told_in_a_sentence(
    make_base: Callable[..., Path], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = configured(tmp_path, make_base("bert"), "classes", learning_rate=1e-12, steps=1)
    text = config.read_text()
    with pytest.raises(GateError, match="training did not help"):
        trained(config, tmp_path / "out")
    wrong = [
        (text + "[adapter]\n", r"\[adapter\] is for chats and texts"),
        (text.replace("steps", 'only = "norms"\nsteps'), r"\[train\] only is for chats and texts"),
        (text.replace('"classes"', '"classes"\ncontext = 65'), "line 5: .* is 65, .* 64 tokens"),
        (text.replace('kind = "classes"', 'kind = "pairs"'), "of the family 'bert', and one that"),
        (text.replace('kind = "classes"', 'kind = "entities"'), "line 1 has the key 'label'"),
        (text.replace("classes.jsonl", "none.jsonl"), "not a file"),
    ]
    for changed, why in wrong:
        config.write_text(changed)
        with pytest.raises(InputError, match=why):
            trained(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_is_neither_calibrated_nor_planned(
    make_base: Callable[..., Path], tmp_path: Path
) -> None:
    from converters.convert import convert
    from converters.recipe import Recipe

    checkpoint = Checkpoint.open(make_base("t5"))
    with pytest.raises(UsageError, match="without calibration"):
        Request(checkpoint, Recipe.of("onnx", "int8"), "calibrated")
    with pytest.raises(UsageError, match="not known beforehand"):
        plan_request(Request(checkpoint, Recipe.of("onnx", "int8")), NoProgress())
    for recipe in (Recipe.of("onnx", "int4"), Recipe.of("gguf", "q8_0")):
        with pytest.raises(InputError, match="such a model becomes ONNX in f32 or int8"):
            convert(checkpoint, recipe, tmp_path / "out", progress=NoProgress())
    assert not (tmp_path / "out").exists()
