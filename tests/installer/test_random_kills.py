"""Killed at random moments, by the real scripts, while somebody else reads `current` all the time.

EDGEKIT_KILLS is the number of kills, 20 by default; the full run is 300.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .tiny_bundle import INTERPRETER, complete_version, current, make_bundle, make_wheel, version_id

KILLS = int(os.environ.get("EDGEKIT_KILLS", "20"))
GRACE_S = 30
READ_PAUSE_S = 0.02
BUNDLES = 6


def _start(command: list[str | Path]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _many_files(folder: Path) -> None:
    files = {f"many/module_{number}.py": f"NUMBER = {number}\n" for number in range(200)}
    make_wheel(folder / "many-1.0-py3-none-any.whl", files, "many")


def _reader(prefix: Path, stop: Path, report: Path) -> int:
    """Fork a process that checks every file of `current` again and again; return its id."""
    child = os.fork()
    if child:
        return child
    reads, faults = 0, []
    try:
        while not stop.exists():
            name = (prefix / "current").readlink().name
            wrong = complete_version(prefix / "versions" / name)
            linked = {(prefix / "current").readlink().name, _previous(prefix)}
            # Two switches during one read may prune what is read; no program lives that long.
            if wrong and name in linked:
                faults.append(f"{name}: {wrong}")
            reads += 1
            time.sleep(READ_PAUSE_S)
    except OSError as error:
        faults.append(repr(error))
    report.write_text(json.dumps({"reads": reads, "faults": faults}))
    os._exit(0)


def _previous(prefix: Path) -> str:
    try:
        return (prefix / "previous").readlink().name
    except FileNotFoundError:
        return ""


@pytest.mark.slow
def test_random_kills_never_leave_a_current_that_is_not_whole(folder: Path) -> None:
    chance = random.Random(4)
    prefix, stop, report = folder / "prefix", folder / "stop", folder / "report"
    bundles = [
        make_bundle(folder / f"v{n}", f"v{n}", model_bytes=300_000, wheels=_many_files)
        for n in range(BUNDLES)
    ]
    known = {version_id(bundle) for bundle in bundles}
    options: list[str | Path] = ["--prefix", prefix, "--no-compile"]
    began = time.monotonic()
    for bundle in bundles[:2]:
        assert _start([INTERPRETER, bundle / "install.py", *options]).wait() == 0
    longest_s = (time.monotonic() - began) / 2
    reader = _reader(prefix, stop, report)
    killed = leftovers = 0
    try:
        while killed < KILLS:
            device: list[str | Path] = [prefix / "bin" / "edgekit-device"]
            upgrade = [*device, "upgrade", chance.choice(bundles), "--no-compile"]
            process = _start(upgrade if chance.random() < 0.75 else [*device, "rollback"])
            time.sleep(chance.uniform(0, longest_s))
            process.send_signal(signal.SIGKILL)
            killed += process.wait(GRACE_S) == -signal.SIGKILL
            assert current(prefix) in known
            leftovers += any(p.name.startswith(".") for p in (prefix / "versions").iterdir())
    finally:
        stop.touch()
        os.waitpid(reader, 0)
    seen = json.loads(report.read_text())
    assert seen["faults"] == []
    assert seen["reads"] > KILLS / 4
    assert leftovers or KILLS < 100, "the kills should hit the staging too"
    assert _start([INTERPRETER, bundles[0] / "install.py", *options]).wait() == 0
    assert current(prefix) == version_id(bundles[0])
    versions = {path.name for path in (prefix / "versions").iterdir()}
    assert versions == {current(prefix), _previous(prefix)}
    print(f"{killed} kills, {leftovers} left something, {seen['reads']} reads", file=sys.stderr)
