"""Hostile code inside a process: it tries every way out and prints what became of each.

Arguments: what locks it ("nothing", "filter", "lock"), then the TCP and the UDP port of listeners
on 127.0.0.1 that must hear nothing. Run by test_attack.py, in a process of its own. Every attempt
ends as "ok", as the name of an errno, or as "unsupported" where this kernel never had the way.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import pty
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

LOCK, TCP_PORT, UDP_PORT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
# Written out here, not taken from edgekit: x86_64, aarch64.
NUMBERS = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "sendto": (44, 206),
    "bind": (49, 200), "listen": (50, 201), "ptrace": (101, 117), "accept4": (288, 242),
    "perf_event_open": (298, 241), "sendmmsg": (307, 269), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "bpf": (321, 280), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "add_key": (248, 217),
    "request_key": (249, 218), "mount": (165, 40), "fsopen": (430, 430),
    "socketpair": (53, 199),
}  # fmt: skip
ADDRESS = ("127.0.0.1", TCP_PORT)
MSG_FASTOPEN, TIOCSTI, TIOCLINUX = 0x20000000, 0x5412, 0x541C


def outcome(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


def call(name: str, *arguments: int, offset: int = 0) -> int:
    number = NUMBERS[name][0 if X86 else 1] + offset
    result: int = LIBC.syscall(*(ctypes.c_long(n) for n in (number, *arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


RAW_ADDRESS = ctypes.create_string_buffer(
    struct.pack("=H", 2) + struct.pack(">H", TCP_PORT) + bytes([127, 0, 0, 1]) + bytes(8)
)


def tcp() -> None:
    with socket.socket() as s:
        s.connect(ADDRESS)
        s.sendall(b"tcp")


def udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"udp", ("127.0.0.1", UDP_PORT))


def fast_open() -> None:
    with socket.socket() as s:
        s.sendto(b"fast", MSG_FASTOPEN, ADDRESS)


def own_calls() -> None:
    """The same as tcp(), by number."""
    handle = call("socket", 2, 1, 0)
    call("connect", handle, ctypes.addressof(RAW_ADDRESS), 16)
    os.write(handle, b"own")


def datagram_pair() -> None:
    """A datagram socket of a pair can address any other on this machine, such as the log's."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.close()
    right.close()


def child() -> None:
    """A fresh interpreter, started after the lock."""
    program = "import socket, sys\ntry: socket.socket()\nexcept OSError as e: sys.exit(e.errno)"
    code = subprocess.run([sys.executable, "-I", "-c", program], check=False).returncode
    if code:
        raise OSError(code, "child")


def memory_of_the_parent() -> None:
    os.close(os.open(f"/proc/{os.getppid()}/mem", os.O_RDWR))


def interrupt_0x80(number: int, first: int, second: int) -> None:
    """Make an i386 system call from 64-bit code: the old door beside the new one."""
    code = bytes.fromhex("53 89f8 89f3 89d1 cd80 5b c3")  # eax, ebx, ecx from the arguments
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    entry = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(entry)
    in_a_child = os.fork()  # a kernel without 32-bit support answers with SIGSEGV
    if in_a_child == 0:
        os._exit(-min(0, function(number, first, second)))
    status = os.waitpid(in_a_child, 0)[1]
    if os.WIFSIGNALED(status):
        raise OSError(errno.ENOSYS, "no i386")
    if os.WEXITSTATUS(status):
        raise OSError(os.WEXITSTATUS(status), "i386")


def socketcall() -> None:
    """socket(AF_INET, SOCK_STREAM, 0) through i386's one call for all that sockets can do."""
    MAP_32BIT = 0x40  # noqa: N806
    below_4_gb = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT)
    below_4_gb.write(struct.pack("<3I", 2, 1, 0))
    address = ctypes.addressof(ctypes.c_char.from_buffer(below_4_gb))
    interrupt_0x80(102, 1, address)


def ring() -> None:
    parameters = ctypes.create_string_buffer(120)
    os.close(call("io_uring_setup", 4, ctypes.addressof(parameters)))


def named_key(name: str) -> None:
    """A dns_resolver key makes the kernel look a name up."""
    texts = [ctypes.create_string_buffer(t) for t in (b"dns_resolver", b"secret.invalid", b"")]
    call(name, *(ctypes.addressof(t) for t in texts), *([0, -2] if name == "add_key" else [-2]))


def thread(attempt: Callable[[], Any]) -> str:
    found: list[str] = []
    runner = threading.Thread(target=lambda: found.append(outcome(attempt)))
    runner.start()
    runner.join()
    return found[0]


def with_stdin_socket(results: dict[str, str]) -> None:
    """Descriptor 0 may be a socket that nobody closes: it must not become another one."""
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        return
    s = socket.socket(fileno=os.dup(0))
    s.setblocking(False)
    is_udp = s.type == socket.SOCK_DGRAM
    target = ("127.0.0.1", UDP_PORT) if is_udp else ADDRESS
    results["stdin connect"] = outcome(lambda: s.connect(target))
    results["stdin sendto"] = outcome(lambda: s.sendto(b"stdin", target))
    results["stdin sendto MSG_FASTOPEN"] = outcome(lambda: s.sendto(b"x", MSG_FASTOPEN, target))
    results["stdin sendmsg"] = outcome(lambda: s.sendmsg([b"stdin"], [], 0, target))
    results["stdin connect AF_UNSPEC"] = outcome(
        lambda: LIBC.connect(0, bytes(16), 16) and raise_errno()
    )
    header = ctypes.create_string_buffer(64)
    results["stdin sendmmsg"] = outcome(lambda: call("sendmmsg", 0, ctypes.addressof(header), 1, 0))
    results["stdin bind"] = outcome(lambda: s.bind(("127.0.0.1", 0)))
    results["stdin listen"] = outcome(lambda: s.listen())
    results["stdin accept"] = outcome(lambda: call("accept", 0, 0, 0))
    results["stdin accept4"] = outcome(lambda: call("accept4", 0, 0, 0, 0))


def raise_errno() -> None:
    raise OSError(ctypes.get_errno(), "libc")


def early() -> dict[str, Any]:
    """Open what an attacker would like to have after the lock."""
    connected = socket.socket()
    connected.connect(ADDRESS)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    left, right = socket.socketpair()
    return {"tcp": connected, "udp": datagrams, "left": left, "right": right, "pty": pty.openpty()}


def use_early(kept: dict[str, Any], results: dict[str, str]) -> None:
    results["an earlier tcp"] = outcome(lambda: kept["tcp"].sendall(b"earlier"))
    results["an earlier udp"] = outcome(
        lambda: kept["udp"].sendto(b"earlier", ("127.0.0.1", UDP_PORT))
    )
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))]
    results["pass a descriptor"] = outcome(lambda: kept["left"].sendmsg([b"x"], passed))
    results["receive a descriptor"] = outcome(
        lambda: kept["right"].recvmsg(1, 64, socket.MSG_DONTWAIT)
    )
    terminal = kept["pty"][1]
    results["TIOCSTI"] = outcome(lambda: fcntl.ioctl(terminal, TIOCSTI, b"x"))
    results["TIOCLINUX"] = outcome(lambda: fcntl.ioctl(terminal, TIOCLINUX, b"\3"))
    # The kernel reads 32 bits of a request: the upper ones must not hide it.
    high = ctypes.c_long(1 << 32 | TIOCSTI)
    number = ctypes.c_long(16 if X86 else 29)
    results["TIOCSTI with high bits"] = outcome(
        lambda: LIBC.syscall(number, terminal, high, b"x") < 0 and raise_errno()
    )


def attempts() -> dict[str, Callable[[], Any]]:
    families = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16, "packet": 17, "bluetooth": 31,
                "alg": 38, "vsock": 40}  # fmt: skip
    tries: dict[str, Callable[[], Any]] = {
        f"socket {name}": (lambda n=number: os.close(call("socket", n, 2, 0)))
        for name, number in families.items()
    }
    parent = os.getppid()
    tries |= {
        "tcp": tcp, "udp": udp, "fast open": fast_open, "own system calls": own_calls,
        "child": child, "memory of the parent": memory_of_the_parent, "io_uring": ring,
        "datagram pair": datagram_pair,
        "inet pair": lambda: call("socketpair", 2, 1, 0, 0),
        "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
        "io_uring_enter": lambda: call("io_uring_enter", -1, 0, 0, 0, 0, 0),
        "io_uring_register": lambda: call("io_uring_register", -1, 0, 0, 0),
        "ptrace": lambda: call("ptrace", 1, parent, 0, 0),
        "process_vm_readv": lambda: call("process_vm_readv", parent, 0, 0, 0, 0, 0),
        "process_vm_writev": lambda: call("process_vm_writev", parent, 0, 0, 0, 0, 0),
        "pidfd_getfd": lambda: call("pidfd_getfd", call("pidfd_open", parent, 0), 0, 0),
        "bpf": lambda: call("bpf", 0, 0, 0),
        "perf_event_open": lambda: call("perf_event_open", 0, 0, -1, -1, 0),
        "userfaultfd": lambda: os.close(call("userfaultfd", 1)),
        "add_key": lambda: named_key("add_key"),
        "request_key": lambda: named_key("request_key"),
        "mount": lambda: call("mount", 0, 0, 0, 0, 0),
        "fsopen": lambda: call("fsopen", 0, 0),
    }  # fmt: skip
    if X86:
        tries["x32 socket"] = lambda: call("socket", 2, 1, 0, offset=0x40000000)
        tries["i386 socketcall"] = socketcall
        tries["i386 socket"] = lambda: interrupt_0x80(359, 2, 1)
        tries["i386 getpid"] = lambda: interrupt_0x80(20, 0, 0) or None
    return tries


def main() -> None:
    kept = early()
    go, results = threading.Event(), dict[str, str]()

    def older_thread() -> None:
        go.wait()
        for name, attempt in (("tcp", tcp), ("udp", udp), ("own system calls", own_calls)):
            results[f"older thread: {name}"] = outcome(attempt)

    older = threading.Thread(target=older_thread)
    report: Any = None
    if LOCK == "lock":
        from edgekit.privacy.lock import lock

        report = lock(writable=())
    older.start() if LOCK != "filter" else start_and_filter(older)
    go.set()
    older.join()
    for name, attempt in attempts().items():
        results[name] = outcome(attempt)
    for name in ("tcp", "udp", "own system calls"):
        results[f"newer thread: {name}"] = thread(attempts()[name])
    use_early(kept, results)
    with_stdin_socket(results)
    facts = {"closed": report.closed, "left_open": report.left_open} if report else {}
    print(json.dumps({"results": results, **facts}))


def start_and_filter(older: threading.Thread) -> None:
    """The filter alone, over a thread that runs: what the other layers do not help with."""
    from edgekit.privacy import architecture, seccomp

    older.start()
    machine = architecture.of_this_process()
    assert machine is not None
    seccomp.install(machine)


main()
