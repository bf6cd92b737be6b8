"""Make the lock files again: `python -m edgekit.workflows.bundle.relock`, in a checkout.

Resolves the `device` extra of pyproject.toml under constraints.txt for every target with pip,
leaves out what a device never imports, and downloads each wheel once to write down its size.
Needs the network and the development tools; nothing else in edgekit needs this module.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from edgekit.files import sha256_file
from edgekit.workflows.bundle.lock_files import LockedWheel, write_lock
from edgekit.workflows.bundle.targets import LOCKS, PYTHONS, Target
from edgekit.workflows.bundle.wheels import pip_arguments

CHECKOUT = Path(__file__).parents[3]
TARGETS = [
    Target(system, machine, python)
    for system, machine in (("linux", "aarch64"), ("linux", "x86_64"), ("macos", "arm64"))
    for python in PYTHONS
]
# Dependencies that are declared and never imported on a device. tests/edgekit/bundle proves it:
# the engines and the chat run from an unpacked set of these wheels with nothing else beside it.
NEVER_IMPORTED = {
    ("tokenizers", "huggingface-hub"),  # only to fetch tokenizers by name
    ("onnxruntime", "flatbuffers"),  # only onnxruntime.tools, which converts models
    ("onnxruntime", "packaging"),
    ("onnxruntime", "protobuf"),  # the C++ part carries its own
    ("cffi", "pycparser"),  # only to compile; cryptography needs the compiled part alone
}
# There is no wheel of it anywhere: it is cross-compiled, and its dependencies stand for it.
COMPILED = "llama-cpp-python"
COMPILED_REQUIRES = ("numpy", "typing-extensions", "diskcache", "jinja2")


def main() -> None:
    """Write every lock file into the package."""
    for target in TARGETS:
        wheels = resolve(target)
        write_lock(LOCKS / target.lock_name, wheels)
        total = sum(wheel.bytes for wheel in wheels)
        print(f"{target.lock_name}: {len(wheels)} wheels, {total / 1e6:.1f} MB")


def resolve(target: Target) -> list[LockedWheel]:
    """Return the wheels for `target`, each with the parts of edgekit that need it."""
    roots = _roots(target)
    requirements = [line for lines in roots.values() for line in lines]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        report = _report(target, requirements, work)
        found = {_canonical(item["metadata"]["name"]): item for item in report["install"]}
        parts = _parts(roots, found)
        return list(_download(target, {name: found[name] for name in parts}, parts, work))


def _roots(target: Target) -> dict[str, list[str]]:
    """Return the requirements of each part; "chat" includes what the base install needs."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    roots = {"chat": [*project["dependencies"], *extras["chat"]]}
    roots |= {engine: list(extras[engine]) for engine in target.engines}
    for part, lines in roots.items():
        compiled = [line for line in lines if Requirement(line).name == COMPILED]
        kept = [line for line in lines if line not in compiled]
        roots[part] = [*kept, *(COMPILED_REQUIRES if compiled else ())]
    return roots


def _report(target: Target, requirements: Sequence[str], work: Path) -> dict[str, Any]:
    listed, report = work / "requirements.txt", work / "report.json"
    listed.write_text("\n".join(requirements) + "\n", encoding="utf-8")
    _pip(
        *("install", "--dry-run", "--ignore-installed", "--report", str(report)),
        *("--target", str(work / "target"), "--constraint", str(CHECKOUT / "constraints.txt")),
        *("--requirement", str(listed), *pip_arguments(target)),
    )
    document: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return document


def _parts(roots: dict[str, list[str]], found: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return for each wheel that a device imports the parts that lead to it."""
    parts: dict[str, list[str]] = {}
    for part, lines in roots.items():
        seen: set[str] = set()
        waiting = [Requirement(line) for line in lines]
        while waiting:
            requirement = waiting.pop()
            name = _canonical(requirement.name)
            if name not in found:
                continue
            waiting += [
                needed
                for needed in _requirements(found[name], requirement.extras)
                if (name, _canonical(needed.name)) not in NEVER_IMPORTED
                and _canonical(needed.name) not in seen
            ]
            if name not in seen:
                seen.add(name)
                parts.setdefault(name, []).append(part)
    return {name: tuple(sorted(set(of))) for name, of in parts.items()}


def _requirements(item: dict[str, Any], extras: Iterable[str]) -> Iterator[Requirement]:
    for line in item["metadata"].get("requires_dist", ()):
        requirement = Requirement(line)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        ):
            yield requirement


def _download(
    target: Target, found: dict[str, Any], parts: dict[str, tuple[str, ...]], work: Path
) -> Iterator[LockedWheel]:
    listed, folder = work / "pinned.txt", work / "wheels"
    pinned = {name: _pin(name, item) for name, item in found.items()}
    listed.write_text("\n".join(pinned.values()) + "\n", encoding="utf-8")
    _pip(
        *("download", "--no-deps", "--require-hashes", "--dest", str(folder)),
        *("--requirement", str(listed), *pip_arguments(target)),
    )
    for path in folder.glob("*.whl"):
        name = _canonical(path.name.split("-")[0])
        version = found[name]["metadata"]["version"]
        size = path.stat().st_size
        yield LockedWheel(name, version, sha256_file(path), path.name, size, parts[name])


def _pin(name: str, item: dict[str, Any]) -> str:
    sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name}=={item['metadata']['version']} --hash=sha256:{sha256}"


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-P", "-m", "pip", *arguments, "--quiet"]
    subprocess.run(command, check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})  # noqa: S603


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
