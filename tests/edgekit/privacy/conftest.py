"""Run a script in a process of its own, as this user and as one who may do nothing special."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

NOBODY = 65534
REPOSITORY = Path(__file__).parents[3]
Run = Callable[..., subprocess.CompletedProcess[str]]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the lock needs Linux")


@pytest.fixture(params=["this user", "an ordinary user"])
def user(request: pytest.FixtureRequest) -> int | None:
    """Return None for the user who runs the tests, or the number of an ordinary one."""
    if request.param == "this user":
        return None
    if os.geteuid() != 0:
        pytest.skip("the other tests run as an ordinary user already")
    if interpreter_for(NOBODY) is None:
        pytest.skip("an ordinary user can reach no Python that can run edgekit")
    return NOBODY


@pytest.fixture
def place(user: int | None) -> Iterator[Path]:
    """Return an empty folder that belongs to `user`; pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="edgekit-test-"))
    if user is not None:
        os.chown(folder, user, user)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def run(user: int | None, place: Path) -> Run:
    """Return a function that runs Python code, or a script, as `user` with EDGEKIT_HOME `place`."""

    def start(
        program: str | Path, *arguments: str, **options: object
    ) -> subprocess.CompletedProcess[str]:
        return run_python(program, *arguments, user=user, home=place, **options)

    return start


@cache
def interpreter_for(user: int | None) -> str | None:
    """Return a Python that `user` can run: root's own may lie in a folder closed to others."""
    if user is None:
        return sys.executable
    for program in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        code = "import ctypes, sys, edgekit; sys.exit(sys.version_info < (3, 11))"
        try:
            subprocess.run(
                [program, "-c", code],
                env={"PYTHONPATH": str(REPOSITORY)},
                cwd="/",
                capture_output=True,
                check=True,
                user=user,
                group=user,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return program
    return None


def run_python(
    program: str | Path,
    *arguments: str,
    user: int | None = None,
    home: Path | None = None,
    environment: dict[str, str] | None = None,
    **options: object,
) -> subprocess.CompletedProcess[str]:
    """Run code or a script in an interpreter of its own and return how it ended."""
    words = [str(program)] if isinstance(program, Path) else ["-c", program]
    settings = {k: v for k, v in os.environ.items() if not k.startswith("EDGEKIT_")}
    settings |= {"EDGEKIT_HOME": str(home)} if home else {}
    settings["PYTHONPATH"] = str(REPOSITORY)
    whose = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [interpreter_for(user), *words, *arguments],
        capture_output=True,
        text=True,
        env=settings | (environment or {}),
        timeout=30,
        cwd="/",
        **whose,
        **options,
    )
