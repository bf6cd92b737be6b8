"""Adapters: where they lie, how much they count, kept apart for PEFT, and beside 4-bit weights."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from converters.checkpoint import Checkpoint
from converters.lineage import read_stage_in
from converters.reference import load_model
from edgekit.cli import cli
from edgekit.errors import InputError, UsageError
from edgekit.progress import NoProgress
from edgekit.train.configuration import read_configuration
from edgekit.train.memory import quantise_matrices
from edgekit.train.trained import choose, finish
from edgekit.workflows.train import prepare_training, run_training
from edgekit.workflows.training_job import FineTuned

from .interrupts import Interrupts, interrupt

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="session")
def parent(make_checkpoint: Callable[..., Path]) -> Path:
    """Return a tiny model with biases. Read only."""
    return make_checkpoint("qwen2", hidden_size=64, intermediate_size=128)


def configured(folder: Path, parent: Path, adapter: str, **train: Any) -> Path:
    generator = random.Random(3)
    with (folder / "sums.jsonl").open("w") as stream:
        for _ in range(60):
            left, right = generator.randint(0, 99), generator.randint(0, 9)
            asked = {"role": "user", "content": f"add {left} and {right}"}
            answer = {"role": "assistant", "content": f"{left} and {right} is {left + right}"}
            stream.write(json.dumps({"messages": [asked, answer]}) + "\n")
    settings = {"steps": 6, "learning_rate": 1e-2, "batch_tokens": 256} | train
    (folder / "run.toml").write_text(
        f'[model]\ncheckpoint = "{parent}"\n'
        '[data]\nkind = "chat"\nfiles = ["sums.jsonl"]\nevaluation_share = 0.2\n'
        "[evaluate]\ntimes = 2\n[train]\n"
        + "".join(f"{key} = {value}\n" for key, value in settings.items())
        + adapter
    )
    return folder / "run.toml"


def trained(config: Path, out: Path, progress: Any = None) -> FineTuned:
    return run_training(read_configuration(config), out, progress=progress or NoProgress())


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([[5, 9, 300, 17, 42, 8]]), use_cache=False).logits


def test_alpha_says_how_much_an_adapter_counts(parent: Path) -> None:
    import torch

    model = load_model(Checkpoint.open(parent))
    layer = model.model.layers[1].mlp.down_proj
    before = layer.weight.detach().clone()
    chosen = choose(model, "lora", 4, scale=12 / 4)
    down, up = (chosen.parameters[f"model.layers.1.mlp.down_proj.{n}"] for n in ("down", "up"))
    with torch.no_grad():
        up.normal_()
    inputs = torch.randn(3, 128)
    wanted = before + 3 * up.detach() @ down.detach()
    torch.testing.assert_close(layer(inputs).detach(), inputs @ wanted.T, rtol=1e-4, atol=1e-4)
    finish(model, chosen)
    torch.testing.assert_close(layer.weight.detach(), wanted)


OPTIONS = '[adapter]\nrank = 3\nalpha = 12\nlayers = ["*.self_attn.*", "down_proj"]\n'


@pytest.mark.slow
def test_an_adapter_kept_apart_is_what_peft_loads(parent: Path, tmp_path: Path) -> None:
    import peft
    import torch

    merged = trained(configured(tmp_path, parent, OPTIONS, freeze='["layers.0"]'), tmp_path / "m")
    config = configured(tmp_path, parent, OPTIONS + "merge = false\n", freeze='["layers.0"]')
    apart = trained(config, tmp_path / "apart")
    assert apart.how["after"]["loss"] == pytest.approx(merged.how["after"]["loss"], rel=1e-4)
    assert apart.how["after"]["loss"] < apart.how["before"]["loss"]
    whole = load_model(Checkpoint.open(parent))
    plain = logits(whole)
    loaded = peft.PeftModel.from_pretrained(whole, apart.path).eval()
    adapters = {name for name, _ in loaded.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * 5  # of layer 1: q, k, v, o and down
    assert all(".layers.1." in name for name in adapters)
    found, ours = logits(loaded), logits(load_model(merged.checkpoint))
    torch.testing.assert_close(found, ours, rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().max() > 0.05
    names = {file.name for file in apart.path.iterdir()}
    assert {"README.md", "training.jsonl", "training.png", "tokenizer.json"} <= names
    assert not {"config.json", "model.safetensors"} & names
    stage = read_stage_in(apart.path)
    assert stage is not None
    assert stage.how["after"] == apart.how["after"]
    assert trained(config, tmp_path / "apart").already_there


def test_who_wants_to_convert_an_adapter_is_told_what_to_do(
    parent: Path, tmp_path: Path, edgekit_home: Path
) -> None:
    folder = edgekit_home / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    for name in (str(folder), "mine"):
        words = ["convert", name, "--format", "gguf", "--scheme", "q8_0", "-o", str(tmp_path / "x")]
        error = CliRunner().invoke(cli, words).exception
        assert isinstance(error, InputError)
        assert error.message == f"{folder} holds an adapter, not a whole model"
        assert "merge = true" in error.hint
    with pytest.raises(InputError, match="holds an adapter"):
        Checkpoint.open(folder)
    config = configured(tmp_path, parent, "[adapter]\nmerge = false\n")
    words = ["train", str(config), "-o", str(tmp_path / "y"), "--then-convert", "gguf:q8_0"]
    error = CliRunner().invoke(cli, words).exception
    assert isinstance(error, UsageError)
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("adapter", "frozen", "line", "why"),
    [
        ('[adapter]\nlayers = ["q"]\n', "", 14, "names 'q', which no matrix is like; there are: "),
        ('[adapter]\nlayers = ["lm_head"]\n', "", 14, "down_proj, gate_proj, k_proj, o_proj"),
        ("[adapter]\n", '["embeddings"]', 13, "with .adapter. only layers can be frozen"),
        ("[adapter]\n", '["layers.0-2"]', 13, "the model has the layers 0 to 1"),
        ("[adapter]\n", '["layers.0-1"]', 13, "nothing is left to learn"),
        ("", '["layers.2"]', 13, "freeze names 'layers.2', and the model has"),
        ("", '["everything"]', 13, "none of: embeddings, head, norm"),
    ],
)
def test_what_the_model_has_not_is_told_before_the_data_is_read(
    parent: Path, tmp_path: Path, adapter: str, frozen: str, line: int, why: str
) -> None:
    config = configured(tmp_path, parent, adapter, **({"freeze": frozen} if frozen else {}))
    (tmp_path / "sums.jsonl").write_text("not JSON\n")
    with pytest.raises(InputError, match=rf"run.toml, line {line}: .*{why}"):
        prepare_training(read_configuration(config), NoProgress())


def test_the_base_is_nf4_and_lets_gradients_through(parent: Path) -> None:
    """Against the published levels: each block of 64 by its largest weight, scales in 8 bits."""
    import torch

    from converters.torch_quantize import nf4_blocks
    from edgekit.bitsandbytes_layout import NF4_LEVELS

    model, plain = (load_model(Checkpoint.open(parent)) for _ in range(2))
    quantise_matrices(model)
    layer, whole = model.model.layers[0].mlp.up_proj, plain.model.layers[0].mlp.up_proj
    packed, scales = nf4_blocks(whole.weight.detach().numpy())
    assert layer.weight.data.numpy().tobytes() == packed.tobytes()
    codes = torch.stack(
        [torch.from_numpy(packed.ravel()) >> 4, torch.from_numpy(packed.ravel()) & 15]
    )
    levels = torch.tensor(NF4_LEVELS)[codes.T.reshape(-1).long()].view(-1, 64)
    wanted = (levels * torch.from_numpy(scales).view(-1, 1)).view(whole.weight.shape)
    inputs = torch.randn(5, 64, requires_grad=True)
    torch.testing.assert_close(layer(inputs), inputs @ wanted.T, rtol=2e-2, atol=2e-2)
    logits(model)  # a look without gradients must not change how it learns
    layer(inputs).sum().backward()
    torch.testing.assert_close(inputs.grad, wanted.sum(0).expand(5, -1), rtol=2e-2, atol=2e-2)
    assert isinstance(model.lm_head, torch.nn.Linear)
    assert model.lm_head.weight.dtype == torch.float32


@pytest.mark.slow
def test_adapters_beside_nf4_are_merged_into_the_real_weights(
    parent: Path, tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    import torch

    config = configured(tmp_path, parent, '[adapter]\nrank = 2\nbase = "nf4"\n', save_seconds=1e-9)
    straight = trained(config, tmp_path / "straight")
    assert straight.how["after"]["loss"] < 0.9 * straight.how["before"]["loss"]
    real, found = (load_model(Checkpoint.open(path)) for path in (parent, straight.path))
    for name, value in real.state_dict().items():
        change = found.state_dict()[name] - value
        if name.endswith("proj.weight"):  # of rank 2: NF4's rounding errors have any rank
            assert int(torch.linalg.matrix_rank(change, rtol=1e-3)) == 2, name
        else:
            assert not change.any(), name
    with pytest.raises(KeyboardInterrupt):
        trained(config, tmp_path / "out", Interrupts(3, interrupt))
    assert prepare_training(read_configuration(config), NoProgress()).resumed_step == 3
    resumed = trained(config, tmp_path / "out")
    files = [run.path / "model.safetensors" for run in (straight, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    plain = configured(tmp_path, parent, "[adapter]\nrank = 2\n")
    unquantised = trained(plain, tmp_path / "plain")
    assert unquantised.how["before"]["loss"] == straight.how["before"]["loss"]
    assert unquantised.how["after"]["loss"] != straight.how["after"]["loss"]
