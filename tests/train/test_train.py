"""Training, whole: it learns, it survives kills to the bit, and what is left converts."""

from __future__ import annotations

import itertools
import json
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.lineage import read_stage
from converters.recipe import Recipe
from converters.reference import load_model
from edgekit.cli import cli
from edgekit.errors import GateError, InputError
from edgekit.files import FolderExistsError
from edgekit.progress import NoProgress
from edgekit.train import loop
from edgekit.train.configuration import read_configuration
from edgekit.train.supervised import Supervision
from edgekit.workflows import language_job
from edgekit.workflows.certify.chain import ancestry
from edgekit.workflows.train import prepare_training, run_training
from edgekit.workflows.training_job import FineTuned

from .interrupts import Interrupts, interrupt
from .kills import kill_after

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 12


@pytest.fixture(scope="session")
def parent(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny chat model with a card and a licence. Read only."""
    folder = tmp_path_factory.mktemp("parent") / "tiny-parent"
    shutil.copytree(make_checkpoint("llama", hidden_size=64, intermediate_size=128), folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# the parent\n")
    (folder / "LICENSE").write_text("Apache-2.0")
    return folder


def configured(folder: Path, parent: Path, adapter: str = "", **train: Any) -> Path:
    """Write sums as chats, and a configuration beside them; return its path."""
    generator = random.Random(3)
    pairs = [(generator.randint(0, 99), generator.randint(0, 9)) for _ in range(80)]
    with (folder / "sums.jsonl").open("w") as stream:
        for left, right in pairs:
            asked = {"role": "user", "content": f"add {left} and {right}"}
            answer = {"role": "assistant", "content": f"{left} and {right} is {left + right}"}
            stream.write(json.dumps({"messages": [asked, answer]}) + "\n")
    settings = {"steps": STEPS, "learning_rate": 3e-3, "batch_tokens": 256} | train
    (folder / "run.toml").write_text(
        f'[model]\ncheckpoint = "{parent}"\n'
        '[data]\nkind = "chat"\nfiles = ["sums.jsonl"]\nevaluation_share = 0.2\n'
        "[train]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()) + adapter
    )
    return folder / "run.toml"


@pytest.fixture
def config(tmp_path: Path, parent: Path) -> Path:
    return configured(tmp_path, parent)


def trained(config: Path, out: Path, progress: Any = None, **options: Any) -> FineTuned:
    found = read_configuration(config)
    return run_training(found, out, progress=progress or NoProgress(), **options)


def weights(checkpoint: Checkpoint) -> bytes:
    return (checkpoint.path / "model.safetensors").read_bytes()


def test_it_learns_and_leaves_an_ordinary_checkpoint(
    config: Path, parent: Path, tmp_path: Path
) -> None:
    found = trained(config, tmp_path / "out", replace=False)
    before, after = found.how["before"]["loss"], found.how["after"]["loss"]
    assert after < 0.6 * before
    source = Checkpoint.open(parent)
    assert {n: i.shape for n, i in found.checkpoint.tensors.items()} == {
        name: info.shape for name, info in source.tensors.items()
    }
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"):
        assert (found.checkpoint.path / name).read_bytes() == (parent / name).read_bytes()
    assert found.checkpoint.licence == "apache-2.0"
    card = (found.checkpoint.path / "README.md").read_text()
    assert f"{before:.4f} | {after:.4f}" in card
    assert found.how["data"]["digest"] in card
    assert "batch_tokens = 256" in card
    assert (found.checkpoint.path / "README.parent.md").read_text().endswith("# the parent\n")
    assert (found.checkpoint.path / "training.png").read_bytes().startswith(b"\x89PNG")
    lines = (found.checkpoint.path / "training.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if '"loss"' in line]
    assert [entry["step"] for entry in steps] == list(range(1, STEPS + 1))


def test_the_figures_are_those_of_transformers(config: Path, parent: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    found = trained(config, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(parent)
    data = prepare_training(read_configuration(config), NoProgress()).data
    held = {data.evaluation.example(i)[0].tobytes() for i in range(len(data.evaluation.lengths))}
    for folder, name in ((parent, "before"), (found.checkpoint.path, "after")):
        model, losses, count = load_model(Checkpoint.open(folder)), 0.0, 0
        for line in (tmp_path / "sums.jsonl").read_text().splitlines():
            messages = json.loads(line)["messages"]
            ids = tokenizer.apply_chat_template(messages, return_tensors="pt")
            if ids.numpy().tobytes() not in held:
                continue
            asked = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)
            labels = ids.clone()
            labels[:, : len(asked)] = -100
            labels[:, -1] = -100  # the line feed behind the end of the turn
            learnt = int((labels != -100).sum())
            with torch.inference_mode():
                losses += float(model(ids, labels=labels).loss) * learnt
            count += learnt
        assert count == found.how["data"]["evaluation_targets"]
        assert found.how[name]["loss"] == pytest.approx(losses / count, rel=1e-4)


def test_a_shorter_float_type_stays_and_is_what_was_judged(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    import torch

    short = make_checkpoint("qwen2", hidden_size=64, intermediate_size=128, dtype=torch.bfloat16)
    found = trained(configured(tmp_path, short), tmp_path / "out")
    assert {info.dtype for info in found.checkpoint.tensors.values()} == {"BF16"}
    config = configured(tmp_path, found.checkpoint.path, steps=1, learning_rate=1e-4)
    again = trained(config, tmp_path / "again")
    assert again.how["before"]["loss"] == pytest.approx(found.how["after"]["loss"], rel=1e-6)


def test_what_is_left_converts_without_a_flag(config: Path, tmp_path: Path) -> None:
    found = trained(config, tmp_path / "out")
    recipe = Recipe.of("gguf", "q8_0")
    artifact = convert(found.checkpoint, recipe, tmp_path / "gguf", progress=NoProgress())
    assert artifact.manifest.source.licence == "apache-2.0"
    assert artifact.manifest.source.checkpoint_digest == found.checkpoint.digest()
    stage = read_stage(found.checkpoint)
    assert stage is not None
    assert (stage.kind, stage.how["method"]) == ("trained", "full")
    assert [link.stage for link in ancestry(found.checkpoint)] == ["source"]


@pytest.mark.parametrize("adapter", ["", "[adapter]\nrank = 4\n"])
def test_an_interrupted_run_ends_as_one_that_was_not(
    parent: Path, tmp_path: Path, edgekit_home: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    config = configured(tmp_path, parent, adapter, save_seconds=1e-9)
    straight = trained(config, tmp_path / "straight")
    for after in (0, 4, 3):
        with pytest.raises(KeyboardInterrupt):
            trained(config, tmp_path / "resumed", Interrupts(after, interrupt))
        assert not (tmp_path / "resumed").exists()
    with monkeypatch.context() as patch:  # what is kept is not read from the files again
        patch.setattr(language_job, "read_data", None)
        assert prepare_training(read_configuration(config), NoProgress()).resumed_step == 7
    steps: list[str] = []
    resumed = trained(config, tmp_path / "resumed", tell=steps.append)
    assert len(steps) == STEPS - 7  # it went on where it was
    assert weights(resumed.checkpoint) == weights(straight.checkpoint)
    assert weights(resumed.checkpoint) != weights(Checkpoint.open(parent))
    curves = [
        [json.loads(line).get("loss") for line in (found.checkpoint.path / "training.jsonl").open()]
        for found in (straight, resumed)
    ]
    assert curves[0] == curves[1]
    assert not list((edgekit_home / "cache" / "training").iterdir())


def test_a_run_that_is_finished_is_not_run_again(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trained(config, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(language_job, "read_data", None)
        again = trained(config, tmp_path / "out", Interrupts(0, interrupt))
    assert again.already_there
    assert again.how == first.how
    config.write_text(config.read_text().replace(f"steps = {STEPS}", "steps = 3"))
    with pytest.raises(FolderExistsError, match="not from this configuration"):
        trained(config, tmp_path / "out")


def test_another_template_is_another_run(parent: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(parent, copy)
    config = configured(tmp_path, copy, save_seconds=1e-9)
    with pytest.raises(KeyboardInterrupt):
        trained(config, tmp_path / "out", Interrupts(3, interrupt))
    assert prepare_training(read_configuration(config), NoProgress()).resumed_step == 3
    template = Checkpoint.open(copy).chat_template
    assert template is not None
    (copy / "chat_template.jinja").write_text(template.replace("im_end", "endoftext"))
    assert prepare_training(read_configuration(config), NoProgress()).resumed_step is None


@pytest.mark.slow
def test_kill_9_at_any_moment(parent: Path, tmp_path: Path, edgekit_home: Path) -> None:
    config = configured(tmp_path, parent, steps=40, save_seconds=0.01)
    straight = trained(config, tmp_path / "straight")
    words = [sys.executable, "-m", "edgekit", "train", str(config), "-o", str(tmp_path / "out")]
    for wait_s in (0.0, 0.1, 0.3):
        kill_after(words, edgekit_home / "cache" / "training", "run-*/state.*", wait_s)
        assert not (tmp_path / "out").exists()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "an interrupted run goes on at step" in done.stderr
    assert weights(Checkpoint.open(tmp_path / "out")) == weights(straight.checkpoint)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_state_and_the_run_goes_on(
    parent: Path, tmp_path: Path, edgekit_home: Path
) -> None:
    config = configured(tmp_path, parent, save_seconds=1e-9)
    straight = trained(config, tmp_path / "straight")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))

    try:
        with pytest.raises(GateError, match="larger than the disk"):
            trained(config, tmp_path / "out", Interrupts(5, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (run,) = (edgekit_home / "cache" / "training").glob("run-*")
    assert sorted(file.name for file in run.iterdir()) == [
        "best.safetensors", "curve.jsonl", "index.safetensors", "state.safetensors", "tokens.bin",
    ]  # fmt: skip
    assert loop.saved_step(run) == 5
    found = trained(config, tmp_path / "out")
    assert weights(found.checkpoint) == weights(straight.checkpoint)


def test_a_run_that_goes_on_needs_no_room_for_what_it_has_already(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []
    monkeypatch.setattr(loop, "require_space", lambda _folder, count: needed.append(count))
    config = configured(tmp_path, parent, save_seconds=1e-9)
    for after in (0, 3):
        with pytest.raises(KeyboardInterrupt):
            trained(config, tmp_path / "out", Interrupts(after, interrupt))
    assert 0 < needed[1] < 0.9 * needed[0]


def breaking(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    whole, calls = Supervision.backward, itertools.count()

    def breaks(lesson: Supervision, batch: list[int]) -> float:
        loss = whole(lesson, batch)
        return float("nan") if next(calls) == at else loss

    monkeypatch.setattr(Supervision, "backward", breaks)


def test_a_loss_that_is_no_number_names_its_batch_and_keeps_the_best(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, 9)
    found = trained(config, tmp_path / "out")
    assert "no number any more at step 10; its batch: sums.jsonl lines" in found.how["stopped"]
    assert (found.how["steps"], found.how["best_step"]) == (9, 8)
    assert "stopped early" in (found.checkpoint.path / "README.md").read_text()


def test_a_loss_that_is_no_number_at_once_writes_nothing(
    config: Path, tmp_path: Path, edgekit_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(monkeypatch, 1)
    with pytest.raises(GateError, match=r"at step 2; its batch: sums.jsonl lines"):
        trained(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (run,) = (edgekit_home / "cache" / "training").glob("run-*")
    assert loop.saved_step(run) == 0


def test_what_is_no_better_is_not_written(parent: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, parent, learning_rate=1e-12, steps=2)
    with pytest.raises(GateError, match="training did not help"):
        trained(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_texts_are_learnt_for_epochs(parent: Path, tmp_path: Path) -> None:
    config = configured(tmp_path, parent)
    (tmp_path / "a.txt").write_text(
        "".join(f"{n} kettles boil at {n} degrees. " * 80 + "\n\n" for n in range(24))
    )
    text = config.read_text().replace('"chat"', '"text"').replace("sums.jsonl", "a.txt")
    config.write_text(text.replace(f"steps = {STEPS}", "epochs = 2").replace("256", "2048"))
    found = trained(config, tmp_path / "out")
    data = found.how["data"]
    assert found.how["after"]["loss"] < 0.7 * found.how["before"]["loss"]
    assert found.how["tokens"] >= 2 * data["training_targets"]
    assert found.how["tokens"] < 2 * data["training_targets"] + 2 * 2048


def test_the_command_prints_one_document_and_converts(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["train", str(config), "-o", str(out), "--then-convert", "gguf:q8_0"]
    result = CliRunner().invoke(cli, [*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["checkpoint"] == str(out)
    assert found["after"]["loss"] < found["before"]["loss"]
    assert (Path(found["artifact"]) / "edgekit.json").is_file()
    result = CliRunner().invoke(cli, words)
    assert "it was finished before" in result.stdout
    assert "perplexity" in result.stdout


def test_an_artifact_in_the_way_is_told_before_the_training(
    config: Path, tmp_path: Path, edgekit_home: Path
) -> None:
    (edgekit_home / "artifacts" / "out-gguf-q8_0").mkdir(parents=True)
    words = ["train", str(config), "-o", str(tmp_path / "out"), "--then-convert", "gguf:q8_0"]
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, FolderExistsError)
    assert not (tmp_path / "out").exists()


def test_a_model_of_an_unknown_family_is_refused(parent: Path, tmp_path: Path) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(parent, strange)
    file = strange / "config.json"
    file.write_text(file.read_text().replace("LlamaForCausalLM", "OddForCausalLM"))
    with pytest.raises(InputError, match="OddForCausalLM"):
        trained(configured(tmp_path, strange), tmp_path / "out")


def test_a_dry_run_writes_nothing(config: Path, tmp_path: Path, edgekit_home: Path) -> None:
    result = CliRunner().invoke(cli, ["train", str(config), "--dry-run", "--json"])
    found = json.loads(result.stdout)
    assert found["training_records"] + found["evaluation_records"] == 80
    assert (found["steps"], found["resumed_step"], found["context"]) == (STEPS, None, 512)
    assert not [file for file in edgekit_home.rglob("*") if file.is_file()]


def test_what_is_wrong_is_told_before_the_first_step(
    config: Path, parent: Path, tmp_path: Path
) -> None:
    text = config.read_text()
    wrong = [
        (str(parent), "x" * 300, "line 2: .model. checkpoint is no name of a folder"),
        (str(parent), "~no-such-user/x", "line 2: .model. checkpoint is no name of a folder"),
        (str(parent), "/nowhere", "line 2: .model. checkpoint: there is no checkpoint"),
        (
            'kind = "chat"',
            'kind = "chat"\ncontext = 9000',
            "line 5: .data. context is 9000, and the model",
        ),
        (
            'kind = "chat"',
            'kind = "text"\nend_of_text = "<x>"',
            "line 5: .data. end_of_text: .*no token '<x>'",
        ),
        ('kind = "chat"', 'kind = "text"', "sums.jsonl, line 1: 'text' is missing"),
        ('kind = "chat"', 'kind = "chat"\ncontext = 10', "line 1: the conversation has"),
    ]
    for old, new, why in wrong:
        config.write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=why):
            trained(config, tmp_path / "out")
    (tmp_path / "sums.jsonl").open("a").write("{}\n")
    config.write_text(text)
    with pytest.raises(InputError, match=r"sums.jsonl, line 81: 'messages' is missing"):
        trained(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_template_cannot_be_trained_on_chats(
    parent: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(parent, bare)
    file = bare / "tokenizer_config.json"
    document = json.loads(file.read_text())
    del document["chat_template"]
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="has no chat template"):
        trained(configured(tmp_path, bare), tmp_path / "out")
