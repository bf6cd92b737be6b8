"""Checkpoints that are broken, before or after they were converted: check names their stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.lineage import Stage, write_stage
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.progress import NoProgress

from .breaking import edit_json, edit_weight, named

Break = Callable[[Path], None]


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def not_a_number(folder: Path) -> None:
    def change(data: Any) -> Any:
        data[3, 5] = np.nan
        return data

    edit_weight(folder, "model.layers.1.mlp.up_proj.weight", change)


def left_out(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    save_file(tensors, folder / "model.safetensors")


def other_shape(folder: Path) -> None:
    edit_weight(folder, "model.layers.0.mlp.up_proj.weight", lambda data: data[:-1])


def other_head(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"][::-1].copy()
    save_file(tensors, folder / "model.safetensors")


def too_many_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    token = tokenizer["added_tokens"][0] | {"id": 5000, "content": "<|far|>"}
    tokenizer["added_tokens"].append(token)
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


AFTERWARDS: dict[str, Break] = {
    "a truncated shard": truncated,
    "a weight that is not a number": not_a_number,
    "a tensor left out": left_out,
    "a tensor of another shape": other_shape,
    "a head beside a tied embedding": other_head,
    "a token outside the embedding": too_many_tokens,
    "a layer count from before pruning": lambda f: edit_json(
        f / "config.json", num_hidden_layers=3
    ),
    "a list for each layer from before pruning": lambda f: edit_json(
        f / "config.json", layer_types=["full_attention"] * 3
    ),
}


@pytest.mark.parametrize("fault", AFTERWARDS)
def test_a_checkpoint_that_broke_is_named(fault: str, fresh: Any, judge: Any) -> None:
    artifact, checkpoint = fresh("gguf", "q8_0")
    AFTERWARDS[fault](checkpoint)
    assert named(judge(artifact, checkpoint).stages) == "source"


def test_a_missing_shard_is_named(make_checkpoint: Any, judge: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = Path(shutil.copytree(make_checkpoint("llama"), tmp_path / "sharded"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="2MB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    artifact = converted(folder, tmp_path)
    assert all(report.ok for report in judge(artifact, folder).stages)
    shards[1].unlink()
    assert named(judge(artifact, folder).stages) == "source"


def converted(folder: Path, tmp_path: Path, scheme: str = "q8_0") -> Artifact:
    recipe = Recipe.of("gguf", scheme)
    return convert(Checkpoint.open(folder), recipe, tmp_path / "made", progress=NoProgress())


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    shutil.copy(folder / "model.safetensors", folder / "adapter_model.safetensors")


def swapped_special(folder: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        edit_json(folder / name, bos_token_id=2, eos_token_id=0)
    edit_json(folder / "tokenizer_config.json", bos_token="<|im_end|>", eos_token="<|endoftext|>")


BEFORE: dict[str, Break] = {
    "an adapter that was not merged": adapter,
    "bos and eos swapped everywhere": swapped_special,
    "bos and eos swapped in the tokenizer": lambda f: edit_json(
        f / "tokenizer_config.json", bos_token="<|im_end|>", eos_token="<|endoftext|>"
    ),
    "an eos of the generation alone": lambda f: edit_json(
        f / "generation_config.json", eos_token_id=0
    ),
    "a template with other turns": lambda f: edit_json(
        f / "tokenizer_config.json",
        chat_template="{% for m in messages %}<|im_start|>{{ m['content'] }}<|endoftext|>"
        "{% endfor %}",
    ),
    "a template that fails": lambda f: edit_json(
        f / "tokenizer_config.json", chat_template="{{ messages[0].nothing.more }}"
    ),
}


@pytest.mark.parametrize("fault", BEFORE)
def test_a_checkpoint_that_was_broken_is_named(
    fault: str, make_checkpoint: Any, judge: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(make_checkpoint("llama"), tmp_path / "own"))
    BEFORE[fault](folder)
    assert named(judge(converted(folder, tmp_path), folder).stages) == "source"


def child(parent: Path, folder: Path, kind: Any) -> Path:
    """Copy a checkpoint and say that it was made from it."""
    shutil.copytree(parent, folder)
    digest = Checkpoint.open(parent).digest()
    write_stage(folder, Stage(kind, str(parent), digest, {"method": "by hand"}))
    return folder


def stages_of(checked: Any) -> list[tuple[str, bool | None]]:
    return [(report.stage, report.ok) for report in checked.stages]


def noisy(size: float) -> Callable[[Any], Any]:
    rng = np.random.default_rng(5)
    return lambda data: (data + rng.normal(0, size, data.shape)).astype(data.dtype)


def test_a_sound_chain_has_a_figure_for_each_stage(
    make_checkpoint: Any, judge: Any, tmp_path: Path
) -> None:
    first = Path(shutil.copytree(make_checkpoint("llama"), tmp_path / "first"))
    pruned = child(first, tmp_path / "pruned", "pruned")
    edit_weight(pruned, "model.layers.1.mlp.up_proj.weight", noisy(0.05))
    healed = child(pruned, tmp_path / "healed", "healed")
    shutil.copy(first / "model.safetensors", healed / "model.safetensors")
    checked = judge(converted(healed, tmp_path), healed)
    names = ["source", "pruned", "healed", "exported", "quantised", "loaded"]
    assert stages_of(checked) == [(name, True) for name in names]
    figures = {report.stage: report.figures for report in checked.stages}
    assert figures["pruned"]["kld_mean"] > 1e-3
    assert figures["healed"]["kld_mean"] == pytest.approx(0, abs=1e-9)
    assert figures["pruned"]["perplexity_source"] == figures["healed"]["perplexity"]


def test_healing_that_made_it_worse_is_named(
    make_checkpoint: Any, judge: Any, tmp_path: Path
) -> None:
    first = Path(shutil.copytree(make_checkpoint("llama"), tmp_path / "first"))
    pruned = child(first, tmp_path / "pruned", "pruned")
    edit_weight(pruned, "model.layers.1.mlp.up_proj.weight", noisy(0.02))
    healed = child(pruned, tmp_path / "healed", "healed")
    edit_weight(healed, "model.layers.0.mlp.down_proj.weight", noisy(0.2))
    assert named(judge(converted(healed, tmp_path), healed).stages) == "healed"


def test_a_list_that_pruning_forgot_is_named(
    make_checkpoint: Any, judge: Any, tmp_path: Path
) -> None:
    """The layers are gone from the weights and the count, a list still speaks of three."""
    first = make_checkpoint("llama", num_hidden_layers=3)
    pruned = child(make_checkpoint("llama"), tmp_path / "pruned", "pruned")
    digest = Checkpoint.open(first).digest()
    write_stage(pruned, Stage("pruned", str(first), digest, {"method": "depth"}))
    edit_json(pruned / "config.json", layer_types=["full_attention"] * 3)
    assert named(judge(converted(pruned, tmp_path), pruned).stages) == "pruned"


def test_a_parent_that_is_gone_is_said_and_is_no_fault(
    make_checkpoint: Any, judge: Any, tmp_path: Path
) -> None:
    first = Path(shutil.copytree(make_checkpoint("llama"), tmp_path / "first"))
    pruned = child(first, tmp_path / "pruned", "pruned")
    shutil.rmtree(first)
    checked = judge(converted(pruned, tmp_path), pruned)
    assert stages_of(checked)[:2] == [("source", None), ("pruned", True)]
    assert "no longer" in checked.stages[0].what
    assert all(report.ok is not False for report in checked.stages)


def without_the_last_token(folder: Path) -> None:
    """Take one token out of the vocabulary, its merge, and its row of the embedding."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    ids = tokenizer["model"]["vocab"]
    last = max(ids, key=ids.__getitem__)
    tokenizer["model"]["merges"] = [m for m in tokenizer["model"]["merges"] if "".join(m) != last]
    del ids[last]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    edit_weight(folder, "model.embed_tokens.weight", lambda data: data[:-1])
    edit_json(folder / "config.json", vocab_size=len(ids))


def test_a_smaller_vocabulary_is_compared_token_by_token(
    make_checkpoint: Any, judge: Any, tmp_path: Path
) -> None:
    first = Path(shutil.copytree(make_checkpoint("llama"), tmp_path / "first"))
    pruned = child(first, tmp_path / "pruned", "pruned")
    without_the_last_token(pruned)
    checked = judge(converted(pruned, tmp_path), pruned)
    assert stages_of(checked)[:2] == [("source", True), ("pruned", True)]
    # the same model on the tokens that are left: only float32 differs
    assert checked.stages[1].figures["kld_mean"] == pytest.approx(0, abs=1e-6)
    assert checked.stages[1].figures["top1_agreement"] == 1.0
