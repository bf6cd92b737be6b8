"""The lesson: its losses are those of transformers, and dropout follows from seed and batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.heads.model import labels_of, load_headed, padding_of, text_tokenizer
from edgekit.errors import InputError
from edgekit.progress import NoProgress
from edgekit.task import TaskKind
from edgekit.train.configuration import read_configuration
from edgekit.train.dataset import DataSet
from edgekit.train.hardware import Hardware
from edgekit.train.heads.examples import asked
from edgekit.train.heads.lesson import Head, HeadLesson
from edgekit.workflows.train import prepare_training
from edgekit.workflows.train_heads import HeadJob

from .conftest import configured

HARDWARE = Hardware("cpu", bf16=False, logits_at_once=20_000)


def lesson_of(folder: Path, base: Path, kind: TaskKind, seed: int = 0) -> tuple[Any, DataSet, Any]:
    """Return a lesson on records of `kind`, its data, and the model."""
    configuration = read_configuration(configured(folder, base, kind))
    parent, data = Checkpoint.open(base), prepare_training(configuration, NoProgress()).data
    labels = HeadJob(configuration, NoProgress())._labels
    model = load_headed(parent, kind, labels, 3)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    head = Head(model, kind, labels, padding_of(parent), text_tokenizer(parent))
    return HeadLesson(head, data, HARDWARE, seed), data, model


@pytest.mark.parametrize(
    ("kind", "family", "dropout"),
    [
        (
            "classes",
            "distilbert",
            {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
        ),
        ("entities", "roberta", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}),
        ("pairs", "t5", {}),
    ],
)
def test_losses_and_gradients_are_those_of_transformers(
    make_base: Callable[..., Path], tmp_path: Path, kind: TaskKind, family: str,
    dropout: dict[str, float],
) -> None:  # fmt: skip
    import torch

    lesson, data, model = lesson_of(tmp_path, make_base(family, **dropout), kind)
    batch, total, count = list(range(6)), torch.zeros(()), 0
    for index in batch:
        example = asked(data.training, index)
        answer = torch.tensor(example.answer)
        if kind == "entities":
            answer[[0, -1]] = -100
        learnt = int((answer != -100).sum())
        labels = answer if kind == "classes" else answer[None]
        total = total + model(torch.tensor(example.token_ids)[None], labels=labels).loss * learnt
        count += learnt
    (total / count).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert lesson.backward(batch) == pytest.approx(float(total.detach()) / count, rel=1e-5)
    for name, parameter in model.named_parameters():
        if name in wanted:
            assert torch.allclose(parameter.grad, wanted[name], atol=1e-5), name
    assert not model.training


def test_dropout_follows_from_seed_and_batch(
    make_base: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    base = make_base("bert", hidden_dropout_prob=0.3)
    lesson, _, _ = lesson_of(tmp_path, base, "classes")
    other, _, _ = lesson_of(tmp_path, base, "classes", seed=1)
    before = torch.random.get_rng_state()
    first, second = lesson.backward([0, 1, 2]), lesson.backward([1, 2, 3])
    assert lesson.backward([0, 1, 2]) == first
    assert len({first, second, other.backward([0, 1, 2])}) == 3
    assert torch.equal(torch.random.get_rng_state(), before)
    assert lesson.judge() == lesson.judge()


def test_what_is_judged_is_what_the_model_says(
    make_base: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    lesson, data, model = lesson_of(tmp_path, make_base("bert"), "classes")
    right, part = 0, data.evaluation
    for index in range(len(part.lengths)):
        example = asked(part, index)
        with torch.inference_mode():
            logits = model(torch.tensor(example.token_ids)[None]).logits[0]
        right += int(logits.argmax()) == int(example.answer[0])
    figures = lesson.judge()
    assert figures["evaluation_accuracy"] == pytest.approx(right / len(part.lengths))
    assert np.isfinite(list(figures.values())).all()


def test_a_checkpoint_without_a_body_gets_no_new_one(
    make_base: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "torn"
    folder.mkdir()
    base = make_base("bert")
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    tensors = load_file(base / "model.safetensors")
    del tensors["bert.encoder.layer.0.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"layer.0.output.dense.weight is missing"):
        load_headed(Checkpoint.open(folder), "classes", ["a", "b"], 0)
    with pytest.raises(InputError, match=r"tiny-bert: tensor bert.pooler"):  # or a head
        load_headed(Checkpoint.open(base), "classes")
    with pytest.raises(InputError, match="does not name the outputs"):
        labels_of(Checkpoint.open(base))
