"""What all tests of pruning need: checkpoints of four layers, and logits from three sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.pruning.prune import Texts, prune, write
from converters.pruning.request import Request
from converters.recipe import Recipe
from edgekit.progress import NoProgress

IDS = tuple(int(i) for i in np.random.default_rng(0).integers(3, 500, 60))
Logits = NDArray[np.float32]


def random_texts(count: int, length: int, seed: int, vocabulary: int = 500) -> Any:
    """Return token ids of `count` texts."""
    draws = np.random.default_rng(seed).integers(3, vocabulary, (count, length))
    return tuple(tuple(int(i) for i in row) for row in draws)


TEXTS = Texts(random_texts(4, 24, 1), random_texts(3, 24, 2), "random", "other random")


@pytest.fixture(scope="session")
def four_layers(make_checkpoint: Callable[..., Path]) -> Callable[..., Checkpoint]:
    """Return a function that opens a tiny checkpoint of four layers."""

    def make(family: str = "llama", **overrides: Any) -> Checkpoint:
        settings = {"num_hidden_layers": 4, **overrides}
        return Checkpoint.open(make_checkpoint(family, **settings))

    return make


@pytest.fixture
def pruned_to(tmp_path: Path) -> Callable[..., Checkpoint]:
    """Return a function that prunes a checkpoint and writes the result."""

    def make(checkpoint: Checkpoint, texts: Texts = TEXTS, **asked: Any) -> Checkpoint:
        pruned = prune(checkpoint, Request(**asked), texts, NoProgress())
        return write(pruned, tmp_path / "pruned", NoProgress())

    return make


def model_of(checkpoint: Checkpoint) -> Any:
    """Return the checkpoint as transformers loads it, in float32."""
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint.path, dtype=torch.float32
    ).eval()


def torch_logits(model: Any, ids: Any = IDS) -> Logits:
    """Return the logits of all positions: [length, vocabulary]."""
    import torch

    with torch.inference_mode():
        logits: Logits = model(torch.tensor([list(ids)]), use_cache=False).logits[0].numpy()
    return logits


def gguf_logits(checkpoint: Checkpoint, folder: Path, ids: Any = IDS) -> Logits:
    """Convert to GGUF in float32 and return llama.cpp's logits."""
    import llama_cpp

    artifact = convert(checkpoint, Recipe.of("gguf", "f32"), folder, progress=NoProgress())
    model = llama_cpp.Llama(
        str(artifact.path / artifact.manifest.entry), n_ctx=256, logits_all=True, verbose=False,
        n_threads=1, n_threads_batch=1, type_k=0, type_v=0,
    )  # fmt: skip
    model.eval(list(ids))
    logits = np.array(model.scores[: len(ids)], dtype=np.float32)
    model.close()
    return logits


def onnx_logits(checkpoint: Checkpoint, folder: Path, ids: Any = IDS) -> Logits:
    """Convert to ONNX in float32 and return ONNX Runtime's logits."""
    from runtimes.onnx_engine import OnnxEngine

    artifact = convert(checkpoint, Recipe.of("onnx", "f32"), folder, progress=NoProgress())
    engine = OnnxEngine(artifact, context_length=256, threads=1)
    out = np.full((len(ids), engine.vocabulary_size), np.nan, dtype=np.float32)
    engine.score(list(ids), out)
    engine.close()
    return out


@pytest.fixture
def assert_same_everywhere(tmp_path: Path) -> Callable[..., None]:
    """Return a check: transformers, llama.cpp and ONNX Runtime give the expected logits."""

    def check(
        checkpoint: Checkpoint, expected: Logits, ids: Any = IDS, *, gguf: bool = True
    ) -> None:
        assert np.abs(torch_logits(model_of(checkpoint), ids) - expected).max() < 1e-5
        if gguf:
            assert np.abs(gguf_logits(checkpoint, tmp_path / "gguf", ids) - expected).max() < 2e-4
        assert np.abs(onnx_logits(checkpoint, tmp_path / "onnx", ids) - expected).max() < 2e-4

    return check


@pytest.fixture
def reload() -> Callable[[Checkpoint], Any]:
    """Return the function that loads a checkpoint with transformers."""
    return model_of


@pytest.fixture
def logits() -> Callable[..., Logits]:
    """Return the function that gives a torch model's logits."""
    return torch_logits


@pytest.fixture
def texts() -> Texts:
    """Return random texts to choose and to measure on."""
    return TEXTS
