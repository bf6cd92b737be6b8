"""Rounds rows of weights to the grids of bitsandbytes, in numpy, to the same bytes.

The formulas are those of LLM.int8 (arXiv 2208.07339, section 2.1: absolute maximum of a row) and
of QLoRA (arXiv 2305.14314, section 3: blocks of 64, nearest of 16 levels). It knows no file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.bitsandbytes_layout import NF4_BLOCK, NF4_LEVELS

LARGEST_CODE = 127.0


def int8_rows(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return codes [rows, columns] and scales [rows]; a weight is code * scale / 127.

    A row of zeros has scale 0.
    """
    scales = np.abs(weights).max(axis=1)
    factors = _reciprocals(scales) * np.float32(LARGEST_CODE)  # two roundings, as torch has them
    return np.rint(weights * factors[:, None]).astype(np.int8), scales


def nf4_blocks(weights: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return packed codes [(weights + 1) // 2] and scales [blocks] of all weights in a row.

    A byte holds two codes, the first in its upper half; a weight is its code's level * scale.
    """
    flat = weights.ravel()
    padded = np.zeros(-(-flat.size // NF4_BLOCK) * NF4_BLOCK, dtype=np.float32)
    padded[: flat.size] = flat
    blocks = padded.reshape(-1, NF4_BLOCK)
    scales = np.abs(blocks).max(axis=1)
    levels = np.array(NF4_LEVELS, dtype=np.float32)
    between = (levels[:-1] + levels[1:]) / np.float32(2)
    codes = np.searchsorted(between, (blocks * _reciprocals(scales)[:, None]).ravel()).astype(
        np.uint8
    )
    codes = codes[: flat.size + flat.size % 2]
    return (codes[::2] << np.uint8(4)) | codes[1::2], scales


def _reciprocals(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / scale, and 0 for a scale of 0."""
    return np.divide(np.float32(1.0), scales, out=np.zeros_like(scales), where=scales > 0)
