"""After the lock, before it is believed: what must fail is tried, in an old and in a new thread.

Linux only. Asks the kernel, by system call and by /proc, never the code that made the lock.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import time

from edgekit.errors import PrivacyError
from edgekit.privacy import kernel
from edgekit.privacy.architecture import X32_BIT, Architecture

_SOCK_STREAM, _SOCK_DGRAM = 1, 2
_FAMILIES = {
    "AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17,
    "AF_BLUETOOTH": 31, "AF_VSOCK": 40,
}  # fmt: skip
_MUST_SHOW = ("Seccomp:\t2", "NoNewPrivs:\t1")
_PATIENCE_S = 5.0


def filter_holds(architecture: Architecture) -> None:
    """Try sockets and io_uring in this thread and a new one. Raises PrivacyError on a surprise."""
    faults = [*_attempts(architecture), *_in_a_new_thread(architecture)]
    if faults:
        raise _surprise(faults[0])


def namespace_holds() -> None:
    """Try to address a host by UDP, which sends nothing. Raises PrivacyError if it has a route."""
    handle = kernel.LIBC.socket(_FAMILIES["AF_INET"], _SOCK_DGRAM, 0)
    if handle < 0:
        return
    # 192.0.2.1, port 9: an address that belongs to nobody (RFC 5737).
    address = (ctypes.c_ubyte * 16)(2, 0, 0, 9, 192, 0, 2, 1)
    reached = kernel.LIBC.connect(handle, address, 16) == 0
    kernel.LIBC.close(handle)
    if reached:
        raise _surprise("192.0.2.1 has a route in the new network namespace")


def python_holds() -> None:
    """Try Python's own sockets. Raises PrivacyError if one opens."""
    import socket

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attempt:
            attempt.connect(("192.0.2.1", 9))
    except OSError:
        return
    raise _surprise("Python opened a socket")


def _attempts(architecture: Architecture) -> list[str]:
    """Return what was not refused with the filter's own errno."""
    numbers = architecture.numbers
    calls = {f"socket({name})": (numbers["socket"], n, 1, 0) for name, n in _FAMILIES.items()}
    calls["connect"] = (numbers["connect"], -1, 0, 0)
    calls["io_uring_setup"] = (numbers["io_uring_setup"], 1, 0, 0)
    if architecture.has_x32:
        calls["socket(AF_INET) by its x32 number"] = (X32_BIT | numbers["socket"], 2, 1, 0)
    faults = []
    for name, (number, *arguments) in calls.items():
        if (found := _errno_of(number, *arguments)) != errno.EACCES:
            how = "was not refused" if found == 0 else f"ended with {_name(found)}, not EACCES"
            faults.append(f"{name} {how}")
    return faults + _unlocked_threads()


def _errno_of(number: int, *arguments: int) -> int:
    try:
        kernel.call(number, *arguments)
    except OSError as error:
        return error.errno or -1
    return 0


def _name(number: int) -> str:
    return errno.errorcode.get(number, f"errno {number}")


def _unlocked_threads() -> list[str]:
    """Return the threads whose status does not show the filter."""
    faults = []
    for thread in kernel.threads():
        try:
            status = kernel.text_of(f"/proc/self/task/{thread}/status").splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        faults += [
            f"thread {thread} does not show '{line}'" for line in _MUST_SHOW if line not in status
        ]
    return faults


def _in_a_new_thread(architecture: Architecture) -> list[str]:
    """Make the attempts in a thread. `_thread`, because importing threading costs 1 ms."""
    faults = ["the self-test's thread did not end"]
    thread = [""]
    done = _thread.allocate_lock()
    done.acquire()

    def work() -> None:
        try:
            thread[0] = str(_thread.get_native_id())
            faults[:] = _attempts(architecture)
        except OSError as error:
            faults[:] = [f"the self-test failed: {error}"]
        finally:
            done.release()

    _thread.start_new_thread(work, ())
    if done.acquire(timeout=_PATIENCE_S):
        while thread[0] in kernel.threads():  # whoever counts threads next must not find it
            time.sleep(0)
    return faults


def _surprise(what: str) -> PrivacyError:
    return PrivacyError(
        f"privacy mode does not start: its self-test found that {what}",
        hint="please report this, with the name of your system",
    )
