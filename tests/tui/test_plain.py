from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from edgekit.errors import InputError
from runtimes.base import Sampling
from tui.plain import run_plain


def chat(runtime, lines: str, **options):
    out, err = io.StringIO(), io.StringIO()
    code = run_plain(
        lambda: runtime,
        Sampling(),
        title="tiny",
        stdin=io.StringIO(lines),
        stdout=out,
        stderr=err,
        clock=runtime.clock,
        **options,
    )
    return code, out.getvalue(), err.getvalue()


def test_answers_go_to_stdout_and_everything_else_to_stderr(scripted) -> None:
    runtime = scripted(["Hel", "lo"], ["two\n"])
    code, out, err = chat(runtime, "a\n\n  \nb\n", system="s")
    assert (code, out) == (0, "Hello\ntwo\n")
    assert [m.content for m in runtime.asked[1]] == ["s", "a", "Hello", "b"]
    assert "loading tiny ..." in err
    assert "[2 tokens, first token 0.50 s, 20.0 tokens/s]" in err
    assert runtime.closed


def test_controls_are_stripped_from_both_sides(scripted) -> None:
    runtime = scripted(["\x1b]0;owned\x07a\x9b2J\rb\tc\n"])
    _, out, _ = chat(runtime, "q\x1b[31m\n")
    assert out == "]0;owneda2Jb\tc\n"
    assert runtime.asked[0][0].content == "q[31m"


def test_an_error_is_told_and_the_chat_goes_on(scripted) -> None:
    runtime = scripted([InputError("too long: 9 and 5", hint="cut")], ["fine"])
    code, out, err = chat(runtime, "a\nb\n")
    assert (code, out) == (3, "fine\n")
    assert "error: too long: 9 and 5\nhint: cut\n" in err
    assert [m.content for m in runtime.asked[1]] == ["b"]


def test_a_bug_is_raised_and_the_model_freed(scripted) -> None:
    runtime = scripted([KeyError("oops")])
    with pytest.raises(KeyError):
        chat(runtime, "a\n")
    assert runtime.closed


def test_a_reader_that_leaves_stops_the_model(scripted) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    runtime = scripted(["a", threading.Event(), "b"])
    with pytest.raises(BrokenPipeError):
        run_plain(
            lambda: runtime,
            Sampling(),
            stdin=io.StringIO("q\n"),
            stdout=Gone(),
            stderr=io.StringIO(),
        )
    assert runtime.closed


PROGRAM = """
import time
from runtimes.base import Chunk, Sampling
from tui.plain import run_plain

class Slow:
    context_length, threads = 64, 1
    def generate(self, messages, sampling):
        if len(messages) > 1:
            yield Chunk(f"before: {messages[1].content!r}", 1, 1, 0, "stop")
        while len(messages) == 1:
            yield Chunk("tick ", 1, 1, 0)
            time.sleep(0.01)
    def close(self):
        pass

raise SystemExit(run_plain(Slow, Sampling()))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_stops_the_answer_and_not_the_chat() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"first\n")
        assert process.stdout.read(4) == b"tick"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.stdin.write(b"second\n")
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    first, second = out.decode().splitlines()
    assert first.startswith(" tick")
    assert second.startswith("before: 'tick tick")
    assert b"stopped]" in err
