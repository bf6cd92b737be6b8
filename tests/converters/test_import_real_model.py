"""Import of the real model: its weights, its answers and its chat template, by other programs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from converters.import_gguf import import_gguf
from edgekit.gguf_header import read_header

from ..real_model import real_gguf
from ..token_parity.phrases import CODE, PROSE
from .tiny_gguf import write_gguf

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Path]:
    """Return the imported checkpoint. It is removed at once: pytest would keep half a gigabyte."""
    with tempfile.TemporaryDirectory(prefix="edgekit-real-") as folder:
        import_gguf(real_gguf(), Path(folder))
        yield Path(folder)


def test_the_header_is_read_in_a_moment() -> None:
    path = real_gguf()  # fetched and hashed the first time
    start = time.process_time()
    assert len(read_header(path).tensors) == 272
    assert time.process_time() - start < 0.5  # 0.05 s on a quiet machine


def test_weights_are_those_of_transformers_own_loader(checkpoint: Path) -> None:
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint))
    loaded = load_gguf_checkpoint(str(real_gguf()), return_tensors=True, model_to_load=model)
    with safe_open(checkpoint / "model.safetensors", "pt") as found:
        assert set(found.keys()) == set(loaded["tensors"])
        assert all(torch.equal(found.get_tensor(k), v) for k, v in loaded["tensors"].items())
    config = AutoConfig.from_pretrained(checkpoint).to_dict()
    for key, value in loaded["config"].items():
        assert key.startswith("_") or key == "unk_token_id" or config[key] == pytest.approx(value)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def predictions(checkpoint: Path) -> tuple[list[int], np.ndarray]:
    """Return 500 token ids and torch's log-probabilities after each, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = " ".join(PROSE) + "\n".join(CODE)
    ids = AutoTokenizer.from_pretrained(checkpoint).encode(text)[:500]
    assert len(ids) == 500
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        return ids, log_probabilities(model(torch.tensor([ids])).logits[0].numpy())


def divergence(path: Path, predictions: tuple[list[int], np.ndarray]) -> tuple[float, float]:
    """Return mean KL(torch || llama.cpp on the file `path`) and the share of equal best tokens."""
    from llama_cpp import Llama

    ids, reference = predictions
    llama = Llama(str(path), n_ctx=512, n_batch=512, logits_all=True, verbose=False)
    llama.eval(ids)
    found = log_probabilities(np.array(llama.scores[: len(ids)]))
    llama.close()
    kl = (np.exp(reference) * (reference - found)).sum(axis=-1).mean()
    return float(kl), float((reference.argmax(-1) == found.argmax(-1)).mean())


def test_llama_cpp_predicts_the_same_from_the_original_file(
    predictions: tuple[list[int], np.ndarray],
) -> None:
    """Not exactly: with 4-bit weights llama.cpp rounds activations to 8 bits."""
    kl, agreement = divergence(real_gguf(), predictions)
    print(f"original Q4_1 file: mean KL {kl:.2e}, top-1 agreement {agreement:.3f}")
    assert kl < 0.01
    assert agreement > 0.95


def test_llama_cpp_predicts_exactly_the_same_from_the_imported_weights(
    checkpoint: Path, predictions: tuple[list[int], np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "f32.gguf"
    write_gguf(checkpoint, path)
    kl, agreement = divergence(path, predictions)
    path.unlink()
    print(f"float32 file: mean KL {kl:.2e}, top-1 agreement {agreement:.3f}")
    assert abs(kl) < 1e-5
    assert agreement > 0.99


def test_the_chat_template_is_read(checkpoint: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert GenerationConfig.from_pretrained(checkpoint).eos_token_id == 2
