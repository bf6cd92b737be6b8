"""The lock on a living process: what it reports, what goes on working, what it costs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, linux_only

pytestmark = linux_only
HERE = Path(__file__).parent


def result(done: Any) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LOCK = """
import dataclasses, json, os, sys
from pathlib import Path
from edgekit.privacy.lock import current, lock
home = Path(os.environ["EDGEKIT_HOME"])
"""


def test_the_report_says_what_holds(run: Run, place: Path) -> None:
    code = LOCK + (
        "assert current() is None\n"
        "report = lock(writable=(home,))\n"
        "assert current() is report\n"
        "status = open('/proc/self/status').read()\n"
        "print(json.dumps([dataclasses.asdict(report), status, os.environ['EDGEKIT_PRIVATE'],"
        " 'EDGEKIT_WEAKER_LOCK' in os.environ]))"
    )
    report, status, private, has_weaker = result(run(code))
    assert (report["strength"], report["seccomp"]) == ("kernel", True)
    assert (report["closed"], report["left_open"]) == ([], [])
    assert (private, has_weaker) == ("1", False)
    assert "Seccomp:\t2\n" in status
    assert "NoNewPrivs:\t1\n" in status
    if report["landlock_abi"]:
        assert report["writable"] == [str(place)]
    else:
        assert any("Landlock" in line for line in report["missing"])
    assert report["namespace"] or any("namespace" in line for line in report["missing"])


def test_the_user_stays_the_same(run: Run, place: Path, user: int | None) -> None:
    (place / "before").write_text("old")
    if user is not None:
        os.chown(place / "before", user, user)
        (place / "before").chmod(0o600)
    code = LOCK + (
        "before = os.getuid(), os.getgid()\n"
        "report = lock(writable=(home,))\n"
        "assert (home / 'before').read_text() == 'old'\n"
        "(home / 'after').write_text('new')\n"
        "os.replace(home / 'after', home / 'before')\n"
        "(home / 'folder').mkdir()\n"
        "(home / 'before').rename(home / 'folder' / 'before')\n"
        "stat = (home / 'folder' / 'before').stat()\n"
        "print(json.dumps([before, [os.getuid(), os.getgid()], [stat.st_uid, stat.st_gid]]))"
    )
    before, after, owner = result(run(code))
    assert before == after == owner
    assert (place / "folder" / "before").read_text() == "new"
    assert (place / "folder" / "before").stat().st_uid == before[0]


def test_no_capability_of_a_new_namespace_stays(run: Run, user: int | None) -> None:
    if user is None:
        pytest.skip("root keeps what it had")
    code = LOCK + (
        "lock(writable=None)\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(json.dumps([line.split()[1] for line in lines if line.startswith('Cap')][:3]))"
    )
    assert {int(mask, 16) for mask in result(run(code))} == {0}


def test_files_outside_cannot_be_written(run: Run, tmp_path: Path) -> None:
    code = LOCK + (
        "import tempfile\n"
        "outside = Path(tempfile.mkdtemp())\n"
        "(outside / 'old').write_text('old')\n"
        "kept = open(outside / 'kept', 'w')\n"
        "report = lock(writable=(home,))\n"
        "found = {}\n"
        "def attempt(name, work):\n"
        "    try: work(); found[name] = 'ok'\n"
        "    except OSError as error: found[name] = type(error).__name__\n"
        "attempt('write', lambda: (outside / 'new').write_text('x'))\n"
        "attempt('change', lambda: open(outside / 'old', 'r+').close())\n"
        "attempt('truncate', lambda: os.truncate(outside / 'old', 0))\n"
        "attempt('remove', lambda: (outside / 'old').unlink())\n"
        "attempt('folder', lambda: (outside / 'f').mkdir())\n"
        "attempt('link', lambda: (outside / 'l').symlink_to('/'))\n"
        "attempt('hard link', lambda: os.link(outside / 'old', home / 'linked'))\n"
        "attempt('move', lambda: os.rename(outside / 'old', home / 'moved'))\n"
        "attempt('shared memory', lambda: open('/dev/shm/edgekit', 'w').close())\n"
        "assert (outside / 'old').read_text() == 'old'\n"
        "kept.write('opened before'); kept.close()\n"
        "open('/dev/null', 'w').write('x')\n"
        "(home / 'inside').write_text('x')\n"
        "print(json.dumps([report.landlock_abi, found]))"
    )
    abi, found = result(run(code))
    if not abi:
        pytest.skip("this kernel has no Landlock")
    if abi < 3:
        assert found.pop("truncate") == "ok"
    assert set(found.values()) <= {"PermissionError", "OSError"}, found


def test_nothing_may_be_written_with_an_empty_list(run: Run) -> None:
    code = LOCK + (
        "report = lock(writable=())\n"
        "try: (home / 'x').write_text('x'); found = 'ok'\n"
        "except PermissionError: found = 'refused'\n"
        "print(json.dumps([report.landlock_abi, list(report.writable), found]))"
    )
    abi, writable, found = result(run(code))
    assert writable == []
    assert found == ("refused" if abi else "ok")


def test_a_missing_folder_is_named(run: Run) -> None:
    code = LOCK + "lock(writable=(home / 'nowhere',))"
    done = run(code)
    assert done.returncode == 1
    assert "InputError" in done.stderr
    assert "nowhere cannot be made writable in privacy mode" in done.stderr


def test_what_a_chat_lives_on_goes_on(run: Run) -> None:
    found = result(run(HERE / "life.py"))
    assert {name: end for name, end in found.items() if end != "ok"} == {}
    assert len(found) > 15


def test_a_second_lock_and_a_child_lock_too(run: Run) -> None:
    child = (
        "import json\nfrom pathlib import Path\n"
        "from edgekit.privacy.lock import lock, wanted\n"
        "assert wanted()\n"
        "report = lock(writable=())\n"
        "print(json.dumps([report.strength, report.namespace, report.landlock_abi]))"
    )
    code = LOCK + (
        "import subprocess\n"
        "first = lock(writable=(home,))\n"
        "second = lock(writable=(home,))\n"
        f"child = subprocess.run([sys.executable, '-c', {child!r}], capture_output=True)\n"
        "assert not child.returncode, child.stderr\n"
        "print(json.dumps([[r.strength, r.namespace, r.landlock_abi]"
        " for r in (first, second)] + [json.loads(child.stdout)]))"
    )
    first, second, child_found = result(run(code))
    assert first == second == child_found


def test_the_fence_stands_without_file_rules_too(run: Run) -> None:
    code = LOCK + (
        "report = lock(writable=None)\n"
        "from edgekit.privacy import landlock\n"
        "(home / 'x').write_text('free')\n"
        "try: os.open(f'/proc/{os.getppid()}/mem', os.O_RDWR); found = 'ok'\n"
        "except PermissionError: found = 'refused'\n"
        "try: os.kill(os.getppid(), 0); signal = 'ok'\n"
        "except PermissionError: signal = 'refused'\n"
        "print(json.dumps([report.landlock_abi, landlock.version(), found, signal]))"
    )
    reported, version, memory, signal = result(run(code))
    assert reported == 0
    assert version < 4 or memory == "refused"
    assert version < 6 or signal == "refused"


def test_memory_stays_out_of_core_dumps(run: Run) -> None:
    code = LOCK + (
        "import ctypes, resource, subprocess\n"
        "lock(writable=None)\n"
        "limit = 'import resource; print(resource.getrlimit(resource.RLIMIT_CORE)[1])'\n"
        "child = subprocess.run([sys.executable, '-c', limit], capture_output=True, text=True)\n"
        "print(json.dumps([ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),"  # PR_GET_DUMPABLE
        " resource.getrlimit(resource.RLIMIT_CORE), int(child.stdout)]))"
    )
    dumpable, limits, of_the_child = result(run(code))
    assert dumpable == 0
    assert limits == [1, 1]
    assert of_the_child == 1


def test_without_proc_it_fails_closed(run: Run, user: int | None) -> None:
    if user is not None or os.geteuid() != 0:
        pytest.skip("hiding /proc takes root")
    code = LOCK + (
        "import ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "assert libc.unshare(0x00020000) == 0\n"  # CLONE_NEWNS
        "assert libc.mount(None, b'/', None, 0x44000, None) == 0\n"  # MS_REC | MS_PRIVATE
        "assert libc.mount(b'none', b'/proc', b'tmpfs', 0, None) == 0\n"
        "lock(writable=None)"
    )
    done = run(code)
    assert done.returncode == 1
    assert "PrivacyError: privacy mode does not start: /proc does not tell" in done.stderr


def test_a_mapped_ring_is_a_reason_not_to_start(run: Run) -> None:
    code = LOCK + (
        "import ctypes, mmap\n"
        "parameters = ctypes.create_string_buffer(120)\n"
        "ring = ctypes.CDLL(None).syscall(425, 4, parameters)\n"
        "if ring < 0: print('unsupported'); sys.exit()\n"
        "kept = mmap.mmap(ring, 4096)\n"
        "lock(writable=None)"
    )
    done = run(code)
    if done.stdout == "unsupported\n":
        pytest.skip("this system has no io_uring")
    assert "PrivacyError: privacy mode does not start: this process has mapped" in done.stderr


def test_a_ring_is_closed_and_named(run: Run) -> None:
    code = LOCK + (
        "import ctypes\n"
        "ring = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))\n"
        "if ring < 0: print('[]'); sys.exit()\n"
        "report = lock(writable=None)\n"
        "print(json.dumps([list(report.closed), ring, os.readlink(f'/proc/self/fd/{ring}')]))"
    )
    if found := result(run(code)):
        closed, ring, target = found
        assert closed == [f"anon_inode:[io_uring] fd {ring}"]
        assert target == "/dev/null"
