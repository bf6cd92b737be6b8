"""Killed by the kernel's own hand: strace ends the process on entering its n-th system call.

The same question as test_kills.py, asked below Python, so that a change that Python does not
announce would be met too. Slow: it runs with EDGEKIT_KILL_POINTS=all, every STRIDE-th call.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .kill_points import run_command
from .tiny_bundle import INTERPRETER, current, make_bundle, version_id

CALLS = [
    "rename",
    "renameat",
    "renameat2",
    "symlink",
    "symlinkat",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "fsync",
    "fdatasync",
    "syncfs",
    "fchmod",
    "chmod",
    "fchmodat",
    "write",
]
STRIDE = int(os.environ.get("EDGEKIT_STRACE_STRIDE", "5"))


def _trace(log: Path, inject: str, command: list[str]) -> int:
    expression = ",".join(f"?{call}" for call in CALLS)
    options = ["-e", f"trace={expression}", "-o", str(log), *(["-e", inject] if inject else [])]
    done = subprocess.run(["strace", *options, *command], capture_output=True, check=False)
    return done.returncode


@pytest.mark.skipif(
    os.environ.get("EDGEKIT_KILL_POINTS") != "all", reason="slow: EDGEKIT_KILL_POINTS=all runs it"
)
@pytest.mark.parametrize("name", ["upgrade", "rollback", "uninstall"])
def test_a_kill_at_any_system_call_leaves_a_whole_current(name: str, folder: Path) -> None:
    log, start, prefix = folder / "log", folder / "start", folder / "prefix"
    bundles = [make_bundle(folder / f"v{n}", f"v{n}") for n in range(3)]
    if not shutil.which("strace") or _trace(log, "", ["true"]):
        pytest.skip("strace is not here, or may not trace")
    ids = [version_id(bundle) for bundle in bundles]
    for bundle in bundles[:2]:
        assert run_command(["upgrade", str(bundle), "--prefix", str(start), "--no-compile"]) == 0
    more = [str(bundles[2]), "--no-compile"] if name == "upgrade" else []
    command = [str(INTERPRETER), "-B", str(bundles[2] / "install.py"), name, *more]
    command += ["--prefix", str(prefix)]
    allowed = {ids[1], {"upgrade": ids[2], "rollback": ids[0], "uninstall": ""}[name]}
    shutil.copytree(start, prefix, symlinks=True)
    assert _trace(log, "", command) == 0
    counts = Counter(re.findall(r"^(\w+)\(", log.read_text(), re.MULTILINE))
    killed = 0
    for call, total in counts.items():
        for number in {*range(1, total + 1, STRIDE), total}:
            shutil.rmtree(prefix, ignore_errors=True)
            shutil.copytree(start, prefix, symlinks=True)
            inject = f"inject={call}:signal=SIGKILL:when={number}"
            killed += _trace(log, inject, command) != 0
            assert current(prefix) in allowed, (call, number)
            again = run_command(["upgrade", str(bundles[2]), "--prefix", str(prefix)])
            assert again == 0, (call, number)
            assert current(prefix) == ids[2]
    print(f"strace, {name}: {killed} kills at {sum(counts.values())} calls", file=sys.stderr)
    assert killed
