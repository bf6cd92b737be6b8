"""GGUF files: the tensors are llama-quantize's, the logits are torch's, the memory is flat."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from converters import export_gguf, ggml
from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.export_gguf import ENTRY, GgufExport, prepare_gguf, write_gguf
from converters.exported import Exported
from converters.gguf_plan import gguf_name
from converters.importance import Importance, matrices
from converters.llama_quantize import quantise_file
from converters.recipe import Recipe
from converters.schemes import SCHEMES, scheme_named
from edgekit.errors import InputError
from edgekit.gguf_header import read_header
from edgekit.progress import NoProgress

ROPE_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
ROPE_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
SHALLOW = {"num_hidden_layers": 1, "intermediate_size": 256}
# Enough layers that a sixteenth and an eighth of them get more bits, four queries to a key.
DEEP = {
    "num_hidden_layers": 16, "intermediate_size": 256, "num_key_value_heads": 1, "head_dim": 32,
    "tie_word_embeddings": False,
}  # fmt: skip
NINE = DEEP | {"num_hidden_layers": 9}
ODD = {"hidden_size": 96, "intermediate_size": 192}
ODDER = {"hidden_size": 72, "intermediate_size": 256, "num_key_value_heads": 1}
SCHEME_NAMES = [name for name in SCHEMES["gguf"] if name != "f32"]


def prepare(folder: Path, recipe: Recipe | str) -> GgufExport:
    """Return the export of the checkpoint in `folder` by a recipe or a scheme's name."""
    checkpoint = Checkpoint.open(folder)
    if isinstance(recipe, str):
        recipe = Recipe.of("gguf", recipe)
    return prepare_gguf(checkpoint, describe(checkpoint), recipe)


def export(folder: Path, out: Path, recipe: Recipe | str) -> Exported:
    """Write the GGUF file of a checkpoint into `out`."""
    out.mkdir(exist_ok=True)
    return write_gguf(prepare(folder, recipe), out, NoProgress())


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return type, shape and bytes of each tensor of a GGUF file."""
    return {
        tensor.name: (tensor.tensor_type.name, tuple(tensor.shape.tolist()), tensor.data.tobytes())
        for tensor in gguf.GGUFReader(path).tensors
    }


def assert_same_tensors(ours: Path, theirs: Path) -> None:
    mine, other = tensors(ours), tensors(theirs)
    assert mine.keys() == other.keys()
    assert {name: facts[:2] for name, facts in mine.items()} == {
        name: facts[:2] for name, facts in other.items()
    }
    assert [name for name in mine if mine[name] != other[name]] == []


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (SHALLOW, SCHEME_NAMES),
        (ODD, SCHEME_NAMES),
        (ODDER, ["q8_0", "q4_k_m", "iq4_nl"]),
        pytest.param(DEEP, ["q4_k_m", "q4_k_s", "q3_k_m"], marks=pytest.mark.slow),
        pytest.param(NINE, ["q5_k_m", "iq4_xs"], marks=pytest.mark.slow),
    ],
    ids=["256", "96", "72", "deep", "nine"],
)
def test_tensors_are_those_of_llama_quantize(
    overrides: dict[str, Any],
    names: list[str],
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = make_checkpoint("llama", **overrides)
    export(folder, tmp_path / "f32", "f32")
    for name in names:
        export(folder, tmp_path / "ours", name)
        theirs = tmp_path / "theirs.gguf"
        quantise_file(tmp_path / "f32" / ENTRY, theirs, scheme_named("gguf", name))
        assert_same_tensors(tmp_path / "ours" / ENTRY, theirs)


def made_up_importance(checkpoint: Checkpoint) -> Importance:
    """Return an importance matrix whose rows span two orders of magnitude."""
    random = np.random.default_rng(11)
    channels = {
        spec.name: (10.0 ** random.uniform(-1, 1, spec.shape[-1])).astype(np.float32)
        for spec in matrices(describe(checkpoint))
    }
    return Importance(channels, 100, "made up")


@pytest.mark.parametrize(
    "overrides",
    [SHALLOW, ODD, pytest.param(DEEP, marks=pytest.mark.slow)],
    ids=["256", "96", "deep"],
)
def test_calibrated_tensors_are_those_of_llama_quantize(
    overrides: dict[str, Any], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint("llama", **overrides)
    checkpoint = Checkpoint.open(folder)
    shape = describe(checkpoint)
    importance = made_up_importance(checkpoint)
    rows = {gguf_name(spec): importance.of(spec) for spec in matrices(shape)}
    export(folder, tmp_path / "f32", "f32")
    (tmp_path / "ours").mkdir()
    for name in ("q4_0", "q5_0", "iq4_nl", "iq4_xs", "q4_k_m", "q4_k_s", "q5_k_m", "q3_k_m"):
        ready = prepare_gguf(checkpoint, shape, Recipe.of("gguf", name), importance)
        write_gguf(ready, tmp_path / "ours", NoProgress())
        theirs = tmp_path / "theirs.gguf"
        scheme = scheme_named("gguf", name)
        quantise_file(tmp_path / "f32" / ENTRY, theirs, scheme, importance=rows)
        assert_same_tensors(tmp_path / "ours" / ENTRY, theirs)


def test_the_way_around_the_internal_functions_gives_the_same_tensors(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe("mine", "gguf", "q4_k_m", per_tensor={"*.1.mlp.up_proj.weight": "iq4_nl"})
    folder = make_checkpoint("llama", **ODD)
    export(folder, tmp_path / "direct", recipe)

    def unusable() -> ggml.Ggml:
        raise ggml.UnusableLibraryError("as in a test")

    monkeypatch.setattr(ggml, "load", unusable)
    export(folder, tmp_path / "around", recipe)
    assert_same_tensors(tmp_path / "direct" / ENTRY, tmp_path / "around" / ENTRY)
    assert [path.name for path in (tmp_path / "around").iterdir()] == [ENTRY]


def torch_logits(folder: Path, ids: list[int]) -> NDArray[np.float32]:
    """Return the reference logits, float32 [positions, vocabulary]."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([ids])).logits[0].numpy()
    return logits


def llama_cpp_logits(path: Path, ids: list[int]) -> NDArray[np.float32]:
    """Return llama.cpp's logits with the KV cache in float32."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=1, n_threads_batch=1,
        type_k=0, type_v=0,
    )  # fmt: skip
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)], dtype=np.float32)
    model.close()
    return logits


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
        ("llama", {"head_dim": 32}),
        ("qwen3", {"head_dim": 96}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        ("llama", {"rope_scaling": ROPE_LLAMA3}),
        ("qwen2", {"rope_scaling": ROPE_YARN}),
        ("qwen3", {"rope_scaling": ROPE_YARN | {"attention_factor": 1.3}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_logits_are_those_of_torch(
    family: str, overrides: dict[str, Any], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint(family, **overrides)
    export(folder, tmp_path, "f32")
    ids = [int(i) for i in np.random.default_rng(0).integers(3, 500, 160)]
    difference = np.abs(torch_logits(folder, ids) - llama_cpp_logits(tmp_path / ENTRY, ids))
    assert difference.max() < 2e-4  # the logits' standard deviation is 1.3


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_a_bfloat16_checkpoint_loses_nothing_that_the_type_can_hold(
    name: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    folder = make_checkpoint("qwen2", dtype=torch.bfloat16)
    export(folder, tmp_path, name)
    written = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / ENTRY).tensors}
    up = written["blk.1.ffn_up.weight"]
    restored = gguf.dequantize(up.data, up.tensor_type)
    expected = Checkpoint.open(folder).read("model.layers.1.mlp.up_proj.weight")
    assert np.array_equal(restored, expected if name == "bf16" else expected.astype(np.float16))


@pytest.mark.parametrize(("family", "overrides"), [("llama", {}), ("qwen3", ODD)])
def test_the_plan_is_what_is_written(
    family: str, overrides: dict[str, Any], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint(family, **overrides)
    ready = prepare(folder, "q4_k_m")
    exported = write_gguf(ready, tmp_path, NoProgress())
    header = read_header(tmp_path / ENTRY)
    assert (tmp_path / ENTRY).stat().st_size == ready.plan.file_bytes
    assert [(t.name, t.type_name.lower(), t.bytes) for t in header.tensors] == [
        (t.name, t.type, t.bytes) for t in ready.plan.tensors
    ]
    size = sum(tensor.bytes for tensor in header.tensors)
    assert exported.bits_per_weight == 8 * size / ready.plan.weights
    assert exported.kv_bytes_per_token == 2 * 2 * 2 * ready.shape.key_value_size


def test_every_substitution_is_told_with_its_reason(make_checkpoint: Callable[..., Path]) -> None:
    plan = prepare(make_checkpoint("llama", **ODD), "q4_k_m").plan
    told = {s.tensor: s for s in plan.substitutions}
    assert len(told) == 15  # seven matrices in each of two layers, and the embedding
    up = told["blk.0.ffn_up.weight"]
    assert (up.asked, up.used, up.why) == ("q4_k", "q5_0", "a row of 96 is not a multiple of 256")
    assert told["token_embd.weight"].asked == "q6_k"
    assert prepare(make_checkpoint("llama"), "q4_k_m").plan.substitutions == ()


def test_a_recipe_decides_tensor_by_tensor(tiny_checkpoint: Path) -> None:
    patterns = {"*.0.mlp.down_proj.weight": "q8_0", "*.mlp.*": "iq4_nl"}
    plan = prepare(tiny_checkpoint, Recipe("mine", "gguf", "q4_k_m", per_tensor=patterns)).plan
    types = {tensor.name: tensor.type for tensor in plan.tensors}
    assert types["blk.0.ffn_down.weight"] == "q8_0"  # the first pattern that matches wins
    assert types["blk.1.ffn_down.weight"] == types["blk.0.ffn_up.weight"] == "iq4_nl"
    assert types["blk.0.attn_q.weight"] == "q4_k"
    assert types["blk.0.ffn_norm.weight"] == "f32"


def test_a_pattern_that_matches_nothing_is_refused(tiny_checkpoint: Path) -> None:
    recipe = Recipe("mine", "gguf", "q8_0", per_tensor={"*.ffn_down.*": "q6_k"})
    with pytest.raises(InputError, match=r"'\*\.ffn_down\.\*' of per_tensor matches no matrix"):
        prepare(tiny_checkpoint, recipe)


def test_metadata_is_what_llama_cpp_needs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    export(tiny_checkpoint, tmp_path, "q4_k_m")
    found = {k: f.contents() for k, f in gguf.GGUFReader(tmp_path / ENTRY).fields.items()}
    expected = {
        "general.architecture": "llama", "general.type": "model", "general.file_type": 15,
        "general.quantization_version": 2, "general.name": "tiny", "llama.block_count": 2,
        "llama.context_length": 512, "llama.embedding_length": 256,
        "llama.feed_forward_length": 512, "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2, "llama.rope.dimension_count": 64,
        "llama.rope.freq_base": 10000.0, "llama.vocab_size": 542,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": Checkpoint.open(tiny_checkpoint).chat_template,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected
    assert len(found["tokenizer.ggml.tokens"]) == len(found["tokenizer.ggml.token_type"]) == 542


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("qwen2", {"head_dim": 32}, "128 query rows beside a width of 256"),
        ("qwen3", {"attention_bias": True}, "a bias on the attention's output"),
        ("qwen2", {"rope_scaling": ROPE_LLAMA3}, "rotary scaling of the kind llama3"),
        ("llama", {"rope_scaling": ROPE_YARN | {"beta_fast": 16.0}}, "other betas than 32 and 1"),
    ],
)
def test_what_llama_cpp_cannot_compute_is_refused(
    family: str, overrides: dict[str, Any], message: str, make_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(InputError, match=message):
        prepare(make_checkpoint(family, **overrides), "f16")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_a_number_names_its_tensor(
    value: float, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    folder = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, folder)
    info = Checkpoint.open(folder).info(name)
    with info.file.open("r+b") as stream:
        stream.seek(info.offset + 400)
        stream.write(np.float32(value).tobytes())
    with pytest.raises(InputError, match=f"tensor {name}: a weight is infinite or not a number"):
        export(folder, tmp_path / "out", "q8_0")


def test_slabs_hold_whole_heads_and_their_order_is_kept(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint("llama", **DEEP)
    export(folder, tmp_path / "whole", "q8_0")
    monkeypatch.setattr(export_gguf, "SLAB_WEIGHTS", 1)  # one head at a time
    export(folder, tmp_path / "slabs", "q8_0")
    whole, slabs = (tmp_path / name / ENTRY for name in ("whole", "slabs"))
    assert whole.read_bytes() == slabs.read_bytes()


MEASURE = """
import resource, sys
from pathlib import Path
from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit.progress import NoProgress
checkpoint = Checkpoint.open(Path(sys.argv[1]))
convert(checkpoint, Recipe.of("gguf", "q8_0"), Path(sys.argv[2]), progress=NoProgress())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kilobytes(folder: Path, out: Path) -> int:
    """Return the peak resident memory of a process that converts the checkpoint in `folder`."""
    command = [sys.executable, "-c", MEASURE, str(folder), str(out)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def write_large_checkpoint(source: Path, folder: Path) -> int:
    """Write a bfloat16 checkpoint with a long feed-forward; return its size in bytes."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config | {"head_dim": 64}))
    from converters.architectures import llama
    from converters.architectures.settings import Settings

    header, end = {}, 0
    for spec in llama.describe(Settings(config | {"head_dim": 64}, "test")).tensors():
        size = 2 * int(np.prod(spec.shape))
        header[spec.name] = {
            "dtype": "BF16", "shape": spec.shape, "data_offsets": [end, end + size],
        }  # fmt: skip
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)  # a hole: zeros that take no disk
    return end


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tiny_checkpoint: Path, tmp_path: Path) -> None:
    size = write_large_checkpoint(tiny_checkpoint, tmp_path / "large")
    assert size > 200_000_000
    small = peak_kilobytes(tiny_checkpoint, tmp_path / "a")
    large = peak_kilobytes(tmp_path / "large", tmp_path / "b")
    slabs = 8 * export_gguf.SLAB_WEIGHTS * 4 // 1024  # 64 MiB for all slabs in flight
    assert large - small < slabs
