"""A passphrase comes from a terminal that does not show it, or from a file; from nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.cli.passphrase import read_passphrase, with_passphrase
from edgekit.errors import InputError, PrivacyError
from tui.store import vault

ROOT = Path(__file__).parents[2]
ASK = """
import sys
from edgekit.cli.passphrase import read_passphrase
from edgekit.errors import EdgekitError
try:
    print("GOT", ascii(read_passphrase(None, confirm=sys.argv[1] == "twice")))
except EdgekitError as error:
    print("ERROR", error.exit_code, error.message)
"""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"four words of mine", "four words of mine"),
        (b"four words\n", "four words"),
        (b"four words\r\n", "four words"),
        (b" spaces stay \nsecond line", " spaces stay "),
        ("päss 密".encode(), "päss 密"),
        (b"x" * 4096, "x" * 4096),
    ],
)
def test_the_first_line_of_a_file(tmp_path: Path, data: bytes, expected: str) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(data)
    assert read_passphrase(file, confirm=True) == expected


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", PrivacyError),
        (b"\nsecond", PrivacyError),
        (b"\xff\xfe", InputError),
        (b"x" * 4097, InputError),
        (b"x" * 10_000_000, InputError),
    ],
)
def test_a_file_that_holds_no_passphrase(
    tmp_path: Path, data: bytes, error: type[Exception]
) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(data)
    with pytest.raises(error) as caught:
        read_passphrase(file, confirm=False)
    assert "xx" not in str(caught.value)


def test_files_that_are_not_there_or_never_end(tmp_path: Path) -> None:
    for file in (tmp_path / "missing", tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match="passphrase file"):
            read_passphrase(file, confirm=False)


def test_a_pipe_by_its_descriptor() -> None:
    out, into = os.pipe()
    os.write(into, b"from a pipe\nrest")  # and it stays open: only the first line is waited for
    assert read_passphrase(Path(f"/dev/fd/{out}"), confirm=False) == "from a pipe"
    os.close(into)
    os.close(out)


def typed(*lines: str, how: str, program: str = ASK) -> str:
    """Return what a terminal shows while `lines` are typed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", program, how])
    shown = b""
    left = list(lines)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            piece = os.read(terminal, 1024)
        except OSError:  # the child has ended
            break
        if not piece:
            break
        shown += piece
        if left and piece.rstrip(b" ").endswith(b":"):
            os.write(terminal, left.pop(0).encode() + b"\n")
    os.waitpid(pid, 0)
    os.close(terminal)
    return shown.decode()


def test_the_terminal_does_not_show_it() -> None:
    shown = typed("sesame ü", how="once")
    assert shown.count("sesame") == 1
    assert "GOT 'sesame \\xfc'" in shown
    assert shown.index("Passphrase:") < shown.index("GOT")


def test_a_new_one_is_asked_twice() -> None:
    assert "GOT 'sesame'" in typed("sesame", "sesame", how="twice")
    assert "ERROR 6 the two passphrases differ" in typed("sesame", "sesamo", how="twice")
    assert "ERROR 6 the passphrase is empty" in typed("", how="twice")


OPEN = """
import sys
from edgekit.cli.passphrase import with_passphrase
from edgekit.errors import EdgekitError
from tui.store import vault
header, _ = vault.new_sealed_header("sesame", vault.Cost(64, 1, 1))
try:
    with_passphrase(None, lambda words: vault.unlock(header, words), confirm=sys.argv[1] == "twice")
    print("OPENED")
except EdgekitError as error:
    print("ERROR", error.exit_code, error.message)
"""


def test_a_wrong_one_may_be_typed_again_twice() -> None:
    shown = typed("wrong", "worse", "sesame", how="once", program=OPEN)
    assert shown.count("the passphrase is wrong: try again") == 2
    assert "OPENED" in shown
    shown = typed("wrong", "worse", "worst", how="once", program=OPEN)
    assert shown.count("Passphrase:") == 3
    assert "ERROR 6 the passphrase is wrong" in shown
    shown = typed("sesame", "sesamo", "sesame", "sesame", how="twice", program=OPEN)
    assert "the two passphrases differ: try again" in shown
    assert "OPENED" in shown


def test_a_wrong_one_in_a_file_is_tried_once(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_text("wrong")
    header, _ = vault.new_sealed_header("sesame", vault.Cost(64, 1, 1))
    tried = []

    def unlock(passphrase: str) -> None:
        tried.append(passphrase)
        vault.unlock(header, passphrase)

    with pytest.raises(vault.WrongPassphraseError):
        with_passphrase(file, unlock)
    assert tried == ["wrong"]


def test_without_a_terminal_or_a_file_it_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, "once"],
        cwd=ROOT,
        input="sesame\n",
        capture_output=True,
        text=True,
        start_new_session=True,  # no terminal of its own
        check=True,
    )
    assert done.stdout.startswith("ERROR 6 a passphrase is needed, and there is no terminal")
    assert "sesame" not in done.stdout + done.stderr
