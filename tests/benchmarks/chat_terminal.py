"""What the chat sends to a terminal for each token, and how soon a typed key is seen.

    python tests/benchmarks/chat_terminal.py [--rate TOKENS_PER_S] [--keys N] [--turns N]

The real ChatApp in a pseudo-terminal of 80 by 24, with a scripted model at 20 tokens/s. For the
full and the low-bandwidth mode it prints the bytes sent at the start, for each token of an answer
while nobody types, and on leaving, and the share of one processor core that the answer took;
then, while tokens stream, the time from a key to its echo. `--turns` puts finished turns before
the answer. The echo is looked for on a screen kept by pyte, an independent terminal.

The aim is 60 bytes a token in the low-bandwidth mode, and 50 ms at the 95th percentile for keys
in both. On a busy machine, read the second line: it leaves out the time for which the program or
this one was ready to run and no processor core was free, as the kernel counts it
(/proc/PID/schedstat).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from statistics import median, quantiles

import pyte

COLUMNS, LINES = 80, 24
TOKENS = 320
PROGRAM = """
import time
from edgekit.settings import Settings
from runtimes.base import Chunk, Sampling
from tui.app import run_chat
from tui.conversation import Answer, Chat, Question
from tui.setup import ChatSetup
from tui.store.chats import ChatStore

TEXT = {text!r}
TOKENS, RATE = {tokens}, {rate}

class Scripted:
    context_length, threads = 4096, 1
    def generate(self, messages, sampling):
        size = len(TEXT) / TOKENS
        start = time.monotonic()
        for i in range(TOKENS):
            time.sleep(max(0.0, start + i / RATE - time.monotonic()))
            piece = TEXT[round(i * size) : round((i + 1) * size)]
            yield Chunk(piece, 1, 9, 0, "stop" if i + 1 == TOKENS else None)
    def render(self, messages):
        return "".join(message.content for message in messages)
    def tokenize(self, text, *, special=False):
        return text.split()
    def close(self):
        pass

store = ChatStore.open(None)
entries = []
for i in range({turns}):
    head = entries[-1].id if entries else None
    entries.append(Question(f"q{{i}}", head, "How do I boil an egg?"))
    entries.append(Answer(f"a{{i}}", f"q{{i}}", TEXT[: {answer_length}], "stop"))
if entries:
    store.save_all(Chat("earlier", title="eggs", head=entries[-1].id), entries)

run_chat(ChatSetup(
    open_runtime=lambda name: Scripted(),
    model="SmolLM2-135M-Instruct-gguf-q4_k_m",
    list_artifacts=lambda: [],
    sampling=Sampling(),
    system="",
    store=store,
    settings=Settings(bandwidth={mode!r}),
    resume="earlier" if entries else None,
))
"""
ANSWER = """\
To boil an egg, bring a small pan of water to a rolling boil, then lower the egg into it with a \
spoon. How long it stays there decides **how firm** it becomes:

- *Six minutes* give a runny yolk and a white that has just set.
- *Eight minutes* give a yolk like jam, which is what most people want on toast.
- *Eleven minutes* give a firm yolk, good for a salad or a sandwich.

## Why the time matters

The white sets at about 62 degrees and the yolk at about 68, so a few minutes make a large \
difference. A large egg takes a minute longer than a small one; one from the refrigerator takes \
a minute longer than one that has stood in the kitchen. Cool the egg under the tap at once, or \
it goes on cooking in its shell.

```python
def boiling_minutes(weight_grams: float, firmness: str) -> float:
    minutes = {"soft": 6.0, "medium": 8.0, "hard": 11.0}[firmness]
    if weight_grams > 63:
        minutes += 1.0  # a large egg
    return minutes
```

| firmness | minutes | good for |
|---|---|---|
| soft | 6 | a breakfast with toast |
| medium | 8 | toast, ramen |
| hard | 11 | salad, sandwiches |

At high altitude water boils at a lower temperature: add a minute for each thousand metres. If \
the shell tends to crack, put a little vinegar into the water, which helps the white to set \
quickly where it leaks. Eggs that are a week old are easier to peel than fresh ones.
"""
KEYS = "etaoinsrhdlu"


class Screen(pyte.Screen):
    """A pyte screen that does "next line" as ECMA-48 says: pyte 0.8 leaves the column."""

    def next_line(self) -> None:
        """Go to the start of the next line."""
        self.carriage_return()
        self.index()


class Stream(pyte.ByteStream):
    """Knows "next line"."""

    escape = pyte.ByteStream.escape | {"E": "next_line"}
    events = pyte.ByteStream.events | {"next_line"}


class Terminal:
    """The program on a pseudo-terminal, and what it shows by pyte's reckoning."""

    def __init__(self, program: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        drop = ("NO_COLOR", "SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY", "COLUMNS", "LINES")
        base = {name: value for name, value in os.environ.items() if name not in drop}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=base | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment,
            start_new_session=True,
        )
        os.close(slave)
        self.sent = 0
        self.raw = b""
        self.screen = Screen(COLUMNS, LINES)
        self._stream = Stream(self.screen)

    def read(self, seconds: float) -> bool:
        """Take in what comes within `seconds`; return whether anything did."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the program has gone
            return False
        self.sent += len(data)
        self.raw += data
        # pyte 0.8 does not know the private "CSI > ... u" and "CSI ? ... $ p", and prints them.
        for unknown in (b"\x1b[>25u", b"\x1b[<u", b"\x1b[?2026$p", b"\x1b[?2048$p"):
            data = data.replace(unknown, b"")
        self._stream.feed(data)
        return True

    def read_until(self, text: str, seconds: float = 20) -> None:
        """Take in what comes until `text` is on the screen."""
        deadline = time.monotonic() + seconds
        while not any(text in line for line in self.screen.display):
            self.read(0.05)
            if time.monotonic() > deadline:
                raise TimeoutError("\n".join([f"no {text!r} in", *self.screen.display]))

    def settle(self, seconds: float = 0.7) -> None:
        """Take in what comes until nothing has for `seconds`, or for ten times as long."""
        deadline = time.monotonic() + 10 * seconds
        while self.read(seconds) and time.monotonic() < deadline:
            pass

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self.master, keys.encode())

    def used_s(self) -> float:
        """Return the processor time that the program has used, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def quit(self) -> None:
        """Press Ctrl+Q and take in the rest."""
        self.press("\x11")
        deadline = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read(0.2)
        while self.read(0.2):
            pass

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def program(mode: str, rate: float, tokens: int, turns: int, text: str = ANSWER) -> str:
    """Return the program that runs the chat with an answer at `rate` tokens/s."""
    return PROGRAM.format(
        mode=mode, text=text, tokens=tokens, rate=rate, turns=turns, answer_length=len(ANSWER)
    )


def measure_bytes(mode: str, rate: float, turns: int, save: Path | None) -> None:
    """Print what is sent for one answer, and what it costs."""
    with Terminal(program(mode, rate, TOKENS, turns)) as terminal:
        terminal.read_until("ready")
        terminal.settle()
        at_start = terminal.sent
        terminal.press("How do I boil an egg?")
        terminal.settle()
        before, used, start = terminal.sent, terminal.used_s(), time.monotonic()
        terminal.press("\r")
        terminal.read_until("writing")
        terminal.read_until("ready", 60)
        terminal.settle()
        answer = terminal.sent - before
        share = (terminal.used_s() - used) / (time.monotonic() - start)
        before = terminal.sent
        terminal.quit()
    print(
        f"{mode:4}  start {at_start} bytes, answer {answer} bytes = "
        f"{answer / TOKENS:.1f} bytes/token ({len(ANSWER) / TOKENS:.1f} of them text), "
        f"end {terminal.sent - before} bytes; {share:.0%} of a core",
        flush=True,
    )
    if save is not None:
        (save / f"{mode}.bytes").write_bytes(terminal.raw)


def measure_keys(mode: str, rate: float, turns: int, count: int) -> None:
    """Print how long keys typed while tokens stream take to be seen."""
    tokens = round(rate * (count * 0.2 + 10))
    text = (ANSWER + "\n") * (tokens // TOKENS + 1)
    with Terminal(program(mode, rate, tokens, turns, text)) as terminal:
        terminal.read_until("ready")
        terminal.press("How do I boil an egg?\r")
        terminal.read_until("writing")
        waits = [_echo(terminal, i) for i in range(count)]
        terminal.quit()
    _print_waits(f"{mode:4}  {count} keys, as seen:      ", [seen for seen, _ in waits])
    _print_waits(f"{mode:4}  {count} keys, cores free:   ", [own for _, own in waits])


def _print_waits(title: str, waits_s: list[float]) -> None:
    waits_ms = sorted(1000 * wait for wait in waits_s)
    print(
        f"{title} median {median(waits_ms):.0f} ms, 95th percentile "
        f"{quantiles(waits_ms, n=20)[-1]:.0f} ms, largest {waits_ms[-1]:.0f} ms",
        flush=True,
    )


def _starved_s(terminal: Terminal) -> float:
    """Return for how long the program and this one have waited for a core, in seconds."""
    files = Path(f"/proc/{terminal.process.pid}/task").glob("*/schedstat")
    waits_ns = [file.read_text().split()[1] for file in (Path("/proc/self/schedstat"), *files)]
    return sum(int(wait) for wait in waits_ns) / 1e9


def _echo(terminal: Terminal, index: int) -> tuple[float, float]:
    """Type one letter into the prompt and return the seconds until it is seen there.

    The second figure leaves out the waiting for a core.
    """
    # A different moment of the frame each time.
    pause_until = time.monotonic() + 0.08 + 0.007 * (index % 11)
    while time.monotonic() < pause_until:
        terminal.read(max(0.0, pause_until - time.monotonic()))
    column = index % (COLUMNS - 10)
    if column == 0 and index:  # start an empty line before the row is full
        terminal.press("\x15")
        terminal.settle(0.1)
    letter = KEYS[index % len(KEYS)]
    expected = "".join(KEYS[i % len(KEYS)] for i in range(index - column, index + 1))
    start, starved = time.monotonic(), _starved_s(terminal)
    terminal.press(letter)
    while not any(expected in line for line in terminal.screen.display[-4:]):
        terminal.read(0.05)
        if time.monotonic() - start > 10:
            raise TimeoutError("\n".join([f"no {expected!r} in", *terminal.screen.display]))
    seen = time.monotonic() - start
    return seen, max(0.0, seen - (_starved_s(terminal) - starved))


def main() -> None:
    """Measure both modes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--keys", type=int, default=120)
    parser.add_argument("--turns", type=int, default=0)
    parser.add_argument("--modes", default="full,low")
    parser.add_argument("--save", type=Path, help="keep what was sent, one file a mode")
    options = parser.parse_args()
    for mode in options.modes.split(","):
        measure_bytes(mode, options.rate, options.turns, options.save)
    for mode in options.modes.split(","):
        measure_keys(mode, options.rate, options.turns, options.keys)


if __name__ == "__main__":
    main()
