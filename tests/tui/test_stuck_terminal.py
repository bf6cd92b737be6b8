"""The real program on a terminal that goes away, stands still, or is ended by a signal."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pyte = pytest.importorskip("pyte")
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")

from tui.conversation import Answer  # noqa: E402
from tui.store.chats import ChatStore  # noqa: E402

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from edgekit.settings import Settings
from runtimes.base import Chunk, Sampling
from tui.app import run_chat
from tui.setup import ChatSetup
from tui.store.chats import ChatStore

path, mode, words, wait_s, deaf = sys.argv[1:]
if deaf == "deaf":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

class Talker:
    context_length, threads = 4096, 1
    def render(self, messages):
        return "".join(message.content for message in messages)
    def tokenize(self, text, special=False):
        return text.split()
    def generate(self, messages, sampling):
        for i in range(int(words)):
            time.sleep(float(wait_s))
            yield Chunk(f"word{i} ", 1, 9, 0, None)
        yield Chunk("the end", 1, 9, 0, "stop")
    def close(self):
        pass

store = ChatStore.open(Path(path))
try:
    run_chat(ChatSetup(lambda name: Talker(), "tiny", lambda: [], Sampling(), "", store,
                       Settings(bandwidth=mode)))
finally:
    store.close()
"""


class Terminal:
    """The program on a pseudo-terminal whose two ends this process holds."""

    def __init__(self, path: Path, mode: str, words: int, wait_s: float, deaf: str = "") -> None:
        self.master, self.slave = pty.openpty()
        self.path = path
        self.taken = 0
        self.screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self.screen)
        environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLORTERM")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), mode, str(words), str(wait_s), deaf],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color"},
            start_new_session=True,
        )

    def read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        data = os.read(self.master, 65536)
        self.taken += len(data)
        self._stream.feed(data.replace(b"\x1bE", b"\r\n"))  # pyte 0.8 does it wrong
        return True

    def read_until(self, text: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while text not in "\n".join(self.screen.display):
            assert time.monotonic() < deadline, self.screen.display
            self.read(0.1)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def ask(self) -> None:
        self.read_until("ready")
        self.press("hello\r")
        self.read_until("word9")

    def end(self) -> int:
        """Wait for the end, and read nothing meanwhile."""
        return self.process.wait(timeout=10)

    def stored(self) -> tuple[list[Answer], str | None, bool]:
        """Return the answers, the draft, and whether the chat is noted as the one left open."""
        store = ChatStore.open(self.path)
        try:
            [chat] = store.chats()
            _, entries, damage = store.load(chat.id)
            assert damage == []
            answers = [entry for entry in entries if isinstance(entry, Answer)]
            return answers, store.note("draft"), store.note("open") == chat.id
        finally:
            store.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[type]:
    made: list[Terminal] = []

    def make(*arguments: object, **options: object) -> Terminal:
        made.append(Terminal(tmp_path / "chats.db", *arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make  # type: ignore[misc]
    for terminal in made:
        terminal.close()


@pytest.mark.parametrize("mode", ["full", "low"])
@pytest.mark.parametrize("how", ["vanishes", "SIGHUP", "SIGTERM"])
def test_it_saves_and_ends(terminals, how: str, mode: str) -> None:
    terminal = terminals(mode, 4000, 0.02, "deaf" if how == "vanishes" else "")
    terminal.ask()
    terminal.press("half a thought")
    terminal.read_until("half a thought")
    if how == "vanishes":
        os.close(terminal.slave)
        os.close(terminal.master)
        terminal.master = terminal.slave = -1
        assert terminal.end() == 129
    else:
        number = getattr(signal, how)
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number
    [answer], draft, left_open = terminal.stored()
    assert answer.text.startswith("word0 word1 word2 ")
    assert answer.ending == "interrupted"
    assert draft == "half a thought"
    assert left_open


@pytest.mark.parametrize("mode", [pytest.param("full", marks=pytest.mark.slow), "low"])
def test_a_signal_ends_it_on_a_terminal_that_takes_nothing(terminals, mode: str) -> None:
    terminal = terminals(mode, 4000, 0.005)
    terminal.ask()
    termios.tcflow(terminal.slave, termios.TCOOFF)
    time.sleep(1.5)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 143
    [answer], _, _ = terminal.stored()
    assert len(answer.text.split()) > 100
    assert answer.ending == "interrupted"


# In the low mode the frame that was under way and one more; in the full mode, what waited.
@pytest.mark.parametrize(
    ("mode", "most"), [("low", 4_500), pytest.param("full", 100_000, marks=pytest.mark.slow)]
)
def test_a_terminal_that_stood_still_gets_the_newest(terminals, mode: str, most: int) -> None:
    terminal = terminals(mode, 1200, 0.0025)
    terminal.ask()
    termios.tcflow(terminal.slave, termios.TCOOFF)
    while terminal.read(0.2):
        pass
    before, deadline = terminal.taken, time.monotonic() + 20
    while not any(answer.ending == "stop" for answer in terminal.stored()[0]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(0.5)
    assert terminal.taken == before
    termios.tcflow(terminal.slave, termios.TCOON)
    terminal.read_until("the end")
    terminal.read_until("ready")
    assert terminal.taken - before < most
    terminal.press("\x11")
    while terminal.process.poll() is None:
        terminal.read(0.1)
    assert terminal.process.returncode == 0
