"""A bundle's life on an ARM board without a network, from the stick to the last trace.

The steps build on each other and run in this order; each says what it proves. The board is
Debian 12 for ARM under qemu-user, its processor that of a Raspberry Pi 5 unless a step says else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.artifact import Artifact

from . import agent
from .board import DEVICE, EDGEKIT, PREFIX, Board
from .installation import faults
from .stick import Stick

pytestmark = [pytest.mark.arm, pytest.mark.xdist_group("board")]  # one board at a time
INSTALLED = ("gguf-q4_0", "onnx-int4")
PYTHON = f"{PREFIX}/current/bin/python"
AGENT = "/media/agent.py"
STICK = "/media/stick"


@pytest.fixture(scope="module")
def board(userland: Path, stick: Stick, tmp_path_factory: pytest.TempPathFactory) -> Board:
    binds = {stick.folder: STICK, Path(agent.__file__): AGENT}
    return Board(userland, tmp_path_factory.mktemp("board"), binds)


@pytest.fixture(scope="module")
def here(stick: Stick, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Return what the artifacts say on this machine, by the same program, with its engines."""
    said = {}
    for name in INSTALLED:
        out = tmp_path_factory.mktemp("here") / "logits.npy"
        command = [sys.executable, agent.__file__, str(stick.artifacts[name]), str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        said[name] = {**json.loads(done.stdout), "logits": np.load(out)}
    return said


def _talk(board: Board, name: str, cpu: str, said: object) -> dict[str, object]:
    """Let the board answer, and score what was answered here."""
    artifact = f"{PREFIX}/current/share/edgekit/artifacts/{name}"
    out = f"/var/tmp/{name}-{cpu}.npy"
    command = [PYTHON, "-I", AGENT, artifact, out, json.dumps(said)]
    found = json.loads(board.must(command, cpu=cpu))
    return {**found, "logits": np.load(board.file(out))}


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Return the mean KL(p || q) of two arrays of logits, in nats per position."""
    log_p, log_q = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (p, q))
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


def _prefix(board: Board) -> Path:
    return board.file(PREFIX)


def test_the_board_is_arm_and_has_no_network(board: Board) -> None:
    """One interface, lo, and it is down: nothing that follows can have come from elsewhere."""
    code = (
        "import errno, pathlib, platform, socket\n"
        "names = [n for _, n in socket.if_nameindex()]\n"
        "s = socket.socket(); e = s.connect_ex(('127.0.0.1', 9))\n"
        "print(platform.machine(), names, errno.errorcode[e])"
    )
    assert board.must(["/usr/bin/python3", "-c", code]) == "aarch64 ['lo'] ENETUNREACH\n"


def test_a_changed_bundle_is_refused_before_anything_is_written(
    board: Board, stick: Stick, tmp_path: Path
) -> None:
    manifest = (stick.first / "bundle.json").read_bytes()
    changed = tmp_path / "bundle.json"
    changed.write_bytes(manifest.replace(b'"memory_bytes"', b'"memory_bytez"'))
    tampered = replace(board, binds={**board.binds, changed: f"{STICK}/first/bundle.json"})
    done = tampered.run(["/usr/bin/python3", f"{STICK}/first/install.py"])
    assert done.returncode == 3, done.stderr
    assert "bundle.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert not _prefix(board).exists()


def test_the_bundle_installs(board: Board) -> None:
    """No pip, no compiler, no network; every file is hashed again, by other code."""
    report = json.loads(board.must(["/usr/bin/python3", f"{STICK}/first/install.py", "--json"]))
    answered = report["first_start"]["artifacts"]
    assert [(a["format"], a["tokens"]) for a in answered] == [("gguf", 1), ("onnx", 1)]
    assert faults(_prefix(board)) == []


@pytest.mark.parametrize("name", INSTALLED)
def test_edgekit_run_answers(board: Board, here: dict[str, dict[str, object]], name: str) -> None:
    """The command that people use; the greedy answer begins as on this machine."""
    command = [EDGEKIT, "run", name, agent.PROMPT, "--max-tokens", "3", "--json"]
    answer = json.loads(board.must(command))
    assert answer["tokens"] == 3
    assert str(here[name]["answer"]).startswith(answer["text"].strip()[:3])


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76", "max"])
@pytest.mark.parametrize("name", INSTALLED)
def test_every_processor_says_the_same(
    board: Board, here: dict[str, dict[str, object]], stick: Stick, name: str, cpu: str
) -> None:
    """Pi 4, Pi 5, ARMv9: no SIGILL; ids equal; nearer to this machine than to the checkpoint."""
    there = _talk(board, name, cpu, here[name]["said"])
    assert there["ids"] == here[name]["ids"]
    assert there["prompt"] == here[name]["prompt"]
    certificate = Artifact.open(stick.artifacts[name]).manifest.certificate
    assert certificate is not None
    divergence = _divergence(here[name]["logits"], there["logits"])  # type: ignore[arg-type]
    print(f"{name} on {cpu}: KL {divergence:.6f}, certificate {certificate.kld_mean:.6f}")
    assert divergence < certificate.kld_mean
    assert str(there["answer"]).startswith(agent.EXPECTED)
    # llama.cpp's kernels agree to the last token. ONNX Runtime's int4 kernel for dot products
    # rounds activations otherwise than its others: after the fact, words may differ.
    if name.startswith("gguf"):
        assert there["answer"] == here[name]["answer"]


@pytest.mark.parametrize("seconds", [5.0, 15.0, 40.0])
def test_a_killed_upgrade_leaves_the_version_before(board: Board, seconds: float) -> None:
    before = (_prefix(board) / "current").readlink()
    killed = board.kill_after([DEVICE, "upgrade", f"{STICK}/second"], seconds)
    assert faults(_prefix(board)) == []
    if killed:
        assert (_prefix(board) / "current").readlink() == before
        assert "install" in board.must([EDGEKIT, "--help"])


def test_the_upgrade_goes_on_and_keeps_the_version_before(board: Board) -> None:
    before = (_prefix(board) / "current").readlink()
    board.must([DEVICE, "upgrade", f"{STICK}/second", "--json"])
    assert faults(_prefix(board)) == []
    assert (_prefix(board) / "previous").readlink() == before
    assert json.loads(board.must([DEVICE, "verify", "--json"]))["current"]["faults"] == []


def test_rollback_goes_back(board: Board) -> None:
    links = [(_prefix(board) / name).readlink() for name in ("current", "previous")]
    board.must([DEVICE, "rollback"])
    assert [(_prefix(board) / name).readlink() for name in ("previous", "current")] == links
    assert faults(_prefix(board)) == []


def test_uninstall_leaves_nothing(board: Board) -> None:
    """Only what the tests themselves wrote remains."""
    board.must([DEVICE, "uninstall"])
    own = ("/var/tmp/", "/media/")
    assert [path for path in board.written() if not path.startswith(own)] == []
