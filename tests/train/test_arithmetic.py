"""The FLOPs of a step, against torch's own count of what it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converters.checkpoint import Checkpoint
from converters.reference import load_model
from edgekit.train.arithmetic import Peak, Work, peak_of, vendors_peak, work_of
from edgekit.train.hardware import Hardware
from edgekit.train.meter import Meter
from edgekit.train.trained import choose

LENGTH, ROWS, WIDTH, RANK = 96, 3, 256, 4


@pytest.fixture
def model(tiny_checkpoint: Path) -> Any:
    found = load_model(Checkpoint.open(tiny_checkpoint))
    found.set_attn_implementation("eager")  # plain products, each of which is counted
    return found


def counted(model: Any) -> int:
    """Return the FLOPs of a forward and a backward pass as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % 600
    with FlopCounterMode(display=False) as counter:
        model(ids, use_cache=False).logits.float().logsumexp(-1).sum().backward()
    return int(counter.get_total_flops())


def test_full_training_is_counted_as_torch_counts_it(model: Any) -> None:
    choose(model, "full")
    # torch counts the product that makes the table of positions, 32 frequencies by each position
    positions = 2 * 32 * LENGTH
    ours = work_of(model).flops([LENGTH] * ROWS)
    assert counted(model) - ours == positions


def test_frozen_weights_need_no_gradient_of_their_own(model: Any) -> None:
    choose(model, "lora", RANK)
    # What our figure leaves out: nothing below the first layer's adapters needs a gradient, so
    # that neither its three input matrices nor their adapters pass one on (2 FLOPs a weight).
    outputs = WIDTH + 2 * (WIDTH // 2)
    not_passed_on = 2 * LENGTH * ROWS * (WIDTH * outputs + 3 * WIDTH * RANK)
    ours = work_of(model).flops([LENGTH] * ROWS)
    assert counted(model) == ours - not_passed_on + 2 * 32 * LENGTH


def test_the_head_counts_and_the_embedding_does_not(model: Any) -> None:
    choose(model, "full")
    size, config = model.config.vocab_size * WIDTH, model.config
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert size < matrices
    assert work_of(model).per_token == 6 * matrices  # tied: named once, counted as the head
    width = config.hidden_size // config.num_attention_heads
    assert work_of(model).per_pair == 12 * 2 * config.num_attention_heads * width


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla T4", 65),
    ],
)
def test_a_gpu_is_known_by_its_name(name: str, tflops: float) -> None:
    assert vendors_peak(name) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "Odd T400", ""])
def test_one_that_is_not_known_is_not_guessed(name: str) -> None:
    assert vendors_peak(name) is None


def test_on_a_cpu_the_peak_is_measured() -> None:
    peak = peak_of(Hardware("cpu", False, 1 << 20))
    assert peak.measured
    assert 1e9 < peak.flops < 1e14
    assert peak.words.endswith("measured")
    assert Peak(989.5e12, measured=False).words == "990 TFLOP/s"


def test_the_meter_tells_the_last_step_and_the_last_few() -> None:
    meter = Meter(Work(per_token=10, per_pair=1), Peak(1000.0, True), processes=2)
    first = meter.step([3, 2], 0.5)  # 5 tokens, 50 + 13 FLOPs
    assert (first.tokens_per_s, first.mfu) == (10, pytest.approx(63 / 0.5 / 2000))
    meter.step([5], 1.5)
    assert meter.recent.tokens_per_s == 5
    assert meter.recent.mfu == pytest.approx((63 + 75) / 2 / 2000)
    assert meter.memory_bytes() > 1 << 20
    assert Meter().step([5], 1.0).mfu is None
