"""A teacher: the mix is Hinton's, and one of other tokens is refused."""

from __future__ import annotations

import json
import shutil
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
from edgekit.train.examples import ChatEncoder
from edgekit.train.guided import GuidedSupervision
from edgekit.train.hardware import Hardware
from edgekit.train.teacher import Teacher
from edgekit.workflows.train import prepare_training, run_training

from .interrupts import Interrupts, interrupt

pytestmark = pytest.mark.filterwarnings("ignore")
WEIGHT, TEMPERATURE = 0.3, 2.0


@pytest.fixture(scope="session")
def student(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="session")
def larger(make_checkpoint: Callable[..., Path], student: Path) -> Path:
    """Return a larger model of the same tokens, with rows of padding behind them."""
    size = int(Checkpoint.open(student).config["vocab_size"])
    return make_checkpoint("qwen2", num_hidden_layers=3, vocab_size=size + 32)


def write_chats(file: Path, count: int) -> None:
    with file.open("w") as stream:
        for n in range(count):
            asked = {"role": "user", "content": f"add {n} and 3"}
            answer = {"role": "assistant", "content": f"{n} and 3 is {n + 3}"}
            stream.write(json.dumps({"messages": [asked, answer]}) + "\n")


def distributions(model: Any, ids: np.ndarray, size: int, temperature: float) -> np.ndarray:
    """Return ln p of each next token, float64 [length, size]."""
    import torch

    with torch.inference_mode():
        logits = model(torch.from_numpy(ids)[None]).logits[0, :, :size].double().numpy()
    logits = logits / temperature
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def expected(student: Any, teacher: Any, part: Any, indices: list[int]) -> tuple[float, float]:
    """Return the mean surprise and the mean divergence of the learnt tokens, in numpy."""
    size, said, apart = int(student.config.vocab_size), [], []
    for index in indices:
        ids, learnt = part.example(index)
        plain = distributions(student, ids, size, 1.0)
        ours = distributions(student, ids, size, TEMPERATURE)
        theirs = distributions(teacher, ids, size, TEMPERATURE)
        for i in range(1, len(ids)):
            if learnt[i]:
                said.append(-plain[i - 1, ids[i]])
                p, q = theirs[i - 1], ours[i - 1]
                apart.append((np.exp(p) * (p - q)).sum())
    return float(np.mean(said)), float(np.mean(apart))


def read_chats(student: Path, folder: Path) -> DataSet:
    write_chats(folder / "chats.jsonl", 14)
    section = DataSection("chat", (folder / "chats.jsonl",), evaluation_share=0.3)
    encoder = ChatEncoder(Checkpoint.open(student), 512, "error")
    return read_data(section, encoder, 640, folder, NoProgress())


def test_the_loss_is_the_mix_of_both(student: Path, larger: Path, tmp_path: Path) -> None:
    import torch

    data, hardware = read_chats(student, tmp_path), Hardware("cpu", False, 640 * 200)
    model, big = (load_model(Checkpoint.open(path)) for path in (student, larger))
    teacher = Teacher(Checkpoint.open(larger), None, hardware)
    lesson = GuidedSupervision(model, data, 100, hardware, teacher, WEIGHT, TEMPERATURE)
    said, apart = expected(model, big, data.evaluation, list(range(len(data.evaluation.lengths))))
    found = lesson.judge()
    mixed = (1 - WEIGHT) * said + WEIGHT * TEMPERATURE**2 * apart
    assert found["evaluation_divergence"] == pytest.approx(apart, rel=1e-4)
    assert found["evaluation_perplexity"] == pytest.approx(np.exp(said), rel=1e-4)
    assert found["evaluation_loss"] == pytest.approx(mixed, rel=1e-4)
    batch = [5, 0, 2]
    said, apart = expected(model, big, data.training, batch)
    mixed = (1 - WEIGHT) * said + WEIGHT * TEMPERATURE**2 * apart
    assert lesson.backward(batch) == pytest.approx(mixed, rel=1e-4)
    # what a small step along the gradient changes is what the gradient says
    norm = sum(float((p.grad**2).sum()) for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 / norm * parameter.grad
    said, apart = expected(model, big, data.training, batch)
    moved = (1 - WEIGHT) * said + WEIGHT * TEMPERATURE**2 * apart
    assert mixed - moved == pytest.approx(1e-3, rel=0.05)


def configured(folder: Path, parent: Path, teacher: Path, more: str = "") -> Path:
    write_chats(folder / "chats.jsonl", 60)
    (folder / "run.toml").write_text(
        f'[model]\ncheckpoint = "{parent}"\n'
        '[data]\nkind = "chat"\nfiles = ["chats.jsonl"]\nevaluation_share = 0.2\n'
        "[evaluate]\ntimes = 2\n[train]\nsteps = 6\n"
        "learning_rate = 3e-3\nbatch_tokens = 200\nsave_seconds = 1e-9\n"
        f'[teacher]\ncheckpoint = "{teacher}"\nweight = 0.5\n{more}'
    )
    return folder / "run.toml"


@pytest.mark.slow
def test_a_run_with_a_teacher_comes_closer_and_resumes_to_the_bit(
    student: Path, larger: Path, tmp_path: Path
) -> None:
    config = read_configuration(configured(tmp_path, student, larger))
    straight = run_training(config, tmp_path / "straight", progress=NoProgress())
    before, after = straight.how["before"], straight.how["after"]
    assert after["loss"] < 0.9 * before["loss"]
    assert straight.how["teacher_digest"] == Checkpoint.open(larger).digest()
    assert after["divergence"] < before["divergence"]
    assert "divergence from the teacher" in (straight.path / "README.md").read_text()
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "out", progress=Interrupts(2, interrupt))
    assert prepare_training(config, NoProgress()).resumed_step == 2
    resumed = run_training(config, tmp_path / "out", progress=NoProgress())
    files = [found.path / "model.safetensors" for found in (straight, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_teacher_that_does_not_fit_is_refused(
    student: Path, larger: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(larger, other)
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace("<|im_start|>", "<|other|>"))
    short = make_checkpoint("llama", max_position_embeddings=64)
    for teacher, why in (
        (other, "line 15: .teacher. checkpoint .* has another tokenizer than"),
        (short, "was made for 64 tokens, and the window has 512"),
        (tmp_path / "absent", "line 15: .teacher. checkpoint: there is no checkpoint"),
    ):
        config = read_configuration(configured(tmp_path, student, teacher))
        with pytest.raises(InputError, match=why):
            prepare_training(config, NoProgress())
