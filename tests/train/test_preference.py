"""Preferences: the loss is the paper's, pairs stay whole, and a run of them is never lost."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.reference import load_model
from edgekit.errors import InputError
from edgekit.progress import NoProgress
from edgekit.train.configuration import DataSection, read_configuration
from edgekit.train.dataset import DataSet, read_data
from edgekit.train.hardware import Hardware
from edgekit.train.preference import PreferenceLesson
from edgekit.train.preference_examples import PreferenceEncoder
from edgekit.train.records import read_preferences
from edgekit.workflows.train import prepare_training, run_training

from .interrupts import Interrupts, interrupt

pytestmark = pytest.mark.filterwarnings("ignore")
BETA = 0.3


def write_pairs(file: Path, count: int) -> None:
    """Write sums, each with the right answer and one that is evasive."""
    generator = random.Random(5)
    with file.open("w") as stream:
        for _ in range(count):
            left, right = generator.randint(0, 99), generator.randint(0, 9)
            asked = {"role": "user", "content": f"add {left} and {right}"}
            answers = {
                "chosen": f"it is {left + right}",
                "rejected": "why would you " * (right + 1),
            }
            stream.write(json.dumps({"messages": [asked], **answers}) + "\n")


def read_pairs(checkpoint: Path, folder: Path, count: int = 12) -> DataSet:
    write_pairs(folder / "pairs.jsonl", count)
    encoder = PreferenceEncoder(Checkpoint.open(checkpoint), 512, "error")
    section = DataSection("preference", (folder / "pairs.jsonl",), evaluation_share=0.3)
    return read_data(section, encoder, 640, folder, NoProgress())


def log_probability(model: Any, ids: np.ndarray, learnt: np.ndarray) -> float:
    """Return ln p of the learnt tokens, in numpy, one example alone in its row."""
    import torch

    with torch.inference_mode():
        logits = model(torch.from_numpy(ids)[None]).logits[0].double().numpy()
    peaks = logits.max(-1, keepdims=True)
    log = logits - peaks - np.log(np.exp(logits - peaks).sum(-1, keepdims=True))
    return float(sum(log[i - 1, ids[i]] for i in range(1, len(ids)) if learnt[i]))


def losses_and_margins(model: Any, before: Any, part: Any) -> tuple[list[float], list[float]]:
    """Return the paper's equation 7 for each pair, and the difference of rewards."""
    margins = []
    for pair in range(len(part.lengths) // 2):
        chosen, rejected = (
            log_probability(model, *part.example(2 * pair + side))
            - log_probability(before, *part.example(2 * pair + side))
            for side in (0, 1)
        )
        margins.append(BETA * (chosen - rejected))
    return [float(np.log1p(np.exp(-margin))) for margin in margins], margins


def disturb(model: Any) -> None:
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def test_loss_accuracy_and_margin_are_those_of_the_paper(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data = read_pairs(tiny_checkpoint, tmp_path)
    model, before = (load_model(Checkpoint.open(tiny_checkpoint)) for _ in range(2))
    lesson = PreferenceLesson(model, data, 300, Hardware("cpu", False, 640 * 700), BETA)
    lesson.ask_reference(tmp_path / "run", NoProgress())
    untouched = lesson.judge()
    assert untouched["evaluation_loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert untouched["evaluation_accuracy"] == 0.5
    disturb(model)
    losses, margins = losses_and_margins(model, before, data.evaluation)
    found = lesson.judge()
    assert found["evaluation_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["evaluation_margin"] == pytest.approx(np.mean(margins), rel=1e-3, abs=1e-4)
    assert found["evaluation_accuracy"] == np.mean([margin > 0 for margin in margins])
    losses, _ = losses_and_margins(model, before, data.training)
    batch = [4, 0, 3]
    assert lesson.backward(batch) == pytest.approx(np.mean([losses[i] for i in batch]), rel=1e-4)


def test_the_gradient_is_the_papers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Equation 8: each answer's gradient of ln p counts by how wrong the reward is."""
    import torch

    data = read_pairs(tiny_checkpoint, tmp_path)
    model, before = (load_model(Checkpoint.open(tiny_checkpoint)) for _ in range(2))
    lesson = PreferenceLesson(model, data, 512, Hardware("cpu", False, 1 << 24), BETA)
    lesson.ask_reference(tmp_path / "run", NoProgress())
    disturb(model)
    batch = [1, 2]
    lesson.backward(batch)
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    _, margins = losses_and_margins(model, before, data.training)
    for pair in batch:
        weight = BETA / (1 + np.exp(margins[pair])) / len(batch)
        for side, sign in ((0, -1), (1, 1)):
            ids, learnt = (torch.from_numpy(a) for a in data.training.example(2 * pair + side))
            log = model(ids[None]).logits[0, :-1].log_softmax(-1)
            (sign * weight * log[learnt[1:], ids[1:][learnt[1:]]].sum()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_only_the_answers_up_to_their_stop_token_count(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data = read_pairs(tiny_checkpoint, tmp_path)
    tokenizer = PreferenceEncoder(Checkpoint.open(tiny_checkpoint), 512, "error")._tokenizer
    line = json.loads(
        (tmp_path / "pairs.jsonl").read_text().splitlines()[data.training.places[0] - 1]
    )
    for side, key in enumerate(("chosen", "rejected")):
        ids, learnt = data.training.example(side)
        assert tokenizer.decode(ids[learnt].tolist(), skip_special_tokens=False) == (
            line[key] + "<|im_end|>"
        )


def test_a_reference_that_was_kept_is_not_asked_again(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data = read_pairs(tiny_checkpoint, tmp_path)
    model = load_model(Checkpoint.open(tiny_checkpoint))
    common = (model, data, 512, Hardware("cpu", False, 1 << 24), BETA)
    PreferenceLesson(*common).ask_reference(tmp_path / "run", NoProgress())
    disturb(model)
    again = PreferenceLesson(*common)
    again.ask_reference(tmp_path / "run", NoProgress())
    assert again.judge()["evaluation_margin"] != 0


def test_pairs_of_one_prompt_lie_on_one_side(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with (tmp_path / "pairs.jsonl").open("w") as stream:
        for n in range(40):
            asked = {"role": "user", "content": f"prompt {n // 4}"}
            record = {"messages": [asked], "chosen": f"good {n}", "rejected": f"bad {n}"}
            stream.write(json.dumps(record) + "\n")
    encoder = PreferenceEncoder(Checkpoint.open(tiny_checkpoint), 512, "error")
    section = DataSection("preference", (tmp_path / "pairs.jsonl",), evaluation_share=0.5)
    data = read_data(section, encoder, 640, tmp_path, NoProgress())
    sides = [
        {(place - 1) // 4 for place in part.places} for part in (data.training, data.evaluation)
    ]
    assert len(sides[0]) + len(sides[1]) == 10
    assert not sides[0] & sides[1]


GOOD = {"messages": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"messages": []}, "'messages' is \\[\\], not a list"),
        ({"chosen": " "}, "'chosen' is ' ', not a text"),
        ({"rejected": 3}, "'rejected' is 3, not a text"),
        ({"rejected": "b"}, "the same text"),
        ({"rejected": "\ud800"}, "'rejected' has half a character"),
        (
            {"messages": [*GOOD["messages"], {"role": "assistant", "content": "x"}]},
            "not the user's",
        ),
        ({"messages": [{"role": "user"}]}, "message 1: 'content' is missing"),
    ],
)
def test_a_bad_pair_is_named(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | change) + "\n")
    with pytest.raises(InputError, match=f"line 2.*{why}"):
        list(read_preferences(file))


def configured(folder: Path, parent: Path, more: str = "", **train: Any) -> Path:
    write_pairs(folder / "pairs.jsonl", 40)
    settings = {"steps": 6, "learning_rate": 1e-3, "batch_tokens": 300} | train
    (folder / "run.toml").write_text(
        f'[model]\ncheckpoint = "{parent}"\n'
        '[data]\nkind = "preference"\nfiles = ["pairs.jsonl"]\nevaluation_share = 0.2\n'
        "[evaluate]\ntimes = 2\n[train]\n"
        + "".join(f"{key} = {value}\n" for key, value in settings.items())
        + more
    )
    return folder / "run.toml"


@pytest.mark.slow
def test_a_run_of_preferences_learns_and_survives_interruption_to_the_bit(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    parent = make_checkpoint("llama", hidden_size=64, intermediate_size=128)
    config = read_configuration(configured(tmp_path, parent, save_seconds=1e-9))
    straight = run_training(config, tmp_path / "straight", progress=NoProgress())
    before, after = straight.how["before"], straight.how["after"]
    assert before["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert after["loss"] < 0.5
    assert (before["accuracy"], after["accuracy"]) == (0.5, 1.0)
    assert after["margin"] > 0.5
    card = (tmp_path / "straight" / "README.md").read_text()
    assert f"| loss, nats a pair | {before['loss']:.4f} | {after['loss']:.4f} |" in card
    assert f"| accuracy of preference | 0.5000 | {after['accuracy']:.4f} |" in card
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "out", progress=Interrupts(3, interrupt))
    assert prepare_training(config, NoProgress()).resumed_step == 3
    resumed = run_training(config, tmp_path / "out", progress=NoProgress())
    files = [found.path / "model.safetensors" for found in (straight, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes() != (parent / "model.safetensors").read_bytes()
