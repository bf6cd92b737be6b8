"""Instructions per token of the real ARM code, against a stored table: one per cent is a change.

Emulation says nothing about time, but it executes the very instructions that a board would, and
counting them repeats within 0.01 %. A kernel that is no longer chosen, a layer computed twice or
a slower build of llama.cpp shows here and on no x86 machine. EDGEKIT_UPDATE=1 rewrites the table.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from . import agent
from .board import FEATURES, Board
from .packages import need
from .stick import Stick

pytestmark = [pytest.mark.arm, pytest.mark.xdist_group("board")]  # one board at a time
TABLE = Path(__file__).with_name("instructions.toml")
SOURCE = Path(__file__).with_name("instruction_counter.c")
BAND = 0.01
TOKENS = 4
# ONNX Runtime without dot products takes minutes for a prompt under emulation: one core is enough.
CASES = [(name, cpu) for name in ("gguf-q4_0", "gguf-q8_0", "gguf-q4_k_m") for cpu in FEATURES]
CASES += [("onnx-int4", "cortex-a76")]
HEADER = """\
# Instructions per decoded token of SmolLM2-135M-Instruct on one thread, after 16 tokens.
# Counted by test_instructions.py under qemu-user; EDGEKIT_UPDATE=1 rewrites this file.
"""


@pytest.fixture(scope="module")
def counting_board(userland: Path, stick: Stick, tmp_path_factory: pytest.TempPathFactory) -> Board:
    """A board with the bundle's wheels unpacked, and a qemu that takes plugins."""
    need("qemu-aarch64", "gcc")
    folder = tmp_path_factory.mktemp("counter")
    build = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]
    subprocess.run([*build, str(folder / "counter.so"), str(SOURCE)], check=True)
    for wheel in (stick.first / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")
    # qemu-user-static has no plugins; the other one needs this machine's libraries.
    libraries = {Path(p): p for p in ("/lib64", "/usr/lib/x86_64-linux-gnu")}
    binds = {
        folder: "/media/counter",
        Path(agent.__file__): "/media/agent.py",
        Path("/usr/bin/qemu-aarch64"): "/usr/bin/qemu-aarch64",
        **libraries,
        **{path: f"/media/{name}" for name, path in stick.artifacts.items()},
    }
    return Board(userland, tmp_path_factory.mktemp("counted"), binds)


def _count(board: Board, name: str, cpu: str) -> int:
    """Return the median number of instructions of one token."""
    readings = f"/var/tmp/{name}-{cpu}.txt"
    qemu = ["/usr/bin/qemu-aarch64", "-plugin", f"/media/counter/counter.so,out={readings}"]
    program = ["/usr/bin/python3.11", "-B", "/media/agent.py", f"/media/{name}"]
    done = board.run(
        [*qemu, *program, "--count", str(TOKENS)],
        cpu=cpu,
        environment=["PYTHONPATH=/media/counter/site", "PYTHONHASHSEED=0"],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    totals = [int(line.split()[1]) for line in board.file(readings).read_text().splitlines()]
    assert len(totals) == TOKENS + 1
    return int(statistics.median(b - a for a, b in itertools.pairwise(totals)))


def _table() -> dict[str, dict[str, int]]:
    return tomllib.loads(TABLE.read_text()) if TABLE.exists() else {}


def _store(name: str, cpu: str, count: int) -> None:
    table = _table()
    table.setdefault(name, {})[cpu] = count
    lines = [HEADER]
    for section in sorted(table):
        lines += [f"[{section}]", *(f"{key} = {table[section][key]}" for key in table[section]), ""]
    TABLE.write_text("\n".join(lines))


@pytest.mark.parametrize(("name", "cpu"), CASES)
def test_instructions_per_token_are_as_stored(counting_board: Board, name: str, cpu: str) -> None:
    count = _count(counting_board, name, cpu)
    if os.environ.get("EDGEKIT_UPDATE") == "1":
        _store(name, cpu, count)
    stored = _table()[name][cpu]
    assert count == pytest.approx(stored, rel=BAND), f"{count / stored - 1:+.2%} of {stored}"


def test_the_dot_product_halves_the_work(counting_board: Board) -> None:
    """What the CPU variants are for: a Pi 5 runs code that a Pi 4 could not."""
    table = _table()["gguf-q4_0"]
    assert table["cortex-a76"] < 0.5 * table["cortex-a72"]
