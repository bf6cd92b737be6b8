"""Where the kernel cannot do it: refused in one sentence, or a weaker lock accepted by name.

The kernels that lack something are real ones under a filter of the test's own that answers ENOSYS.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.privacy import audit

from .conftest import Run, linux_only

# Answers ENOSYS to the named calls from here on; numbers of x86_64 and aarch64.
LACKING = """
import ctypes, dataclasses, json, os, platform, struct, sys
NUMBERS = {"seccomp": (317, 277), "unshare": (272, 97), "landlock": (444, 444)}
def lack(*names):
    column = 0 if platform.machine() == "x86_64" else 1
    lines = [(0x20, 0, 0, 0)]
    for name in names:
        lines += [(0x15, 0, 1, NUMBERS[name][column]), (0x06, 0, 0, 0x00050000 | 38)]
    lines.append((0x06, 0, 0, 0x7FFF0000))
    code = b"".join(struct.pack("<HBBI", *line) for line in lines)
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(len(lines), code)), 0, 0) == 0
from edgekit.errors import EdgekitError
from edgekit.privacy.lock import current, lock
def attempt(weaker=None):
    try:
        print(json.dumps(dataclasses.asdict(lock(writable=None, weaker=weaker))))
    except EdgekitError as error:
        assert current() is None
        print(json.dumps([type(error).__name__, error.exit_code, error.message, error.hint]))
"""
pytestmark = linux_only


def outcome(run: Run, code: str, **options: Any) -> Any:
    done = run(LACKING + code, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_without_seccomp_it_refuses_and_names_the_weaker_lock(run: Run) -> None:
    name, code, message, hint = outcome(run, "lack('seccomp')\nattempt()")
    assert (name, code) == ("PrivacyError", 6)
    assert message == (
        "privacy mode does not start: this system cannot filter system calls: "
        "the kernel refuses seccomp (Function not implemented)"
    )
    assert "--weaker-lock" in hint


def test_the_python_lock_is_taken_only_by_name(run: Run) -> None:
    message = outcome(run, "lack('seccomp', 'unshare')\nattempt()")[2]
    assert "cannot filter system calls" in message
    message = outcome(run, "lack('seccomp', 'unshare')\nattempt('namespace')")[2]
    assert "nor put edgekit into a network namespace" in message
    code = (
        "lack('seccomp', 'unshare')\nattempt('python')\n"
        "print(json.dumps([os.environ['EDGEKIT_WEAKER_LOCK'], os.environ['ORT_DISABLE_TELEMETRY'],"
        " current().strength, current().seccomp, current().namespace, current().missing]))"
    )
    accepted, quiet, strength, seccomp, namespace, missing = outcome(run, code)
    assert (accepted, quiet) == ("python", "1")
    assert (strength, seccomp, namespace) == ("python", False, False)
    assert [line.split(":")[0] for line in missing] == [
        "no network namespace", "no system call filter",
    ]  # fmt: skip


@pytest.mark.parametrize("accepted", ["namespace", "python"])
def test_the_strongest_lock_that_there_is_is_taken(run: Run, accepted: str) -> None:
    report = outcome(run, f"attempt({accepted!r})")
    assert report["strength"] == "kernel"
    report = outcome(run, f"lack('seccomp')\nattempt({accepted!r})")
    if not report["namespace"]:
        pytest.skip("this system allows no network namespace")
    assert (report["strength"], report["seccomp"]) == ("namespace", False)


def test_the_namespace_lock_reaches_nobody(run: Run) -> None:
    code = (
        "lack('seccomp')\nattempt('namespace')\n"
        "if current() is None: print('null'); sys.exit()\n"
        # A system call of its own: the audit hook does not see it.
        "handle = libc.socket(2, 2, 0)\n"
        "address = bytes([2, 0, 0, 53, 127, 0, 0, 1]) + bytes(8)\n"
        "result = libc.sendto(handle, b'x', 1, 0, address, 16)\n"
        "print(json.dumps([handle >= 0, result, ctypes.get_errno()]))"
    )
    code = "libc = ctypes.CDLL(None, use_errno=True)\n" + code
    found = outcome(run, code)
    if found is None:
        pytest.skip("this system allows no network namespace")
    assert found == [True, -1, 101]  # ENETUNREACH


def test_the_python_lock_refuses_sockets_and_lets_the_loop_live(run: Run) -> None:
    code = (
        "lack('seccomp', 'unshare')\nattempt('python')\n"
        "import asyncio, socket, subprocess\n"
        "found = {}\n"
        "def attempt(name, work):\n"
        "    try: work(); found[name] = 'ok'\n"
        "    except PermissionError as error: found[name] = error.errno\n"
        "attempt('tcp', lambda: socket.socket())\n"
        "attempt('udp', lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))\n"
        "attempt('name', lambda: socket.getaddrinfo('localhost', 80))\n"
        "attempt('host', lambda: socket.gethostbyname('localhost'))\n"
        "attempt('unix', lambda: socket.socket(socket.AF_UNIX).connect('/nowhere'))\n"
        "attempt('connection', lambda: socket.create_connection(('127.0.0.1', 1)))\n"
        "async def work():\n"
        "    process = await asyncio.create_subprocess_exec('true')\n"
        "    return await process.wait()\n"
        "attempt('loop', lambda: asyncio.run(work()))\n"
        "print(json.dumps(found))"
    )
    found = outcome(run, code)
    assert found.pop("loop") == "ok"
    assert found == dict.fromkeys(("tcp", "udp", "name", "host", "unix", "connection"), 13)


def test_the_accepted_name_travels_to_a_child(run: Run) -> None:
    child = "from edgekit.privacy.lock import lock\nprint(lock(writable=()).strength)"
    code = (
        "lack('seccomp', 'unshare')\nattempt('python')\n"
        "import subprocess\n"
        f"words = [sys.executable, '-c', {child!r}]\n"
        "done = subprocess.run(words, capture_output=True, text=True)\n"
        "print(json.dumps([done.stdout, done.stderr]))"
    )
    assert outcome(run, code) == ["python\n", ""]


def test_without_landlock_it_is_said(run: Run) -> None:
    report = outcome(run, "lack('landlock')\nattempt()")
    assert (report["strength"], report["landlock_abi"]) == ("kernel", 0)
    assert any("no Landlock" in line for line in report["missing"])


def test_with_threads_there_is_no_namespace_and_it_is_said(run: Run) -> None:
    code = (
        "import threading, time\n"
        "go = threading.Event()\n"
        "threading.Thread(target=go.wait, daemon=True).start()\n"
        "attempt()\n"
    )
    report = outcome(run, code)
    assert report["strength"] == "kernel"
    if not report["namespace"]:
        assert any("2 threads run already" in line for line in report["missing"])
    if not any("Landlock" in line for line in report["missing"]):
        assert any("no file rules for 1 threads" in line for line in report["missing"])


@pytest.mark.parametrize("machine", ["riscv64", "i686", "armv7l"])
def test_another_processor_is_named(run: Run, machine: str) -> None:
    """The name is all that such a machine shows to the lock before it refuses."""
    code = (
        f"real = os.uname()\nos.uname = lambda: os.uname_result([*real[:4], {machine!r}])\n"
        "attempt()"
    )
    name, code_number, message, _ = outcome(run, code)
    assert (name, code_number) == ("PrivacyError", 6)
    assert f"edgekit has none for {machine} processors" in message


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_another_system_is_named(run: Run, platform: str) -> None:
    code = f"sys.platform = {platform!r}\nattempt()"
    name, code_number, message, hint = outcome(run, code)
    assert (name, code_number) == ("PrivacyError", 6)
    assert message.endswith(f"it needs Linux, and this is {platform}")
    assert "--weaker-lock python" in hint
    report = outcome(run, f"sys.platform = {platform!r}\nattempt('python')")
    assert report["strength"] == "python"


def test_a_value_that_names_no_lock_is_a_mistake(run: Run) -> None:
    name, code, message, _ = outcome(run, "attempt()", environment={"EDGEKIT_WEAKER_LOCK": "none"})
    assert (name, code) == ("UsageError", 2)
    assert "'none', which names no lock" in message


@pytest.mark.parametrize(
    ("event", "arguments", "unix", "windows"),
    [
        ("open", ("/etc/passwd",), False, False),
        ("socket.__new__", (None, 1, 1, 0), False, False),
        ("socket.__new__", (None, 2, 1, 0), True, False),
        ("socket.connect", (None, ("127.0.0.1", 80)), True, False),
        ("socket.bind", (None, ("127.0.0.1", 0)), True, False),
        ("socket.connect", (None, ("192.0.2.1", 80)), True, True),
        ("socket.bind", (None, ("0.0.0.0", 80)), True, True),
        ("socket.sendto", (None, ("127.0.0.1", 53)), True, True),
        ("socket.getaddrinfo", ("localhost", 80), True, True),
        ("socket.gethostname", (), False, False),
    ],
)
def test_what_the_audit_hook_refuses(
    event: str, arguments: tuple[Any, ...], unix: bool, windows: bool
) -> None:
    assert audit.refuses(event, arguments, needs_loopback=False) is unix
    assert audit.refuses(event, arguments, needs_loopback=True) is windows
