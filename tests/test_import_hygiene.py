"""What each part may load: the device side stays light, and `--help` answers at once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch", "transformers", "textual", "llama_cpp", "onnxruntime", "numpy", "gguf", "onnx",
    "jinja2", "tokenizers", "huggingface_hub", "matplotlib", "rich",
}  # fmt: skip
SERVER_SIDE = {"torch", "transformers", "gguf", "onnx", "huggingface_hub", "matplotlib"}


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has after running `code`."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    return {name.split(".")[0] for name in json.loads(output.splitlines()[-1])}


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


def test_conversion_to_gguf_needs_no_torch() -> None:
    assert not loaded_by("import converters.convert, converters.export_gguf") & {
        "torch",
        "transformers",
    }


def test_the_foundation_is_standard_library_only() -> None:
    code = (
        "import edgekit.artifact, edgekit.errors, edgekit.extras, edgekit.files\n"
        "import edgekit.gguf_header, edgekit.onnx_header, edgekit.progress\n"
        "import edgekit.privacy.audit, edgekit.privacy.descriptors, edgekit.privacy.landlock\n"
        "import edgekit.privacy.lock, edgekit.privacy.namespace, edgekit.privacy.seccomp\n"
        "import edgekit.privacy.selftest, edgekit.settings, edgekit.store, edgekit.units"
    )
    extra = loaded_by(code) - loaded_by("pass") - set(sys.stdlib_module_names)
    assert extra == {"edgekit"}
