"""The pipeline: a whole artifact with a true manifest, or nothing."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert, plan
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.errors import GateError, InputError
from edgekit.progress import Advance, NoProgress

Q4_K_M = Recipe.of("gguf", "q4_k_m")


class CountingProgress:
    """Remembers what each task was told."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[int | None, int]] = {}

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
        self.tasks[label] = (total, 0)

        def advance(units: int) -> None:
            self.tasks[label] = (total, self.tasks[label][1] + units)

        yield advance


def test_the_manifest_says_what_was_made_of_what(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    artifact = convert(checkpoint, Q4_K_M, tmp_path / "out", progress=NoProgress())
    manifest = artifact.manifest
    assert (manifest.name, manifest.format, manifest.scheme) == (
        "tiny-gguf-q4_k_m",
        "gguf",
        "q4_k_m",
    )
    assert (manifest.architecture, manifest.parameters) == (
        "LlamaForCausalLM",
        checkpoint.parameters,
    )
    assert (manifest.context_length, manifest.vocabulary_size) == (512, 542)
    assert (manifest.bos_token_id, manifest.stop_token_ids) == (0, [2])
    assert manifest.chat_template == checkpoint.chat_template
    assert manifest.source.checkpoint_digest == checkpoint.digest()
    assert manifest.source.recipe == Q4_K_M.to_dict()
    assert manifest.source.tools["llama-cpp-python"] == "0.3.36"
    artifact.verify()


def test_the_plan_is_made_without_reading_weights_and_comes_true(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint("llama", hidden_size=96, intermediate_size=192))
    planned = plan(checkpoint, Q4_K_M)
    artifact = convert(checkpoint, Q4_K_M, tmp_path / "out", progress=NoProgress())
    assert artifact.entry.stat().st_size == planned.file_bytes
    assert artifact.manifest.bits_per_weight == planned.bits_per_weight
    assert artifact.manifest.substitutions == list(planned.substitutions)
    assert planned.bits_per_weight > 6  # nominally 4.5: no row is a multiple of 256


def test_both_formats_come_from_one_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint, recipe = Checkpoint.open(tiny_checkpoint), Recipe.of("onnx", "int4")
    planned = plan(checkpoint, recipe)
    manifest = convert(checkpoint, recipe, tmp_path / "out", progress=NoProgress()).manifest
    assert (manifest.format, manifest.scheme) == ("onnx", "int4")
    assert manifest.bits_per_weight == planned.bits_per_weight
    assert manifest.source.checkpoint_digest == checkpoint.digest()


def test_a_recipe_can_shorten_the_context_and_not_lengthen_it(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    short = Recipe("short", "gguf", "q8_0", context_length=128)
    artifact = convert(checkpoint, short, tmp_path / "out", progress=NoProgress())
    assert artifact.manifest.context_length == 128
    long = Recipe("long", "gguf", "q8_0", context_length=1024)
    with pytest.raises(InputError, match=r"asks for a context of 1024 tokens, .* has 512"):
        convert(checkpoint, long, tmp_path / "other", progress=NoProgress())


def test_the_licence_travels_along(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (tmp_path / "model" / "LICENSE").write_text("do what you like")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    checkpoint = Checkpoint.open(tmp_path / "model")
    artifact = convert(checkpoint, Q4_K_M, tmp_path / "out", progress=NoProgress())
    assert (artifact.path / "LICENSE").read_text() == "do what you like"
    assert artifact.manifest.source.licence == "apache-2.0"
    assert {file.path for file in artifact.manifest.files} == {"LICENSE", "model.gguf"}


def test_progress_reaches_its_total(tiny_checkpoint: Path, tmp_path: Path) -> None:
    progress = CountingProgress()
    checkpoint = Checkpoint.open(tiny_checkpoint)
    convert(checkpoint, Q4_K_M, tmp_path / "out", progress=progress)
    size = sum(info.bytes for info in checkpoint.tensors.values())
    assert progress.tasks == {"writing q4_k_m": (size, size)}


def test_an_existing_artifact_is_kept_unless_told(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint, out = Checkpoint.open(tiny_checkpoint), tmp_path / "out"
    convert(checkpoint, Q4_K_M, out, progress=NoProgress())
    with pytest.raises(InputError, match="exists already"):
        convert(checkpoint, Recipe.of("gguf", "q8_0"), out, progress=NoProgress())
    assert Artifact.open(out).manifest.scheme == "q4_k_m"
    convert(checkpoint, Recipe.of("gguf", "q8_0"), out, progress=NoProgress(), replace=True)
    assert Artifact.open(out).manifest.scheme == "q8_0"


def test_a_bad_weight_leaves_nothing_behind(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    checkpoint = Checkpoint.open(tmp_path / "model")
    info = checkpoint.info("model.norm.weight")  # the last tensor to be written
    with info.file.open("r+b") as stream:
        stream.seek(info.offset)
        stream.write(np.float32(np.nan).tobytes())
    with pytest.raises(InputError, match=r"tensor model\.norm\.weight"):
        convert(checkpoint, Q4_K_M, tmp_path / "out", progress=NoProgress())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_checkpoint_cut_short_meanwhile_leaves_nothing_behind(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    checkpoint = Checkpoint.open(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 4096)
    with pytest.raises(InputError, match="ends inside tensor"):
        convert(checkpoint, Q4_K_M, tmp_path / "out", progress=NoProgress())
    assert not (tmp_path / "out").exists()


def test_a_disk_too_small_is_told_before_the_work(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(GateError, match="of disk"):
        convert(Checkpoint.open(tiny_checkpoint), Q4_K_M, tmp_path / "out", progress=NoProgress())
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe

class Killer:
    calls = 0
    @contextmanager
    def task(self, label, total, unit="bytes"):
        yield self.advance
    def advance(self, units):
        self.calls += 1
        if self.calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

convert(
    Checkpoint.open(Path(sys.argv[1])), Recipe.of("gguf", "q8_0"), Path(sys.argv[2]),
    progress=Killer(),
)
"""


@pytest.mark.parametrize("calls", [1, 15])
def test_a_killed_conversion_leaves_nothing_and_runs_again(
    calls: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(tiny_checkpoint), str(out), str(calls)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    checkpoint = Checkpoint.open(tiny_checkpoint)
    convert(checkpoint, Recipe.of("gguf", "q8_0"), out, progress=NoProgress()).verify()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
