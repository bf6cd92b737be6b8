"""The real program in a pseudo-terminal: what it writes to it, and how it leaves it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

pty = pytest.importorskip("pty")

PROGRAM = """
from edgekit.settings import Settings
from runtimes.base import Chunk, Sampling
from tui.app import run_chat
from tui.setup import ChatSetup
from tui.store.chats import ChatStore

class Hostile:
    context_length, threads = 4096, 1
    def render(self, messages):
        return "".join(message.content for message in messages)
    def tokenize(self, text, special=False):
        return list(text.encode())
    def generate(self, messages, sampling):
        yield Chunk("\\x1b]0;owned\\x07\\x1b[31;7mred\\x1b[2J\\x9b5m ", 1, 9, 0)
        yield Chunk("**the** `finis`", 1, 9, 0, "stop")
    def close(self):
        pass

run_chat(ChatSetup(
    open_runtime=lambda name: Hostile(),
    model="tiny\\x1b]0;owned\\x07",
    list_artifacts=lambda: [],
    sampling=Sampling(),
    system="",
    store=ChatStore.open(None),
    settings=Settings(bandwidth="full"),
))
"""


class Terminal:
    """A child process on a pseudo-terminal of 80 by 24, and all that it has written."""

    def __init__(self, **environment: str) -> None:
        self.master, slave = pty.openpty()
        base = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLORTERM", "TERM")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**base, "COLUMNS": "80", "LINES": "24", **environment},
            start_new_session=True,
        )
        os.close(slave)
        os.set_blocking(self.master, False)
        self.written = b""

    def read_until(self, pattern: bytes, seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.written):
            assert time.monotonic() < deadline, self.written[-2000:]
            try:
                self.written += os.read(self.master, 65536)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def quit(self) -> int:
        self.press(b"\x11")
        self.read_until(rb"\x1b\[\?1049l")
        code = self.process.wait(timeout=10)
        os.close(self.master)
        return code


def answered(**environment: str) -> bytes:
    terminal = Terminal(**environment)
    try:
        terminal.read_until(rb"ready")
        terminal.press(b"hello\r")
        terminal.read_until(rb"finis")
        assert terminal.quit() == 0
    finally:
        terminal.process.kill()
    return terminal.written


def test_a_model_cannot_command_the_terminal() -> None:
    written = answered(TERM="xterm-256color", COLORTERM="truecolor")
    assert b"\x1b]0;owned" not in written
    assert b"\x1b[31;7m" not in written
    assert b"]0;owned" in written  # shown as text
    assert b"red[2J" in written


def test_sixteen_colours_are_enough() -> None:
    written = answered(TERM="xterm")
    assert not re.search(rb"[34]8;[25];", written)


def test_no_color_means_none() -> None:
    written = answered(TERM="xterm-256color", COLORTERM="truecolor", NO_COLOR="1")
    codes = {
        int(c) for sgr in re.findall(rb"\x1b\[([\d;]*)m", written) for c in sgr.split(b";") if c
    }
    assert codes <= {0, 1, 2, 3, 4, 7, 9, 39, 49}
