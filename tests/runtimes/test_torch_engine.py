"""torch and bitsandbytes under our engine, against transformers on the same folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from devices.detect import Machine
from edgekit.artifact import Artifact
from edgekit.errors import GateError, InputError, MissingExtraError
from edgekit.privacy.quiet import QUIET_ENVIRONMENT
from edgekit.progress import NoProgress
from edgekit.torch_folder import read_folder
from runtimes import torch_engine
from runtimes.base import Message, Sampling
from runtimes.engine import Interrupted
from runtimes.load import load
from runtimes.torch_engine import BATCH_TOKENS, TorchEngine

CONTEXT = 400
SCHEMES = ("f32", "bf16", "int8", "nf4")


def token_ids(count: int, seed: int = 0) -> list[int]:
    return [int(n) for n in np.random.default_rng(seed).integers(3, 300, count)]


def artifact_of(checkpoint: Path, out: Path, scheme: str) -> Artifact:
    recipe = Recipe.of("torch", scheme)
    return convert(Checkpoint.open(checkpoint), recipe, out, progress=NoProgress())


@pytest.fixture(scope="module")
def artifacts(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("torch")
    return {scheme: artifact_of(tiny_checkpoint, folder / scheme, scheme) for scheme in SCHEMES}


@pytest.fixture
def engine(artifacts: dict[str, Artifact]) -> Iterator[TorchEngine]:
    """Return an engine on nf4, whose result does not depend on how tokens are grouped."""
    opened = TorchEngine(artifacts["nf4"], context_length=CONTEXT, threads=1)
    yield opened
    opened.close()


def scored(engine: TorchEngine, ids: list[int]) -> NDArray[np.float32]:
    out = np.full((len(ids), engine.vocabulary_size), np.nan, dtype=np.float32)
    engine.score(ids, out)
    return out


def reference(folder: Path, ids: list[int]) -> NDArray[np.float32]:
    """Return the logits of what transformers makes of `folder`, computed in float32 at once."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype = torch.float32
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.tensor([ids])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("scheme", SCHEMES)
def test_logits_are_those_of_transformers(artifacts: dict[str, Artifact], scheme: str) -> None:
    ids = token_ids(200)
    engine = TorchEngine(artifacts[scheme], context_length=CONTEXT, threads=1)
    assert len(ids) < BATCH_TOKENS  # LLM.int8 looks at all tokens of a run together
    np.testing.assert_allclose(
        scored(engine, ids), reference(artifacts[scheme].path, ids), atol=2e-5
    )


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
        ("mistral", {"sliding_window": 300}),
        ("qwen2", {}),
        ("qwen3", {"hidden_size": 72, "head_dim": 18, "intermediate_size": 104}),
    ],
)
def test_the_cache_carries_over_between_runs_in_every_family(
    make_checkpoint: Callable[..., Path], tmp_path: Path, architecture: str, overrides: Any
) -> None:
    artifact = artifact_of(make_checkpoint(architecture, **overrides), tmp_path / "a", "nf4")
    engine = TorchEngine(artifact, context_length=300, threads=1)
    ids = token_ids(BATCH_TOKENS + 40)
    np.testing.assert_allclose(scored(engine, ids), reference(artifact.path, ids), atol=1e-4)


def test_quantised_models_diverge_a_little(artifacts: dict[str, Artifact]) -> None:
    """KL divergence in nats from float32; random weights suffer more than trained ones."""
    ids = token_ids(200)
    rows = {
        scheme: scored(TorchEngine(a, context_length=CONTEXT, threads=1), ids).astype(np.float64)
        for scheme, a in artifacts.items()
    }
    logs = {s: x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for s, x in rows.items()}
    source = logs["f32"]
    found = {s: float((np.exp(source) * (source - x)).sum(axis=1).mean()) for s, x in logs.items()}
    assert 0 < found["bf16"] < 0.001
    assert found["bf16"] < found["int8"] < 0.02
    assert found["int8"] < found["nf4"] < 1.0


def test_codes_stay_codes_in_memory(artifacts: dict[str, Artifact]) -> None:
    import torch

    for scheme, wanted in (("int8", torch.int8), ("nf4", torch.uint8)):
        engine = TorchEngine(artifacts[scheme], context_length=8, threads=1)
        engine.evaluate([5, 6])
        assert engine._model.model.layers[0].mlp.up_proj.weight.dtype == wanted


def test_evaluate_gives_the_last_row_of_score(engine: TorchEngine) -> None:
    ids = token_ids(BATCH_TOKENS + 40)
    rows = scored(engine, ids)
    engine.truncate(0)
    np.testing.assert_allclose(engine.evaluate(ids), rows[-1], atol=2e-5)
    assert list(engine.cached_tokens) == ids


def test_token_by_token_is_the_same_as_at_once(engine: TorchEngine) -> None:
    ids = token_ids(30)
    rows = scored(engine, ids)
    engine.truncate(0)
    for row, token in zip(rows, ids, strict=True):
        np.testing.assert_allclose(engine.evaluate([token]), row, atol=2e-5)


def test_after_truncation_the_old_tail_is_forgotten(engine: TorchEngine) -> None:
    ids, other = token_ids(50), token_ids(30, seed=9)
    fresh = scored(engine, ids[:20] + other)[-1]
    engine.truncate(0)
    engine.evaluate(ids)
    engine.truncate(20)
    assert list(engine.cached_tokens) == ids[:20]
    np.testing.assert_allclose(engine.evaluate(other), fresh, atol=2e-5)


def test_a_full_context_is_used_and_one_more_token_is_refused(engine: TorchEngine) -> None:
    engine.evaluate(token_ids(CONTEXT))
    with pytest.raises(InputError, match="401 tokens do not fit a context of 400"):
        engine.evaluate([5])


def test_an_interrupt_is_noticed_before_the_next_matrix(engine: TorchEngine) -> None:
    """No clock: whoever interrupts while one matrix is multiplied sees no other one begin."""
    start, prompt = token_ids(10), token_ids(60, seed=1)
    engine.evaluate(start)
    begun: list[str] = []

    def begin(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            begun.append(name)
            if name == "model.layers.1.self_attn.k_proj":
                engine.interrupt()

        return hook

    for name, module in engine._model.named_modules():
        if name.endswith("_proj") or name == "lm_head":
            module.register_forward_hook(begin(name))  # runs when the module is done
    with pytest.raises(Interrupted):
        engine.evaluate(prompt)
    assert begun[-1] == "model.layers.1.self_attn.k_proj"
    assert list(engine.cached_tokens) == start
    begun.clear()
    for module in engine._model.modules():
        module._forward_hooks.clear()
    after = engine.evaluate(prompt[:5]).copy()
    np.testing.assert_allclose(after, scored(engine, start + prompt[:5])[-1], atol=2e-5)


def test_an_interrupt_from_another_thread_ends_a_long_prompt(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("llama", max_position_embeddings=8192)
    engine = TorchEngine(
        artifact_of(checkpoint, tmp_path / "a", "nf4"), context_length=8192, threads=1
    )
    timer = threading.Timer(0.1, engine.interrupt)
    timer.start()
    with pytest.raises(Interrupted):
        engine.evaluate(token_ids(8000, seed=1))
    assert list(engine.cached_tokens) == []


def test_an_interrupt_with_nothing_running_is_forgotten(engine: TorchEngine) -> None:
    engine.interrupt()
    engine.evaluate(token_ids(5))


def test_runs_are_short_where_matrices_are_large(artifacts: dict[str, Artifact]) -> None:
    folder = read_folder(artifacts["int8"].path)
    assert torch_engine._batch_tokens(folder) == BATCH_TOKENS

    class Large:
        @staticmethod
        def matrices() -> dict[str, tuple[int, int]]:
            return {"model.layers.0.mlp.up_proj.weight": (14336, 4096)}

    assert torch_engine._batch_tokens(Large()) == 16  # type: ignore[arg-type]


def test_a_saved_state_continues_as_if_never_left(
    engine: TorchEngine, artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    ids, more = token_ids(60), token_ids(10, seed=2)
    engine.evaluate(ids)
    path = tmp_path / "state"
    engine.save_state(path)
    assert path.stat().st_mode & 0o777 == 0o600
    wanted = engine.evaluate(more).copy()
    other = TorchEngine(artifacts["nf4"], context_length=200, threads=1)
    other.evaluate(token_ids(7, seed=3))
    other.load_state(path)
    assert list(other.cached_tokens) == ids
    np.testing.assert_allclose(other.evaluate(more), wanted, atol=1e-6)


def test_an_empty_state_is_one_too(engine: TorchEngine, tmp_path: Path) -> None:
    engine.save_state(tmp_path / "state")
    engine.evaluate(token_ids(7))
    engine.load_state(tmp_path / "state")
    assert list(engine.cached_tokens) == []


def test_a_saved_state_that_does_not_fit_is_refused(
    engine: TorchEngine, artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    engine.evaluate(token_ids(60))
    path = tmp_path / "state"
    engine.save_state(path)
    whole = path.read_bytes()
    with pytest.raises(InputError, match="holds 60 tokens and the context 50"):
        TorchEngine(artifacts["nf4"], context_length=50, threads=1).load_state(path)
    with pytest.raises(InputError, match="another model"):
        TorchEngine(artifacts["int8"], context_length=CONTEXT, threads=1).load_state(path)
    for damaged in (whole[:-1], whole[:200], whole[:-5] + b"xxxxx", b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            engine.load_state(path)
    assert len(engine.cached_tokens) == 60


def test_closing_twice_is_safe(artifacts: dict[str, Artifact]) -> None:
    engine = TorchEngine(artifacts["int8"], context_length=8, threads=1)
    engine.close()
    engine.close()
    assert list(engine.cached_tokens) == []


def test_a_processor_that_would_die_of_bitsandbytes_gets_a_sentence(
    artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Machine("x86_64", "Old Processor 2008", 2, 2, 1 << 32, ("sse4_2", "avx"))
    monkeypatch.setattr(torch_engine, "describe", lambda: old)
    with pytest.raises(GateError, match="avx2, this is Old Processor 2008"):
        TorchEngine(artifacts["int8"], context_length=8, threads=1)
    TorchEngine(artifacts["bf16"], context_length=8, threads=1).close()  # needs no bitsandbytes


def test_a_library_that_is_not_installed_is_named_with_its_extra(
    artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("bitsandbytes", "accelerate", "torch", "transformers", "tokenizers"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)  # so the language says "absent"
            with pytest.raises(MissingExtraError, match=library) as raised:
                TorchEngine(artifacts["int8"], context_length=8, threads=1)
            assert raised.value.hint == "pip install 'edgekit[torch]'"


def test_a_folder_that_lies_to_transformers_only_is_refused(
    artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    """Biases that the configuration does not have: transformers would leave them out, silently."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(artifacts["f32"].path, tmp_path / "a")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.bias"] = torch.ones(512)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    manifest = json.loads((folder / "edgekit.json").read_text())
    entry = next(f for f in manifest["files"] if f["path"] == "model.safetensors")
    entry["bytes"] = (folder / "model.safetensors").stat().st_size
    (folder / "edgekit.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"not the model.*up_proj\.bias"):
        TorchEngine(Artifact.open(folder), context_length=8, threads=1)


@pytest.mark.slow
def test_native_code_from_a_hub_is_never_taken(
    artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    """A package `kernels` that is installed stays unseen, whatever the processor would like."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('kernels was imported')\n")
    code = (
        "import sys\n"
        f"sys.path[:0] = [{str(tmp_path)!r}, *{[p for p in sys.path if p]!r}]\n"
        "from pathlib import Path\n"
        "from edgekit.artifact import Artifact\n"
        "from runtimes.torch_engine import TorchEngine\n"
        f"artifact = Artifact.open(Path({str(artifacts['nf4'].path)!r}))\n"
        "engine = TorchEngine(artifact, context_length=8, threads=1)\n"
        "engine.evaluate([5])\n"
        "from bitsandbytes.backends.cpu import ops\n"
        "try:\n"
        "    from kernels import get_kernel\n"
        "except ImportError:\n"
        "    print('absent')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=QUIET_ENVIRONMENT
    )
    assert done.stdout.strip() == "absent", done.stderr


@pytest.mark.slow
def test_a_conversation_through_the_worker_is_the_one_in_this_process(
    artifacts: dict[str, Artifact],
) -> None:
    messages = [Message("user", "The quick brown fox")]
    texts = []
    for in_process in (True, False):
        runtime = load(artifacts["nf4"], threads=1, in_process=in_process)
        chunks = list(runtime.generate(messages, Sampling(max_tokens=12)))
        texts.append("".join(chunk.text for chunk in chunks))
        runtime.close()
    assert texts[0] == texts[1] != ""
