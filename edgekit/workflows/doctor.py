"""doctor: look at this installation the way a user meets it, part by part."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

from edgekit.privacy.lock import PRIVATE_VARIABLE, WEAKER_VARIABLE
from edgekit.privacy.quiet import QUIET_ENVIRONMENT
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
    (
        "torch engine",
        "torch",
        "import torch, transformers, bitsandbytes, accelerate, tokenizers; "
        "bitsandbytes.functional.quantize_4bit(torch.ones(64, 64))",
    ),
    ("chat", "chat", "import textual"),
    ("convert", "convert", "import gguf, onnx, torch, transformers, huggingface_hub, matplotlib"),
)
TIMEOUT_S = 120
LOCK = """
import json
from dataclasses import asdict
from edgekit.errors import EdgekitError
from edgekit.privacy.lock import lock
try:
    print(json.dumps(asdict(lock(writable=()))))
except EdgekitError as error:
    print(json.dumps({"refused": error.message, "hint": error.hint}))
"""
CHECK_HINT = "edgekit privacy check says more"


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of edgekit: whether it works here, what was found, and the next step if not."""

    part: str
    works: bool
    detail: str
    hint: str = ""


def examine() -> list[Finding]:
    """Return a finding for every part. Engines are tried in processes of their own."""
    return [_python(), _packages(), *(_part(*part) for part in PARTS), _privacy(), _store()]


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
    try:
        _run(code)
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        return Finding(part, False, last, "it is installed but does not work: install it again")
    except subprocess.TimeoutExpired:
        return Finding(part, False, f"no answer within {TIMEOUT_S} s")
    versions = ", ".join(f"{m} {_version(m)}" for m in _modules(code))
    return Finding(part, True, versions)


def _run(code: str) -> str:
    """Run code in a fresh interpreter, kept quiet, and return what it prints."""
    weaker_lock = (PRIVATE_VARIABLE, WEAKER_VARIABLE)
    inherited = {name: value for name, value in os.environ.items() if name not in weaker_lock}
    return subprocess.run(  # noqa: S603 - our own interpreter and our own code
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=inherited | QUIET_ENVIRONMENT,
    ).stdout


def _privacy() -> Finding:
    """Say how well this machine can lock a private chat: a process of its own is locked for it."""
    try:
        found = json.loads(_run(LOCK))
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, ValueError):
        return Finding("privacy mode", False, "the lock ended in an error of its own", CHECK_HINT)
    if "refused" in found:
        return Finding("privacy mode", False, found["refused"], found["hint"])
    layers = ["the kernel refuses every socket"]
    layers += ["own network"] if found["namespace"] else []
    layers += [f"file rules (Landlock {found['landlock_abi']})"] if found["landlock_abi"] else []
    return Finding("privacy mode", True, "; ".join([", ".join(layers), *found["missing"]]))


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
