"""Hostile code under the lock: every way out is tried, and listeners must hear nothing.

The same code without a lock is the control: there the ways are open, so a refusal means something.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run, linux_only

pytestmark = linux_only
ATTACKER = Path(__file__).with_name("attacker.py")
# What the closed descriptors answer, now that they are /dev/null.
NOT_A_SOCKET = ("ENOTSOCK", "EBADF")
EARLIER = ("an earlier tcp", "an earlier udp", "pass a descriptor", "receive a descriptor")


class Ear:
    """Listeners on 127.0.0.1 that keep what they hear."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self.ports = [str(s.getsockname()[1]) for s in (self._tcp, self._udp)]
        for work in (self._accept, self._receive):
            threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                with self._tcp.accept()[0] as connection:
                    connection.settimeout(2)
                    while data := connection.recv(100):
                        self.heard.append(data)
            except TimeoutError:
                continue
            except OSError:
                return

    def _receive(self) -> None:
        while True:
            try:
                self.heard.append(self._udp.recv(100))
            except OSError:
                return

    def close(self) -> None:
        self._tcp.close()
        self._udp.close()


@pytest.fixture
def ear(loopback: None) -> Iterator[Ear]:
    ear = Ear()
    yield ear
    ear.close()


def attack(run: Run, ear: Ear, lock: str, **options: Any) -> dict[str, Any]:
    done = run(ATTACKER, lock, *ear.ports, **options)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_without_a_lock_the_ways_are_open(run: Run, ear: Ear) -> None:
    results = attack(run, ear, "nothing")["results"]
    for way in ("tcp", "udp", "fast open", "own system calls", "child", "older thread: tcp",
                "newer thread: udp", "socket unix", "socket netlink", *EARLIER):  # fmt: skip
        assert results[way] == "ok", way
    assert {b"tcp", b"udp", b"own", b"earlier"} <= set(ear.heard)


@pytest.mark.parametrize("lock", ["filter", "lock"])
def test_under_the_lock_every_way_is_refused(run: Run, ear: Ear, lock: str) -> None:
    document = attack(run, ear, lock)
    results = document["results"]
    by_file_rules = {"memory of the parent"}
    for way, found in results.items():
        if way in EARLIER or way in by_file_rules:
            continue
        assert found == "EACCES" or (way.startswith("i386") and found == "ENOSYS"), (way, found)
    if lock == "lock":
        assert results["memory of the parent"] in ("EACCES", "EPERM")
        assert {results[way] for way in EARLIER} <= {*NOT_A_SOCKET, "EACCES"}
        kinds = [line.rpartition(" fd ")[0] for line in document["closed"]]
        assert kinds == ["socket AF_INET", "socket AF_INET", "socket AF_UNIX", "socket AF_UNIX"]
        assert document["left_open"] == []
        assert ear.heard == []


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_as_stdin_is_named_and_leads_nowhere(
    run: Run, ear: Ear, kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_INET, kind) as stdin:
        document = attack(run, ear, "lock", stdin=stdin)
    assert document["left_open"] == ["socket AF_INET fd 0"]
    found = {way: end for way, end in document["results"].items() if way.startswith("stdin")}
    assert len(found) == 10
    assert set(found.values()) == {"EACCES"}
    assert ear.heard == []
    with socket.socket(socket.AF_INET, kind) as stdin:
        open_results = attack(run, ear, "nothing", stdin=stdin)["results"]
    assert "EACCES" not in {open_results["stdin connect"], open_results["stdin sendto"]}
