"""Files and folders appear whole or not at all: under kills, full disks and races."""

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgekit.errors import GateError, InputError
from edgekit.files import (
    FolderExistsError,
    disk_errors,
    file_lock,
    require_space,
    sha256_file,
    staged_folder,
    write_atomically,
)

# Builds a folder in steps, so that a kill lands at any of them; says when each round is done.
BUILDER = """
import sys
from pathlib import Path
from edgekit.files import staged_folder
destination = Path(sys.argv[1])
print("ready", flush=True)
for round_number in range(1000):
    with staged_folder(destination, replace=True) as staging:
        for part in range(20):
            (staging / f"part-{part}").write_bytes(bytes([round_number % 256]) * 4096)
"""

# Adds one line to a log inside the lock; a second holder at the same time would see the marker.
LOCKER = """
import os, sys, time
from pathlib import Path
from edgekit.files import file_lock
folder = Path(sys.argv[1])
for _ in range(40):
    with file_lock(folder / ".lock"):
        marker = os.open(folder / "inside", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        time.sleep(0.001)
        os.close(marker)
        os.unlink(folder / "inside")
        with open(folder / "log", "a") as log:
            log.write("x")
"""

# Pulls together with others: whoever is second finds the folder made.
RACER = """
import sys, time
from pathlib import Path
from edgekit.files import FolderExistsError, staged_folder
try:
    with staged_folder(Path(sys.argv[1])) as staging:
        (staging / "made").write_text("once")
        time.sleep(0.1)
    print("made")
except FolderExistsError:
    print((Path(sys.argv[1]) / "made").read_text())
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def assert_whole(folder: Path) -> None:
    parts = sorted(folder.iterdir())
    contents = {part.read_bytes() for part in parts}
    assert len(parts) == 20
    assert len(contents) == 1
    assert len(contents.pop()) == 4096


def test_staged_folder_appears_whole(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out") as staging:
        (staging / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def test_staged_folder_leaves_nothing_after_an_exception(tmp_path: Path) -> None:
    def build() -> None:
        with staged_folder(tmp_path / "out") as staging:
            (staging / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    assert os.listdir(tmp_path) == []


def test_staged_folder_refuses_an_existing_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FolderExistsError, match="exists already"), staged_folder(tmp_path / "out"):
        raise AssertionError("the block must not run")
    assert os.listdir(tmp_path) == ["out"]


def test_staged_folder_replaces_if_asked(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with staged_folder(tmp_path / "out", replace=True) as staging:
            (staging / text).touch()
    assert os.listdir(tmp_path / "out") == ["new"]
    assert os.listdir(tmp_path) == ["out"]


def test_staged_folder_takes_read_only_files(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out") as staging:
        (staging / "a").write_text("1")
        (staging / "a").chmod(0o444)
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_recovery_brings_the_old_folder_back(tmp_path: Path) -> None:
    """A kill between the two renames of a replacement leaves only `.out.old`."""
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "kept").touch()
    (tmp_path / ".out.partial").mkdir()
    with pytest.raises(FolderExistsError), staged_folder(tmp_path / "out"):
        raise AssertionError("the block must not run")
    assert os.listdir(tmp_path / "out") == ["kept"]
    assert os.listdir(tmp_path) == ["out"]


def test_kill_at_random_moments_leaves_a_whole_folder_or_none(tmp_path: Path) -> None:
    moments = random.Random(20)
    out = tmp_path / "out"
    for _ in range(12):
        process = python(BUILDER, out)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0.0, 0.08))
        process.kill()
        process.communicate()
        if out.exists():
            assert_whole(out)
    with staged_folder(out, replace=True) as staging:
        (staging / "last").touch()
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(out) == ["last"]


def test_locks_are_exclusive_among_four_processes(tmp_path: Path) -> None:
    processes = [python(LOCKER, tmp_path) for _ in range(4)]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "log").read_text() == "x" * 160
    assert os.listdir(tmp_path) == ["log"]


def test_a_lock_is_free_after_its_holder_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from edgekit.files import file_lock\n"
        "with file_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = python(code, tmp_path / ".lock")
    assert process.stdout is not None
    process.stdout.readline()
    assert (tmp_path / ".lock").exists()
    process.kill()
    process.communicate()
    with file_lock(tmp_path / ".lock"):
        pass
    assert os.listdir(tmp_path) == []


def test_four_racers_make_one_folder(tmp_path: Path) -> None:
    processes = [python(RACER, tmp_path / "out") for _ in range(4)]
    outputs = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert outputs == ["made", "once", "once", "once"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_waiting_process_says_so(tmp_path: Path) -> None:
    """The context is entered only by the one who waits, and left when the lock is his."""
    events: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        events.append("waiting")
        release.set()
        yield
        events.append("not waiting")

    def second() -> None:
        with file_lock(tmp_path / ".lock", waiting):
            events.append("second")

    release = threading.Event()
    thread = threading.Thread(target=second)
    with file_lock(tmp_path / ".lock", waiting):
        thread.start()
        assert release.wait(10)
        events.append("first")
    thread.join(10)
    assert events == ["waiting", "first", "not waiting", "second"]


@contextmanager
def largest_file(limit_bytes: int) -> Iterator[None]:
    """Let no file grow beyond `limit_bytes`: the kernel then fails a write as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_kernel_refuses_leaves_nothing(tmp_path: Path) -> None:
    with (
        largest_file(100_000),
        pytest.raises(GateError, match="larger than"),
        staged_folder(tmp_path / "out") as staging,
    ):
        (staging / "a").write_bytes(bytes(200_000))
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of one megabyte, where the tests may mount at all."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(small_disk: Path) -> None:
    with (
        pytest.raises(GateError, match=r"disk that holds .* is full"),
        staged_folder(small_disk / "out") as staging,
    ):
        (staging / "a").write_bytes(bytes(2_000_000))
    assert os.listdir(small_disk) == []
    with pytest.raises(GateError, match="is full"):
        write_atomically(small_disk / "file", bytes(2_000_000))
    assert os.listdir(small_disk) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path: Path, code: int) -> None:
    with pytest.raises(InputError, match="cannot be written"), disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))


def test_a_file_where_a_folder_should_be_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot be a folder"), staged_folder(folder / "out"):
            raise AssertionError("the block must not run")
        with pytest.raises(InputError, match="cannot be a folder"):
            write_atomically(folder / "out", b"")


def test_require_space_names_both_numbers(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(GateError, match=r"needs 9000000\.0 TB of disk and .* are free"):
        require_space(tmp_path, 9 * 10**18)


def test_write_atomically_replaces_and_leaves_no_other_file(tmp_path: Path) -> None:
    for content in (b"old", b"new content"):
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


def test_sha256_file_tells_every_byte(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    told: list[int] = []
    digest = sha256_file(tmp_path / "abc", told.append)
    # FIPS 180-2, appendix B.1
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sum(told) == 3
