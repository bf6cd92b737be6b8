"""The installer runs alone, on a device that has Python and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit.installer

from .tiny_bundle import INTERPRETER, make_bundle

MODULES = sorted(Path(edgekit.installer.__file__).parent.glob("*.py"))
# Newer than Python 3.9, each as it would be written.
TOO_NEW = ("slots=True", "kw_only=True", "strict=True", "import tomllib", "file_digest")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_the_standard_library_and_its_neighbours_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
            assert all(name in sys.stdlib_module_names for name in names), names
        if isinstance(node, ast.ImportFrom):
            own = node.level == 1
            assert own or str(node.module).split(".")[0] in sys.stdlib_module_names, node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_written_for_python_3_9(path: Path) -> None:
    text = path.read_text()
    ast.parse(text, feature_version=(3, 9))
    assert "from __future__ import annotations" in text or path.stem == "__init__"
    assert not [line for line in text.splitlines() if line.strip().startswith(TOO_NEW)]


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13", "3.14"])
def test_it_runs_on_other_pythons_where_they_are(version: str, folder: Path) -> None:
    other = _other_python(version)
    if other is None:
        pytest.skip(f"there is no Python {version} here")
    bundle, prefix = make_bundle(folder / "bundle", python=version), folder / "prefix"
    command = [other, bundle / "install.py", "--prefix", prefix, "--no-compile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for arguments in (["status"], ["verify"], ["uninstall"]):
        subprocess.run([prefix / "bin" / "edgekit-device", *arguments], check=True)


def _other_python(version: str) -> str | None:
    """Return a Python of that version beside ours or on the path, if it works."""
    beside = sorted(INTERPRETER.parents[2].glob(f"{version}*/bin/python{version}"))
    for candidate in [*map(str, beside), f"/usr/bin/python{version}"]:
        try:
            if not subprocess.run(
                [candidate, "-c", ""], capture_output=True, check=False
            ).returncode:
                return candidate
        except OSError:
            continue
    return None
