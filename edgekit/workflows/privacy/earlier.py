"""What a process under test opens before it is locked: sockets, and a thread that waits.

The descriptors are held by number, not by socket object: the lock closes them, another file may
get the number, and an object that closed it again would close that file.
"""

from __future__ import annotations

import errno
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any


class Earlier:
    """Open sockets and, if asked for, an idle thread. What cannot be opened is left out."""

    def __init__(self, targets: dict[str, Any], greeting: bytes, *, thread: bool) -> None:
        """`greeting` is sent on the connections, so that the listeners know whose they are."""
        self._handles: dict[str, int] = {}
        self._errors: dict[str, int] = {}
        for name, opened in (("tcp", _tcp), ("udp", _udp), ("listener", _listener)):
            try:
                self._handles[name] = opened(targets, greeting).detach()
            except OSError as error:
                self._errors[name] = error.errno or errno.EIO
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        if thread:
            threading.Thread(target=self._wait, daemon=True).start()

    def handle(self, name: str) -> int:
        """Return a descriptor's number. Raises the OSError with which opening it failed."""
        if name in self._errors:
            raise OSError(self._errors[name], os.strerror(self._errors[name]))
        return self._handles[name]

    def in_older_thread(self, work: Callable[[], None]) -> None:
        """Run `work` in the thread that was there before; returns at once."""
        self._work.put(work)

    def _wait(self) -> None:
        while True:
            self._work.get()()


def _tcp(targets: dict[str, Any], greeting: bytes) -> socket.socket:
    stream = socket.create_connection(tuple(targets["tcp4"]), timeout=2)
    stream.setblocking(True)
    stream.sendall(greeting)
    return stream


def _udp(targets: dict[str, Any], greeting: bytes) -> socket.socket:
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagram.connect(tuple(targets["udp4"]))
    datagram.send(greeting)
    return datagram


def _listener(_targets: dict[str, Any], _greeting: bytes) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener
