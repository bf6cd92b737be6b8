"""From a bundle to an answer: built, carried, installed and asked, with no network at all.

The wheels are packed from what is installed here, so that nothing is downloaded; the bundle, the
installer and the engines are real. Slow: it unpacks and compiles 3,000 files.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import InputError
from edgekit.workflows.bundle.lock_files import read_lock
from edgekit.workflows.bundle.targets import LOCKS
from tests.edgekit.bundle.wheel_maker import locked, pack_installed
from tests.edgekit.bundle.workshop import Workshop

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform != "linux", reason="the network is cut by Linux namespaces"),
]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def cut_off() -> list[str]:
    """Return the words before a command that take its network away, or skip."""
    for words in (["unshare", "-n"], ["unshare", "-r", "-n"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*words, "true"], check=False).returncode == 0
        ):
            return words
    pytest.skip("unshare cannot make a network namespace here")


class Device:
    """A folder that plays a device: no network, a clean environment, a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.home, self.prefix = folder / "home", folder / "opt"
        self.home.mkdir(parents=True)
        self.cut_off = cut_off()

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8"}
        command = [*self.cut_off, *map(str, words)]
        return subprocess.run(
            command, env=environment, cwd=self.home, capture_output=True, text=True, check=False
        )

    def ask(self, artifact: str) -> dict[str, Any]:
        edgekit = self.prefix / "bin" / "edgekit"
        options = ("--temperature", "0", "--max-tokens", "8", "--threads", "1", "--json")
        done = self.run(edgekit, "run", artifact, "hello world", *options)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return a workshop whose wheels are the pinned set, packed from what is installed here."""
    workshop = Workshop(tmp_path_factory.mktemp("real"))
    tag = "cp" + PYTHON.replace(".", "")
    wheels = [
        locked(pack_installed(wheel.name, workshop.wheelhouse), *wheel.parts)
        for wheel in read_lock(LOCKS / f"linux-{platform.machine()}-{tag}.txt")
    ]
    pack_installed("llama-cpp-python", workshop.wheelhouse)
    workshop.write_locks(wheels, f"linux-{platform.machine()}-{tag}")
    return workshop


def test_a_carried_bundle_installs_and_answers_as_here(
    shop: Workshop, gguf: Path, onnx: Path, tmp_path: Path
) -> None:
    machine = platform.machine()
    libc = platform.libc_ver()[1].split(".")
    here = {
        "machine": machine,
        "platform_tags": (f"manylinux_2_28_{machine}",),
        "glibc": (int(libc[0]), int(libc[1])),
        "least_cpu_features": (),
    }
    built = shop.build(gguf, onnx, profile=here, python=PYTHON)
    carried = Path(shutil.move(built.path, tmp_path / "stick"))
    device = Device(tmp_path / "device")
    done = device.run(sys.executable, carried / "install.py", "--prefix", device.prefix)
    assert done.returncode == 0, done.stderr
    assert built.fingerprint in done.stdout + done.stderr
    for artifact in (gguf, onnx):
        assert device.ask(artifact.name)["text"] == here_answers(artifact)
    again = device.run(sys.executable, carried / "install.py", "--prefix", device.prefix)
    assert again.returncode == 0, again.stderr  # the bundle is as it was: nothing was written to it


def here_answers(artifact: Path) -> str:
    """Return the answer of this environment to the same question."""
    options = ["--temperature", "0", "--max-tokens", "8", "--threads", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "run", str(artifact), "hello world", *options],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    text: str = json.loads(done.stdout)["text"]
    return text


def test_the_pinned_wheels_of_a_board_are_fetched_and_found_again(
    onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one test here that needs an index: wheels for a Raspberry Pi with Python 3.13."""
    workshop = Workshop(tmp_path)
    try:
        built = workshop.build(onnx, wheelhouse=None, locks=LOCKS, python="3.13")
    except InputError as error:
        if "pip could not fetch" in error.message:
            pytest.skip(error.message)
        raise
    assert {wheel.name for wheel in built.wheels} >= {"numpy", "onnxruntime", "textual", "edgekit"}
    assert built.manifest.glibc == (2, 28)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    again = workshop.build(onnx, wheelhouse=None, locks=LOCKS, python="3.13", replace=True)
    assert again.manifest == built.manifest
