"""How much arithmetic a model's training needs, and what share of it a machine can do at best.

Model FLOPs utilisation as in Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, appendix B: what the
model itself needs counts, and nothing that is computed twice or for padding. It knows no text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgekit.train.hardware import Hardware

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = 2, 2, 2  # FLOPs a token for each weight of a matrix
# Two products, of queries with keys and of shares with values; each once forward, twice backward.
ATTENTION = 12
# Dense bfloat16 (float16 where there is none) with float32 sums, TFLOP/s, from the data sheets and
# architecture white papers of NVIDIA; the sheets' headline figures with sparsity are twice these.
PEAK_TFLOPS = {
    r"\bB200\b": 2250.0,  # DGX B200 data sheet: 72 PFLOP/s FP8 of eight, a quarter of it each dense
    r"\bH200 NVL\b": 835.5,  # H200 data sheet
    r"\bH200\b": 989.5,  # H200 data sheet
    r"\bH100 NVL\b": 835.5,  # H100 data sheet
    r"\bH100 PCIe\b": 756.5,  # H100 data sheet
    r"\bH100\b": 989.5,  # H100 data sheet, SXM
    r"\bA100\b": 312.0,  # A100 data sheet
    r"\bL40S\b": 362.0,  # L40S data sheet
    r"\bL4\b": 121.0,  # L4 data sheet
    r"\bA10\b": 125.0,  # A10 data sheet
    r"\bRTX A6000\b": 154.8,  # RTX A6000 data sheet: 309.7 with sparsity
    r"\bRTX 5090$": 209.5,  # Blackwell GeForce white paper
    r"\bRTX 4090$": 165.2,  # Ada white paper
    r"\bRTX 3090$": 71.0,  # Ampere GA102 white paper
    r"\bT4\b": 65.0,  # T4 data sheet, float16
    r"\bV100-SXM": 125.0,  # V100 data sheet, float16
}
CPU_SIZE, CUDA_SIZE, REPEATS = 512, 8192, 5


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs of a training step: `per_token`, and `per_pair` of tokens of one example."""

    per_token: int
    per_pair: int

    def flops(self, lengths: Iterable[int]) -> int:
        """Return the FLOPs to learn from examples of these lengths."""
        return sum(n * self.per_token + n * n * self.per_pair for n in lengths)


def work_of(model: Any) -> Work:
    """Return what a forward and a backward pass of `model` need.

    6 FLOPs a token for each weight of a matrix, the head's among them (an embedding is looked up,
    not multiplied with); 4 for a frozen one, which needs no gradient of its own; an adapter's
    weights count like any other. Attention over all of an example, as PaLM counts it: 12 times
    layers, heads and their width for each pair of tokens. Norms and activations do not count.
    """
    import torch

    per_token = 0
    for layer in model.modules():
        if not isinstance(layer, torch.nn.Linear):
            continue
        # Not the size of `weight`: one of 4 bits lies packed in it.
        per_token += layer.in_features * layer.out_features * _a_weight(layer.weight)
        beside = [p for name, p in layer.named_parameters(recurse=False) if name != "weight"]
        per_token += sum(p.numel() * _a_weight(p) for p in beside if p.ndim > 1)
    config = model.config
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Work(per_token, ATTENTION * int(config.num_hidden_layers) * heads * int(width))


def _a_weight(parameter: Any) -> int:
    return FORWARD + INPUT_GRADIENT + (WEIGHT_GRADIENT if parameter.requires_grad else 0)


@dataclass(frozen=True, slots=True)
class Peak:
    """The most FLOPs a second of one device, and whether it was `measured` or is the vendor's."""

    flops: float
    measured: bool

    @property
    def words(self) -> str:
        """Return what a share of it is a share of."""
        figure = f"{self.flops / 1e12:.0f} TFLOP/s" if self.flops >= 1e13 else (
            f"{self.flops / 1e9:.0f} GFLOP/s"
        )  # fmt: skip
        return f"{figure}{' measured' if self.measured else ''}"


def peak_of(hardware: Hardware) -> Peak:
    """Return the vendor's figure for a GPU that is known; otherwise measure, in a moment."""
    if hardware.device == "cuda":
        import torch

        known = vendors_peak(torch.cuda.get_device_name())
        if known is not None and hardware.bf16:
            return Peak(known, measured=False)
    return Peak(_measured(hardware), measured=True)


def vendors_peak(device_name: str) -> float | None:
    """Return the FLOP/s of the GPU that CUDA calls `device_name`, None if it is not known."""
    for pattern, tflops in PEAK_TFLOPS.items():
        if re.search(pattern, device_name):
            return tflops * 1e12
    return None


def _measured(hardware: Hardware) -> float:
    """Return the FLOP/s of a product of two large matrices, in the arithmetic of training."""
    import torch

    size = CUDA_SIZE if hardware.device == "cuda" else CPU_SIZE
    dtype = torch.bfloat16 if hardware.bf16 else torch.float32
    left = torch.ones(size, size, dtype=dtype, device=hardware.device)
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        float((left @ left)[0, 0])  # waits until a GPU is done
        seconds.append(time.perf_counter() - begin)
    return float(2.0 * size**3 / min(seconds))
