"""The ways out of a process: each channel is a small function that really tries to get out.

Runs inside the process under test, standard library only. Knows nothing of locks: the same
attempts are made by a process without one, where they must succeed. An attempt that fails raises
an error that says which call failed and how; one that gets through returns.
"""

from __future__ import annotations

import asyncio
import errno
import platform
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from edgekit.workflows.privacy import system_calls
from edgekit.workflows.privacy.earlier import Earlier

TIMEOUT_S = 2.0
MULTIPATH_TCP = 262  # IPPROTO_MPTCP
BLUETOOTH, SMC, ALGORITHMS = 31, 43, 38  # address families that Python may lack a name for
ROUTE_GET_LINKS = struct.pack("=LHHLLB3x", 20, 18, 0x301, 1, 0, 0)  # RTM_GETLINK, rtnetlink(7)


class Refused(Exception):  # noqa: N818 - what the proof hopes for, not an error
    """The attempt failed; the text is the evidence, such as "EACCES from socket(AF_INET)"."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What an attempt works with: where the listeners are, and what was opened before the lock.

    `control` means a process without a lock.
    """

    targets: dict[str, Any]
    nonce: str
    earlier: Earlier | None = None
    control: bool = False

    def old(self, name: str) -> int:
        """Return a descriptor from before the lock. Raises OSError if there is none."""
        if self.earlier is None:
            raise OSError(errno.EBADF, "nothing was opened earlier")
        return self.earlier.handle(name)


def mark(nonce: str) -> bytes:
    """Return what every token of the process with this nonce begins with."""
    return f"edgekit-{nonce}-".encode()


def token(nonce: str, name: str) -> bytes:
    """Return the bytes that only this attempt of this process sends; legal in a DNS name."""
    return mark(nonce) + name.replace("_", "-").encode() + b"-x"


@dataclass(frozen=True, slots=True)
class Channel:
    """One way out. `listeners` would hear of it; none where no listener is possible."""

    name: str
    attempt: Callable[[Scene, bytes], None]
    listeners: tuple[str, ...] = ()


@contextmanager
def call(what: str) -> Iterator[None]:
    """Turn a system call's error into evidence."""
    try:
        yield
    except TimeoutError as error:
        raise Refused(f"no answer to {what}") from error
    except OSError as error:
        raise Refused(f"{error_name(error)} from {what}") from error


def error_name(error: OSError) -> str:
    """Return the name of an errno such as "EACCES", or of the exception."""
    if isinstance(error, socket.gaierror):
        names = {v: k for k, v in vars(socket).items() if k.startswith("EAI_")}
        return names.get(error.errno or 0, str(error))
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _connect(
    family: int,
    address: Any,
    data: bytes,
    label: str,
    protocol: int = 0,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """Open a stream to `address` and send `data`."""
    with call(f"socket({label})"):
        stream = socket.socket(family, socket.SOCK_STREAM, protocol)
    with stream:
        stream.settimeout(timeout_s)
        with call("connect"):
            stream.connect(address)
        with call("send"):
            stream.sendall(data)


def _send(family: int, address: Any, data: bytes, label: str) -> None:
    """Send `data` to `address` as one datagram."""
    with call(f"socket({label})"):
        datagram = socket.socket(family, socket.SOCK_DGRAM)
    with datagram:
        datagram.settimeout(TIMEOUT_S)
        with call("sendto"):
            datagram.sendto(data, address)


def tcp4(scene: Scene, data: bytes) -> None:
    """TCP over IPv4."""
    _connect(socket.AF_INET, tuple(scene.targets["tcp4"]), data, "AF_INET")


def tcp6(scene: Scene, data: bytes) -> None:
    """TCP over IPv6."""
    _connect(socket.AF_INET6, tuple(scene.targets["tcp6"]), data, "AF_INET6")


def udp4(scene: Scene, data: bytes) -> None:
    """UDP over IPv4."""
    _send(socket.AF_INET, tuple(scene.targets["udp4"]), data, "AF_INET")


def udp6(scene: Scene, data: bytes) -> None:
    """UDP over IPv6."""
    _send(socket.AF_INET6, tuple(scene.targets["udp6"]), data, "AF_INET6")


def dns_lookup(scene: Scene, data: bytes) -> None:
    """The C library's resolver, turned to a name server of ours where it lets itself be turned.

    The name ends in .invalid, which no resolver passes on (RFC 6761).
    """
    ours = system_calls.use_name_server(*scene.targets["dns"])
    if scene.control and not ours:  # without a lock it would go to the user's own name server
        raise Refused("not tried: this C library's resolver cannot be turned to a server of ours")
    with call("getaddrinfo"):
        socket.getaddrinfo(f"{data.decode()}.invalid.", 80, socket.AF_INET, socket.SOCK_STREAM)


def dns_packet(scene: Scene, data: bytes) -> None:
    """A DNS question made by hand."""
    header = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0)
    question = bytes([len(data)]) + data + b"\7invalid\0\0\1\0\1"
    _send(socket.AF_INET, tuple(scene.targets["dns"]), header + question, "AF_INET")


def fastopen(scene: Scene, data: bytes) -> None:
    """TCP data in the first packet, with no connect call at all."""
    with call("socket(AF_INET)"):
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with stream:
        # not settimeout: a socket that does not block would not wait for the connection
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 2, 0))
        with call("sendto(MSG_FASTOPEN)"):
            stream.sendto(data, socket.MSG_FASTOPEN, tuple(scene.targets["tcp4"]))


def multipath(scene: Scene, data: bytes) -> None:
    """Multipath TCP."""
    address = tuple(scene.targets["tcp4"])
    _connect(socket.AF_INET, address, data, "IPPROTO_MPTCP", MULTIPATH_TCP)


def smc(scene: Scene, data: bytes) -> None:
    """AF_SMC, which falls back to TCP."""
    _connect(SMC, tuple(scene.targets["tcp4"]), data, "AF_SMC")


def icmp(_scene: Scene, data: bytes) -> None:
    """An echo request: through a raw socket, or a ping socket where raw ones are for root."""
    kinds = (socket.SOCK_RAW, socket.SOCK_DGRAM)
    packet = struct.pack(">BBHHH", 8, 0, 0, 1, 1) + data
    for kind in kinds:
        try:
            with call(f"socket(AF_INET, {kind.name}, ICMP)"):
                ping = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
            break
        except Refused:
            if kind is kinds[-1]:
                raise
    with ping, call("sendto"):
        ping.sendto(packet, ("127.0.0.1", 0))


def packet(_scene: Scene, _data: bytes) -> None:
    """A socket on the wire itself."""
    with call("socket(AF_PACKET)"):
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()


def netlink(_scene: Scene, _data: bytes) -> None:
    """A question to the kernel's network configuration."""
    with call("socket(AF_NETLINK)"):
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    with link, call("send"):
        link.settimeout(TIMEOUT_S)
        link.bind((0, 0))
        link.send(ROUTE_GET_LINKS)
        link.recv(16)


def vsock(scene: Scene, data: bytes) -> None:
    """The channel from a virtual machine to its host."""
    # a kernel without vsock's loopback never answers
    _connect(socket.AF_VSOCK, tuple(scene.targets["vsock"]), data, "AF_VSOCK", timeout_s=0.3)


def bluetooth(_scene: Scene, _data: bytes) -> None:
    """A Bluetooth socket."""
    with call("socket(AF_BLUETOOTH)"):
        socket.socket(BLUETOOTH, socket.SOCK_RAW, 1).close()


def kernel_crypto(_scene: Scene, _data: bytes) -> None:
    """AF_ALG: not a way out, but a way into rarely used kernel code."""
    with call("socket(AF_ALG)"):
        algorithm = socket.socket(ALGORITHMS, socket.SOCK_SEQPACKET)
    with algorithm, call("bind"):
        algorithm.bind(("hash", "sha256"))


def unix_path(scene: Scene, data: bytes) -> None:
    """Another program's socket in the file system, a stream."""
    _connect(socket.AF_UNIX, scene.targets["unix_path"], data, "AF_UNIX")


def unix_datagram(scene: Scene, data: bytes) -> None:
    """Another program's socket in the file system, a datagram: no connect is needed."""
    _send(socket.AF_UNIX, scene.targets["unix_datagram"], data, "AF_UNIX")


def unix_abstract(scene: Scene, data: bytes) -> None:
    """Another program's socket with no file."""
    _connect(socket.AF_UNIX, scene.targets["unix_abstract"], data, "AF_UNIX")


def io_uring(_scene: Scene, _data: bytes) -> None:
    """A ring through which the kernel would make network calls that no filter sees."""
    with call("io_uring_setup"):
        system_calls.make_io_uring()


def direct_call(scene: Scene, data: bytes) -> None:
    """System calls by number, around every library."""
    with call("syscall(socket)"):
        handle = system_calls.open_datagram_socket()
    with call("sendto"):
        system_calls.send_and_close(handle, data, *scene.targets["udp4"])


def asyncio_stream(scene: Scene, data: bytes) -> None:
    """asyncio.open_connection."""

    async def connect() -> None:
        opening = asyncio.open_connection(*scene.targets["tcp4"])
        _, writer = await asyncio.wait_for(opening, TIMEOUT_S)
        writer.write(data)
        await writer.drain()
        writer.close()

    with call("asyncio.open_connection"):
        asyncio.run(connect())


def urllib_request(scene: Scene, data: bytes) -> None:
    """urllib.request, with no proxy."""
    host, port = scene.targets["tcp4"]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with call("urllib.request"):
        try:
            opener.open(f"http://{host}:{port}/{data.decode()}", timeout=TIMEOUT_S).close()
        except urllib.error.URLError as error:
            raise error.reason if isinstance(error.reason, OSError) else error from error


def earlier_tcp(scene: Scene, data: bytes) -> None:
    """A TCP connection that was open before the lock."""
    with call("send on the old descriptor"):
        system_calls.send(scene.old("tcp"), data)


def earlier_udp(scene: Scene, data: bytes) -> None:
    """A UDP socket that was connected before the lock."""
    with call("send on the old descriptor"):
        system_calls.send(scene.old("udp"), data)


def reconnect(scene: Scene, data: bytes) -> None:
    """A listening socket from before the lock, dissolved by AF_UNSPEC and connected elsewhere."""
    with call("listen before the lock"):
        handle = scene.old("listener")
    with call("connect(AF_UNSPEC) on the old descriptor"):
        system_calls.dissolve(handle)
    with call("connect on the old descriptor"):
        system_calls.connect(handle, *scene.targets["tcp4"])
    with call("send on the old descriptor"):
        system_calls.send(handle, data)


def both(scene: Scene, data: bytes) -> None:
    """TCP and UDP over IPv4; it gets through if either does."""
    evidence = []
    for attempt in (tcp4, udp4):
        try:
            attempt(scene, data)
        except Refused as refused:
            evidence.append(str(refused))
    if len(evidence) == 2:
        raise Refused(evidence[0] if evidence[0] == evidence[1] else ", ".join(evidence))


def x32(scene: Scene, data: bytes) -> None:
    """x86-64's other numbers for the same calls."""
    with call("an x32 call"):
        system_calls.send_by_x32(data, *scene.targets["udp4"])


def i386(scene: Scene, data: bytes) -> None:
    """The calls of a 32-bit program, made by a 64-bit one."""
    with call("an i386 call"):
        system_calls.send_by_i386(data, *scene.targets["udp4"])


def on_x86_64() -> bool:
    """Return whether this machine has x86-64's other binary interfaces."""
    return platform.machine() in ("x86_64", "AMD64") and struct.calcsize("P") == 8
