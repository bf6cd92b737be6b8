"""Listeners on this machine's loopback that note whatever reaches them: the far side of the proof.

Knows nothing of locks. Each process under test gets a set of its own, and each attempt sends a
token of its own, so that what is heard is known to be whose.
"""

from __future__ import annotations

import selectors
import socket
import struct
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

ROUND_S = 0.03
RECEIVE_BYTES = 1 << 16
ANY_CONTEXT_ID = 0xFFFFFFFF  # VMADDR_CID_ANY of vsock(7)
LOCAL_CONTEXT_ID = 1  # VMADDR_CID_LOCAL
# Where a listener cannot be had, the attempt goes to an address that nobody serves.
NOWHERE: dict[str, Any] = {
    "tcp4": ["127.0.0.1", 9],
    "tcp6": ["::1", 9],
    "udp4": ["127.0.0.1", 9],
    "udp6": ["::1", 9],
    "dns": ["127.0.0.1", 9],
    "vsock": [LOCAL_CONTEXT_ID, 9],
    "unix_path": "/nonexistent/edgekit",
    "unix_datagram": "/nonexistent/edgekit",
    "unix_abstract": "\0edgekit-nobody",
}


class Listeners:
    """A set of listening sockets with one thread that reads them; use it in a `with` statement.

    `targets` are the addresses to try, as JSON values, by listener; `available` names the
    listeners that this machine could open.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._selector = self._stack.enter_context(selectors.DefaultSelector())
        # held until the end: a later connection must not get the id() of an earlier one
        self._sockets: list[socket.socket] = []
        self._received: dict[int, bytearray] = {}  # by connection or datagram, in order of arrival
        self._lock = threading.Lock()
        self._idle_rounds = 0
        self._closing = False
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-")))
        self.targets = dict(NOWHERE)
        self.available: set[str] = set()
        for name, family, kind, address in _wanted(folder):
            self._open(name, family, kind, address)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        self._thread.join()
        for each in self._sockets:
            each.close()
        self._stack.close()

    def heard(self, token: bytes) -> int:
        """Return how many connections and datagrams brought `token`."""
        with self._lock:
            return sum(token in data for data in self._received.values())

    def strangers(self, mark: bytes) -> int:
        """Return how many connections and datagrams came without `mark`, so from nobody knows."""
        with self._lock:
            return sum(mark not in data for data in self._received.values())

    def settle(self) -> None:
        """Return when everything that was sent before the call has been read."""
        with self._lock:
            self._idle_rounds = 0
        while self._idle_rounds < 2:
            time.sleep(ROUND_S / 2)

    def _open(self, name: str, family: int, kind: int, address: Any) -> None:
        """Listen at `address`, if this machine can."""
        try:
            listener = socket.socket(family, kind)
        except OSError:
            return
        try:
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen(64)
            listener.setblocking(False)
        except OSError:
            listener.close()
            return
        self._watch(listener, name)
        self.available.add(name)
        self.targets[name] = _address(listener, address)

    def _watch(self, source: socket.socket, name: str) -> None:
        self._sockets.append(source)
        self._selector.register(source, selectors.EVENT_READ, name)

    def _listen(self) -> None:
        while not self._closing:
            ready = self._selector.select(ROUND_S)
            for key, _ in ready:
                with suppress(OSError):
                    self._take(key.fileobj, key.data)  # type: ignore[arg-type]
            with self._lock:
                self._idle_rounds = 0 if ready else self._idle_rounds + 1

    def _take(self, source: socket.socket, name: str) -> None:
        """Read from one socket that has something: a new connection, a datagram, or bytes."""
        if name == "connection":
            self._read(source)
        elif source.type == socket.SOCK_STREAM:
            connection, _ = source.accept()
            connection.setblocking(False)
            self._watch(connection, "connection")
            self._note(id(connection), b"")
        else:
            data, sender = source.recvfrom(RECEIVE_BYTES)
            self._note(uuid4().int, data)
            if name == "dns" and (reply := dns_reply(data)):
                source.sendto(reply, sender)

    def _read(self, connection: socket.socket) -> None:
        data = connection.recv(RECEIVE_BYTES)
        self._note(id(connection), data)
        if data.startswith(b"GET "):
            connection.sendall(b"HTTP/1.0 204 No Content\r\n\r\n")
        if not data or data.startswith(b"GET "):
            self._selector.unregister(connection)
            connection.shutdown(socket.SHUT_RDWR)

    def _note(self, key: int, data: bytes) -> None:
        with self._lock:
            self._received.setdefault(key, bytearray()).extend(data)


def _wanted(folder: Path) -> list[tuple[str, int, int, Any]]:
    """Return name, family, kind and address of each listener that this Python knows."""
    stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
    wanted: list[tuple[str, int, int, Any]] = [
        ("tcp4", socket.AF_INET, stream, ("127.0.0.1", 0)),
        ("tcp6", socket.AF_INET6, stream, ("::1", 0)),
        ("udp4", socket.AF_INET, datagram, ("127.0.0.1", 0)),
        ("udp6", socket.AF_INET6, datagram, ("::1", 0)),
        ("dns", socket.AF_INET, datagram, ("127.0.0.1", 0)),
        ("unix_path", socket.AF_UNIX, stream, str(folder / "stream")),
        ("unix_datagram", socket.AF_UNIX, datagram, str(folder / "datagram")),
        ("unix_abstract", socket.AF_UNIX, stream, f"\0edgekit-{uuid4().hex}"),
    ]
    if hasattr(socket, "AF_VSOCK"):
        wanted.append(("vsock", socket.AF_VSOCK, stream, (ANY_CONTEXT_ID, ANY_CONTEXT_ID)))
    return wanted


def _address(listener: socket.socket, asked: Any) -> Any:
    """Return where `listener` can be reached, as a JSON value."""
    if isinstance(asked, str):
        return asked
    host = LOCAL_CONTEXT_ID if asked[0] == ANY_CONTEXT_ID else asked[0]
    return [host, listener.getsockname()[1]]


def dns_reply(query: bytes) -> bytes:
    """Return an answer to `query` (RFC 1035): 127.0.0.1 for a question of type A, else none."""
    end = query.find(b"\0", 12) + 5  # the name's end, then type and class
    if len(query) < 17 or end < 17 or end > len(query):
        return b""
    is_address = query[end - 4 : end - 2] == b"\0\1"
    header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(is_address), 0, 0)
    record = struct.pack(">HHHIH4B", 0xC00C, 1, 1, 0, 4, 127, 0, 0, 1)
    return header + query[12:end] + (record if is_address else b"")
