"""Lock files: the exact wheels of a target, each by version, SHA-256, name and size.

A lock is a requirements file that pip reads as it is; the comments carry what pip does not need.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import InputError

HEADER = "# Made by `python -m edgekit.workflows.bundle.relock`. Do not edit."
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9._+!-]+)"
    r" --hash=sha256:(?P<sha256>[0-9a-f]{64})"
    r"  # (?P<filename>[A-Za-z0-9._+-]+\.whl), (?P<bytes>\d{1,12}) bytes, for (?P<parts>[a-z ]+)"
)


@dataclass(frozen=True, slots=True)
class LockedWheel:
    """One wheel; `parts` says who needs it: "chat" (every bundle), "gguf", "onnx"."""

    name: str
    version: str
    sha256: str
    filename: str
    bytes: int
    parts: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """Return the line that pip's --require-hashes understands."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"

    def line(self) -> str:
        """Return the line of the lock file."""
        parts = " ".join(self.parts)
        return f"{self.requirement}  # {self.filename}, {self.bytes} bytes, for {parts}"


def read_lock(path: Path) -> list[LockedWheel]:
    """Return the wheels of a lock file. Raises InputError that names the line."""
    wheels = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InputError(f"{path}, line {number} is no pinned wheel: {line[:80]}")
        fields = match.groupdict()
        wheels.append(
            LockedWheel(
                name=fields["name"],
                version=fields["version"],
                sha256=fields["sha256"],
                filename=fields["filename"],
                bytes=int(fields["bytes"]),
                parts=tuple(fields["parts"].split()),
            )
        )
    return wheels


def write_lock(path: Path, wheels: Iterable[LockedWheel]) -> None:
    """Write a lock file, sorted by name."""
    lines = [wheel.line() for wheel in sorted(wheels, key=lambda wheel: wheel.name)]
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")


def needed(wheels: Iterable[LockedWheel], engines: Iterable[str]) -> list[LockedWheel]:
    """Return the wheels for the chat and for `engines`."""
    wanted = {"chat", *engines}
    return [wheel for wheel in wheels if wanted & set(wheel.parts)]
