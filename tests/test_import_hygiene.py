"""What each part may load: the device side stays light, and `--help` answers at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch", "transformers", "textual", "llama_cpp", "onnxruntime", "numpy", "gguf", "onnx",
    "jinja2", "tokenizers", "huggingface_hub", "matplotlib", "rich",
}  # fmt: skip
TORCH = {"torch", "transformers", "bitsandbytes", "accelerate"}
ANSWER = """
from pathlib import Path
from edgekit.artifact import Artifact
from runtimes.load import load
runtime = load(Artifact.open(Path({path!r})), context_length=64, threads=1, in_process=True)
runtime.score([5, 6, 7])
runtime.close()
"""
SERVER_SIDE = {"torch", "transformers", "gguf", "onnx", "huggingface_hub", "matplotlib"}


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after running `code`."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    return {name.split(".")[0] for name in json.loads(output.splitlines()[-1])}


def converted(checkpoint: Path, out: Path, format_: str, scheme: str) -> Path:
    """Return the folder of a tiny artifact."""
    from converters.checkpoint import Checkpoint
    from converters.convert import convert
    from converters.recipe import Recipe
    from edgekit.progress import NoProgress

    recipe = Recipe.of(format_, scheme)
    return convert(Checkpoint.open(checkpoint), recipe, out, progress=NoProgress()).path


def test_help_loads_nothing_heavy() -> None:
    code = (
        "from edgekit.cli import cli\n"
        "sys.argv = ['edgekit', '--help']\n"
        "cli.main(['--help'], standalone_mode=False)"
    )
    assert not loaded_by(code) & HEAVY


@pytest.mark.parametrize("module", ["edgekit", "converters", "runtimes", "devices", "tui"])
def test_a_package_root_imports_nothing(module: str) -> None:
    bare = loaded_by("pass")
    assert loaded_by(f"import {module}") - bare <= {module}


@pytest.mark.parametrize(
    "module", ["edgekit.workflows.answer", "runtimes.load", "runtimes.worker", "tui.app"]
)
def test_the_device_side_needs_no_torch(module: str) -> None:
    assert not loaded_by(f"import {module}") & SERVER_SIDE


@pytest.mark.parametrize(("format_", "scheme"), [("gguf", "q8_0"), ("onnx", "int8")])
def test_answering_on_a_device_loads_no_torch(
    tiny_checkpoint: Path, tmp_path: Path, format_: str, scheme: str
) -> None:
    """The third engine is not touched by the two others: a device install does not have it."""
    artifact = converted(tiny_checkpoint, tmp_path / "a", format_, scheme)
    assert not loaded_by(ANSWER.format(path=str(artifact))) & TORCH


@pytest.mark.slow
def test_the_torch_engine_does_load_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Else the test above could not fail."""
    artifact = converted(tiny_checkpoint, tmp_path / "a", "torch", "int8")
    assert loaded_by(ANSWER.format(path=str(artifact))) >= TORCH


@pytest.mark.parametrize("exporter", ["export_gguf", "export_onnx", "export_torch"])
def test_conversion_needs_no_torch(exporter: str) -> None:
    assert not loaded_by(f"import converters.convert, converters.{exporter}") & TORCH


def test_the_foundation_is_standard_library_only() -> None:
    code = (
        "import edgekit.artifact, edgekit.errors, edgekit.extras, edgekit.files\n"
        "import edgekit.gguf_header, edgekit.onnx_header, edgekit.progress\n"
        "import edgekit.bitsandbytes_layout, edgekit.model_config\n"
        "import edgekit.safetensors_header, edgekit.torch_folder\n"
        "import edgekit.privacy.audit, edgekit.privacy.descriptors, edgekit.privacy.landlock\n"
        "import edgekit.privacy.lock, edgekit.privacy.namespace, edgekit.privacy.seccomp\n"
        "import edgekit.privacy.selftest, edgekit.settings, edgekit.store, edgekit.units"
    )
    extra = loaded_by(code) - loaded_by("pass") - set(sys.stdlib_module_names)
    assert extra == {"edgekit"}
