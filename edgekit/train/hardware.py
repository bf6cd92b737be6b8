"""What to train on: CUDA where there is a GPU, otherwise the CPU, and in which arithmetic.

It knows nothing of models.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from devices.detect import describe
from edgekit.extras import need

BF16_FEATURES = {"avx512_bf16", "amx_bf16"}
CPU_LOGITS, CUDA_LOGITS = 48 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where to compute. `bf16`: matrices are multiplied in bfloat16, weights stay float32.

    `logits_at_once` is how many logits one forward pass may have, positions times vocabulary:
    with their gradients they are the largest tensors of a step.
    """

    device: Literal["cpu", "cuda"]
    bf16: bool
    logits_at_once: int

    @classmethod
    def detect(cls) -> Hardware:
        """Return what this machine has. Raises MissingExtraError without torch."""
        torch = need("torch", "convert")
        if torch.cuda.is_available():
            return cls("cuda", bool(torch.cuda.is_bf16_supported()), CUDA_LOGITS)
        # Without units for it, bfloat16 is emulated, and slower than float32.
        return cls("cpu", bool(BF16_FEATURES & set(describe().features)), CPU_LOGITS)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context to compute a forward pass in."""
        import torch

        if not self.bf16:
            return nullcontext()
        context: AbstractContextManager[Any] = torch.autocast(self.device, dtype=torch.bfloat16)
        return context
