"""What a chat and its worker do, done under the lock; prints what became of each as JSON."""

from __future__ import annotations

import asyncio
import ctypes
import json
import mmap
import multiprocessing
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.privacy.lock import lock

HOME = Path(os.environ["EDGEKIT_HOME"])


def threads() -> None:
    done = threading.Event()
    threading.Thread(target=done.set).start()
    assert done.wait(5)


def child() -> None:
    program = "import sys; sys.stdout.write(sys.stdin.read()[::-1])"
    done = subprocess.run(
        [sys.executable, "-c", program], input="abc", capture_output=True, text=True, check=True
    )
    assert done.stdout == "cba"


def child_with_descriptors() -> None:
    handle = os.memfd_create("x")
    os.write(handle, b"kept")
    program = f"import os; assert os.pread({handle}, 4, 0) == b'kept'"
    subprocess.run([sys.executable, "-c", program], pass_fds=[handle], check=True)
    closed = f"import os\ntry: os.fstat({handle})\nexcept OSError: pass\nelse: raise SystemExit(1)"
    subprocess.run([sys.executable, "-c", closed], close_fds=True, check=True)


def event_loop() -> None:
    async def work() -> bytes:
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        asyncio.get_running_loop().call_soon_threadsafe(lambda: None)
        return (await process.communicate(b"loop"))[0]

    assert asyncio.run(work()) == b"loop"


def signals() -> None:
    heard = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    os.kill(os.getpid(), signal.SIGUSR1)
    assert heard.wait(5)
    signal.signal(signal.SIGUSR1, before)
    sleeper = subprocess.Popen(["sleep", "60"])
    sleeper.kill()
    assert sleeper.wait(5) == -signal.SIGKILL


def _double(connection: Any) -> None:
    connection.send(connection.recv() * 2)


def processes() -> None:
    for way in ("fork", "spawn"):
        context = multiprocessing.get_context(way)
        here, there = context.Pipe()
        process = context.Process(target=_double, args=(there,))
        process.start()
        here.send(21)
        assert here.recv() == 42
        process.join()


def database() -> None:
    connection = sqlite3.connect(HOME / "chats.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
    with connection:
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
    assert connection.execute("SELECT count(*) FROM t").fetchone()[0] >= 1000
    connection.execute("VACUUM")
    connection.close()


def shared_memory() -> None:
    handle = os.memfd_create("x")
    os.ftruncate(handle, 1 << 20)
    with mmap.mmap(handle, 1 << 20) as memory:
        memory[:4] = b"abcd"
    with open(__file__, "rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as text:
        assert text[:3] == b'"""'


def pair() -> None:
    left, right = socket.socketpair()
    left.send(b"x")
    assert right.recv(1) == b"x"


def pipes() -> None:
    out, into = os.pipe()
    with open(f"/proc/self/fd/{into}", "wb") as stream:
        stream.write(b"pipe")
    assert os.read(out, 4) == b"pipe"
    with open(f"/dev/fd/{out}", "rb", buffering=0):
        pass


def own_facts() -> None:
    assert "VmHWM" in Path("/proc/self/status").read_text()
    assert Path("/proc/self/maps").read_text()
    assert os.listdir("/proc/self/fd")
    assert Path("/proc/cpuinfo").read_text()


def a_childs_facts() -> None:
    """The parent reads its worker's peak memory; the worker is locked, thus not dumpable."""
    program = (
        "import sys\nfrom edgekit.privacy.lock import lock\nlock(writable=())\n"
        "print('locked', flush=True)\nsys.stdin.read()"
    )
    worker = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"locked\n"
    assert "VmHWM" in Path(f"/proc/{worker.pid}/status").read_text()
    worker.terminate()
    assert worker.wait(5) == -signal.SIGTERM


def files() -> None:
    (HOME / "a").write_text("a")
    os.replace(HOME / "a", HOME / "b")
    handle = os.open(HOME, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def output() -> None:
    with open(os.devnull, "w") as null:
        null.write("x")
    subprocess.run(["cat"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)


def a_shared_library() -> None:
    assert ctypes.CDLL("libm.so.6").labs(-3) == 3


def randomness() -> None:
    assert len(os.urandom(16)) == 16


def resolver_does_not_hang() -> None:
    try:
        socket.getaddrinfo("localhost.invalid", 80)
    except OSError:
        return
    raise AssertionError("a name was resolved")


def main() -> None:
    if len(sys.argv) == 1:  # the spawned child imports this file too
        lock(writable=(HOME,))
    results = {}
    works: list[Callable[[], None]] = [
        threads, child, child_with_descriptors, event_loop, signals, processes, database,
        shared_memory, pair, pipes, own_facts, a_childs_facts, files, output, a_shared_library,
        randomness, resolver_does_not_hang,
    ]  # fmt: skip
    for work in works:
        try:
            work()
            results[work.__name__] = "ok"
        except Exception as error:
            results[work.__name__] = repr(error)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
