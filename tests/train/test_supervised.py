"""A step's loss and gradient, against transformers' own loss over the same conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converters.checkpoint import Checkpoint
from converters.reference import load_model
from edgekit.progress import NoProgress
from edgekit.train.configuration import DataSection
from edgekit.train.dataset import DataSet, read_data
from edgekit.train.examples import ChatEncoder
from edgekit.train.hardware import Hardware
from edgekit.train.supervised import Supervision


@pytest.fixture
def model(tiny_checkpoint: Path) -> Any:
    return load_model(Checkpoint.open(tiny_checkpoint))


@pytest.fixture
def data(tiny_checkpoint: Path, tmp_path: Path) -> DataSet:
    """Return conversations of very different lengths."""
    file = tmp_path / "chats.jsonl"
    with file.open("w") as stream:
        for n in range(1, 12):
            asked = {"role": "user", "content": "why does a kettle boil? " * (12 - n)}
            answer = {"role": "assistant", "content": f"the fox number {n} " * n * n}
            stream.write(json.dumps({"messages": [asked, answer]}) + "\n")
    encoder = ChatEncoder(Checkpoint.open(tiny_checkpoint), 512, "cut")
    section = DataSection("chat", (file,), evaluation_share=0.2)
    return read_data(section, encoder, 640, tmp_path, NoProgress())


@pytest.mark.parametrize("logits_at_once", [1 << 24, 640 * 100])
def test_a_step_is_the_mean_over_all_its_learnt_tokens(
    model: Any, data: DataSet, logits_at_once: int
) -> None:
    import torch

    batch = list(range(len(data.training.lengths)))
    lesson = Supervision(model, data, 512, Hardware("cpu", False, logits_at_once))
    loss = lesson.backward(batch)
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    losses = []
    for index in batch:
        ids, learnt = (torch.from_numpy(array) for array in data.training.example(index))
        logits = model(ids[None]).logits[0, :-1]
        chosen = learnt[1:]
        losses.append(-logits.log_softmax(-1)[chosen, ids[1:][chosen]])
    wanted = torch.cat(losses).mean()
    wanted.backward()
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_judging_is_the_mean_over_the_held_out_tokens(model: Any, data: DataSet) -> None:
    import torch

    part = data.evaluation
    figures = Supervision(model, data, 512, Hardware("cpu", False, 640 * 600)).judge()
    total = 0.0
    for index in range(len(part.lengths)):
        ids, learnt = (torch.from_numpy(array) for array in part.example(index))
        labels = torch.where(learnt, ids, -100)
        with torch.inference_mode():
            total += float(model(ids[None], labels=labels[None]).loss) * part.targets[index]
    assert figures["evaluation_loss"] == pytest.approx(total / sum(part.targets), rel=1e-5)
    assert figures["evaluation_perplexity"] == pytest.approx(
        float(torch.tensor(figures["evaluation_loss"]).exp()), rel=1e-5
    )
