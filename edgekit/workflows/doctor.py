"""doctor: look at this installation the way a user meets it, part by part."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

from edgekit.store import home

OUR_PACKAGES = ("edgekit", "converters", "runtimes", "devices", "tui")
# What each part needs, the extra that brings it, and what a fresh process must be able to do.
PARTS = (
    ("gguf engine", "gguf", "import llama_cpp; llama_cpp.llama_print_system_info()"),
    (
        "onnx engine",
        "onnx",
        "import onnxruntime, tokenizers; onnxruntime.get_available_providers()",
    ),
    ("chat", "chat", "import textual"),
    ("convert", "convert", "import gguf, onnx, torch, transformers, huggingface_hub, matplotlib"),
)
TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of edgekit: whether it works here, what was found, and the next step if not."""

    part: str
    works: bool
    detail: str
    hint: str = ""


def examine() -> list[Finding]:
    """Return a finding for every part. Engines are tried in processes of their own."""
    return [_python(), _packages(), *(_part(*part) for part in PARTS), _store()]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", sys.version_info >= (3, 11), f"{version} at {sys.executable}")


def _packages() -> Finding:
    """Other distributions own top-level packages of the same names: they would shadow ours."""
    owners = metadata.packages_distributions()
    strangers = {
        f"{package} ({owner})"
        for package in OUR_PACKAGES
        for owner in owners.get(package, [])
        if owner != "edgekit"
    }
    if strangers:
        hint = "install edgekit into an environment of its own"
        return Finding("packages", False, f"shadowed by {', '.join(sorted(strangers))}", hint)
    return Finding("packages", True, f"edgekit {metadata.version('edgekit')}")


def _part(part: str, extra: str, code: str) -> Finding:
    missing = [m for m in _modules(code) if importlib.util.find_spec(m) is None]
    if missing:
        hint = f"pip install 'edgekit[{extra}]'"
        return Finding(part, False, f"not installed: {', '.join(missing)}", hint)
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    try:
        subprocess.run(  # noqa: S603 - our own interpreter and our own code
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=environment,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        return Finding(part, False, last, "it is installed but does not work: install it again")
    except subprocess.TimeoutExpired:
        return Finding(part, False, f"no answer within {TIMEOUT_S} s")
    versions = ", ".join(f"{m} {_version(m)}" for m in _modules(code))
    return Finding(part, True, versions)


def _modules(code: str) -> list[str]:
    imports = code.split(";")[0].removeprefix("import ")
    return [name.strip() for name in imports.split(",")]


def _version(module: str) -> str:
    distributions = metadata.packages_distributions().get(module, [module])
    return metadata.version(distributions[0])


def _store() -> Finding:
    folder = home()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    writable = os.access(existing, os.W_OK)
    hint = "" if writable else "set EDGEKIT_HOME to a folder of yours"
    return Finding("store", writable, str(folder), hint)
