"""The real program on a user's machine of its own: in a pseudo-terminal, or on pipes.

What it shows is read by pyte, an independent terminal. Knows the program by its command line only.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyte

from tui.store.chats import ChatStore
from tui.store.vault import Cost

REPOSITORY = Path(__file__).parents[2]
COLUMNS, LINES = 80, 24
PASSPHRASE = "one two three four five"
# A store's header says what its key derivation takes, so a store that was made cheaply stays so.
CHEAP = Cost(memory_kib=8, passes=1, lanes=1)
PROGRAM = [sys.executable, "-m", "edgekit"]
# `--echo` answers at once. Here it takes its time for each word, as a model does, and so does the
# disk; both are told so after the lock: what is imported before it could start threads that escape.
SLOW_ECHO = """
import importlib, os, sys, time
from edgekit.cli import main
chat = importlib.import_module("edgekit.cli.chat")
lock = chat._lock
def lock_and_slow_down(*options):
    report = lock(*options)
    from runtimes.echo import EchoRuntime
    EchoRuntime.__init__.__kwdefaults__["delay_s"] = float(os.environ["ECHO_DELAY_S"])
    from tui.store.chats import ChatStore
    save_all = ChatStore.save_all
    def save_slowly(*arguments):
        time.sleep(float(os.environ["DISK_DELAY_S"]))
        save_all(*arguments)
    ChatStore.save_all = save_slowly
    return report
chat._lock = lock_and_slow_down
sys.argv[0] = "edgekit"
main()
"""
SLOW_PROGRAM = [sys.executable, "-c", SLOW_ECHO]
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
# pyte 0.8 does not know the private "CSI > ... u" and "CSI ? ... $ p", and prints them.
TITLE = re.compile(rb"(?:\x1b\]|\xc2\x9d)[012lL];?(?!\d)(.*?)(?:\x07|\x1b\\|\xc2\x9c)", re.DOTALL)
UNKNOWN_TO_PYTE = re.compile(rb"\x1b\[>\d*u|\x1b\[<\d*u|\x1b\[\?\d+\$p")


class Machine:
    """A user's machine: fresh folders for the home, temporary files, the work and EDGEKIT_HOME.

    `documents` is where the user's own files are; the program only reads there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = folder / "written"
        self.documents = folder / "documents"
        for path in (
            self.documents,
            *(self.written / n for n in ("home", "tmp", "work", "edgekit")),
        ):
            path.mkdir(parents=True)
        self.edgekit_home = self.written / "edgekit"
        self.passphrase_file = self.documents / "passphrase"
        self.passphrase_file.write_text(f"{PASSPHRASE}\n")
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        self.environment = kept | {
            "HOME": str(self.written / "home"),
            "XDG_CACHE_HOME": str(self.written / "home" / "cache"),
            "TMPDIR": str(self.written / "tmp"),
            "EDGEKIT_HOME": str(self.edgekit_home),
            "OMP_NUM_THREADS": "1",
            "ECHO_DELAY_S": "0.01",
            "DISK_DELAY_S": "0",
            "PYTHONPATH": os.pathsep.join(p for p in [str(REPOSITORY), *sys.path] if p),
        }

    @property
    def private_store(self) -> Path:
        return self.edgekit_home / "chats" / "private.db"

    def make_cheap_store(self) -> None:
        """Make the encrypted store beforehand, with a key derivation that takes no time."""
        ChatStore.open(self.private_store, PASSPHRASE, cost=CHEAP).close()

    @contextlib.contextmanager
    def store(self) -> Iterator[ChatStore]:
        """Open the encrypted store, which nothing must have damaged."""
        opened = ChatStore.open(self.private_store, PASSPHRASE)
        try:
            assert opened.damage == []
            yield opened
        finally:
            opened.close()

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the content of everything that is in the fresh folders."""
        for path in sorted(self.written.rglob("*")):
            name = path.relative_to(self.written).as_posix()
            yield name, path.read_bytes() if path.is_file() else b""

    def run(
        self, *words: str, program: Sequence[str] = PROGRAM, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run the program on pipes to its end."""
        environment = self.environment | options.pop("environment", {})
        return subprocess.run(
            [*program, *words],
            env=environment,
            cwd=self.written / "work",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    def start(self, *words: str, program: Sequence[str] = PROGRAM) -> subprocess.Popen[str]:
        """Start the program on pipes."""
        return subprocess.Popen(
            [*program, *words],
            env=self.environment,
            cwd=self.written / "work",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


class Output:
    """What a program on pipes writes, as far as it has come: `answered` and `told` (stderr)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.answered = self.told = ""
        self._threads = [
            threading.Thread(target=self._read, args=(name,), daemon=True)
            for name in ("answered", "told")
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, name: str) -> None:
        stream = self.process.stdout if name == "answered" else self.process.stderr
        assert stream is not None
        with contextlib.suppress(ValueError):  # closed after the end
            while piece := os.read(stream.fileno(), 65536):
                setattr(self, name, getattr(self, name) + piece.decode())

    def send(self, text: str, *, last: bool = False) -> None:
        """Write to its standard input, and close that if this is the last."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text)
            self.process.stdin.flush()
        if last:
            self.process.stdin.close()

    def until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        """Wait until `condition` is true."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.answered[-500:], self.told[-500:])
            time.sleep(0.002)

    def end(self) -> None:
        """Take in the rest after the program has ended."""
        self.process.wait(timeout=20)
        for thread in self._threads:
            thread.join(timeout=20)


class Screen(pyte.Screen):
    """A pyte screen that does "next line" as ECMA-48 says: pyte 0.8 leaves the column."""

    def next_line(self) -> None:
        """Go to the start of the next line."""
        self.carriage_return()
        self.index()


class Stream(pyte.Stream):
    """Knows "next line"."""

    escape = pyte.Stream.escape | {"E": "next_line"}
    events = pyte.Stream.events | {"next_line"}


class Terminal:
    """The program on a controlling pseudo-terminal of 80 by 24. Use it in a `with`.

    `raw` is all that it has written; `text` and `line` are what a user sees.
    """

    def __init__(
        self,
        machine: Machine,
        *words: str,
        program: Sequence[str] = PROGRAM,
        pass_fds: Sequence[int] = (),
        **environment: str,
    ) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        base = machine.environment | {"TERM": "xterm-256color"} | environment
        self.process = subprocess.Popen(
            [*program, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=base,
            cwd=machine.written / "work",
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            pass_fds=pass_fds,
        )
        os.close(slave)
        self.raw = b""
        self._screen = Screen(COLUMNS, LINES)
        self._stream = Stream(self._screen)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.master)

    @property
    def lines(self) -> list[str]:
        return [line.replace("\xa0", " ").rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def conversation(self) -> str:
        """Return what is said, on one line: what is above the frame of the prompt."""
        frames = [row for row, line in enumerate(self.lines) if line.lstrip().startswith("─")]
        return " ".join(" ".join(self.lines[: frames[-1] if frames else -1]).split())

    @property
    def status(self) -> str:
        return self.lines[-1].strip()

    def read(self, seconds: float) -> bool:
        """Take in what comes within `seconds`; return whether anything did."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the program has gone
            time.sleep(min(seconds, 0.01))
            return False
        self.raw += data
        data = self._held + data
        start = data.rfind(b"\x1b")  # a sequence that is not whole yet waits for its rest
        split = start if start >= 0 and len(data) - start < 9 else len(data)
        self._held, data = data[split:], data[:split]
        if re.fullmatch(rb"\x1b(\[[\d;?<>]*[\$ ]?[A-Za-z@-~]|[A-Z78=>])[^\x1b]*", self._held):
            self._held, data = b"", data + self._held
        self._stream.feed(self._decoder.decode(UNKNOWN_TO_PYTE.sub(b"", data)))
        return True

    def until(self, wanted: str | Callable[[Terminal], object], seconds: float = 15) -> None:
        """Take in what comes until `wanted` is on the screen, or is true of it."""
        deadline = time.monotonic() + seconds
        while not (wanted in self.text if isinstance(wanted, str) else wanted(self)):
            gone = self.process.poll() is not None
            if not self.read(0.05) and (gone or time.monotonic() > deadline):
                raise AssertionError(
                    f"{wanted!r} was not seen in\n{self.text}\n{self.raw[-500:]!r}"
                )

    @property
    def is_ready(self) -> bool:
        """Return whether the status line says that nothing is under way."""
        return self.status.startswith(("ready", "private · ready"))

    def ready(self, seconds: float = 60) -> None:
        """Wait until the model is loaded, and for the end of an answer."""
        self.until(lambda shown: shown.is_ready, seconds)

    def settle(self, seconds: float = 0.3) -> None:
        """Take in what comes until nothing has for `seconds`, or for ten times as long."""
        deadline = time.monotonic() + 10 * seconds
        while self.read(seconds) and time.monotonic() < deadline:
            pass

    def pause(self, seconds: float) -> None:
        """Take in what comes for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.read(left)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self.master, keys.encode())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the program alone, and take in what it still writes."""
        os.kill(self.process.pid, number)
        self.leave()

    def quit(self) -> int:
        """Press Ctrl+Q; return the exit code."""
        self.press("\x11")
        return self.leave()

    def leave(self, seconds: float = 20) -> int:
        """Take in what comes until the program has ended; return the exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            self.read(0.05)
            assert time.monotonic() < deadline, f"it does not end\n{self.text}"
        while self.read(0.05):
            pass
        return self.process.returncode

    def titles(self) -> bytes:
        """Return what the program set as a title of the window or the icon (OSC 0, 1, 2)."""
        return b"\n".join(TITLE.findall(self.raw))
