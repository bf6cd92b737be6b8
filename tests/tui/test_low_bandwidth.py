"""The low-bandwidth mode shows what Textual would, by pyte's reckoning and tmux's, in few bytes.

What Textual itself would have sent is the standard: a second terminal gets all of it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pyte
import pytest
from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual._compositor import LayoutUpdate
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.drivers.headless_driver import HeadlessDriver
from textual.geometry import Region, Size
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widgets import Markdown, Static, TextArea

from tui import low_bandwidth
from tui.bandwidth.cells import PLAIN, Look, Picture, cells_of, clusters, is_certain
from tui.bandwidth.encoding import (
    HOME,
    Place,
    encode,
    look_sequence,
    move_sequence,
    scroll_sequence,
)
from tui.bandwidth.scrolling import Scroll, find_scrolls
from tui.low_bandwidth import LowBandwidthApp, wanted

WIDTH, HEIGHT = 40, 12
CONSOLE = Console(force_terminal=True, color_system="standard", legacy_windows=False)
STYLES = [
    Style(),
    Style(bold=True),
    Style(dim=True, bold=True),
    Style(italic=True, color="red"),
    Style(reverse=True),
    Style(underline=True, color="bright_blue"),
    Style(strike=True, bgcolor="green"),
    Style(color="yellow", bgcolor="blue"),
    Style(bgcolor="white"),
]
WORDS = [
    "the",
    "egg",
    "├──┤",
    "naïve",
    "漢字",
    "한국",
    "e\u0301te\u0301",
    "✅",
    "🙂",
    "…",
    "",
    "  ",
]


class Screen(pyte.Screen):
    """pyte with "next line" and "erase" as ECMA-48 has them.

    pyte 0.8 keeps the column at "next line", and erases with all attributes of the cursor. It also
    leaves half of a wide character behind when the other half is overwritten.
    """

    def next_line(self) -> None:
        self.carriage_return()
        self.index()

    def shown(self) -> list[list[tuple[Any, ...]]]:
        """Return all cells, with no attribute that cannot be seen."""
        return [[_seen(self.buffer[y][x]) for x in range(self.columns)] for y in range(self.lines)]


class Stream(pyte.Stream):
    escape = pyte.Stream.escape | {"E": "next_line"}
    events = pyte.Stream.events | {"next_line"}


def _seen(char: Any) -> tuple[Any, ...]:
    if char.data.strip(" ") or char.reverse:
        return tuple(char)
    if char.underscore or char.strikethrough:
        return (" ", char.fg, char.bg, char.underscore, char.strikethrough)
    return (" ", char.bg)


def screen_after(*texts: str, width: int = WIDTH, height: int = HEIGHT) -> Screen:
    screen = Screen(width, height)
    screen.reset_mode(7, private=True)  # as Textual does: no wrapping at the edge
    stream = Stream(screen)
    for text in texts:
        stream.feed(text)
    return screen


def random_row(chance: random.Random, width: int) -> list[Segment]:
    segments = [Segment(" " * chance.choice([0, 0, 1, 5]))]
    while chance.random() < 0.85:
        segments.append(Segment(chance.choice(WORDS) + " ", chance.choice(STYLES)))
    return list(Strip(segments).adjust_cell_length(width, chance.choice([*STYLES, None, None])))


def random_rows(chance: random.Random, width: int, height: int) -> list[list[Segment]]:
    return [random_row(chance, width) for _ in range(height)]


def edited(chance: random.Random, rows: list[list[Segment]], width: int) -> list[list[Segment]]:
    """Return `rows` after what happens to a screen: an edit, a scroll with a bar, or both."""
    rows = [list(row) for row in rows]
    if chance.random() < 0.6:
        top = chance.randrange(len(rows) - 2)
        bottom = chance.randrange(top + 2, len(rows) + 1)
        block = rows[top:bottom]
        by = chance.randrange(1, len(block))
        fresh = random_rows(chance, width, by)
        rows[top:bottom] = block[by:] + fresh if chance.random() < 0.7 else fresh + block[:-by]
    if chance.random() < 0.3:  # a scroll bar, which stays in its column
        bar = Segment(" ", Style(reverse=True))
        rows = [[*Strip(row).crop(0, width - 1), bar] for row in rows]
    for _ in range(chance.randrange(3)):
        rows[chance.randrange(len(rows))] = random_row(chance, width)
    return rows


def update_of(rows: list[list[Segment]], width: int) -> LayoutUpdate:
    return LayoutUpdate([[Strip(row)] for row in rows], Region(0, 0, width, len(rows)))


def picture_of(rows: list[list[Segment]], width: int) -> Picture:
    picture = Picture(width, len(rows))
    picture.paint(update_of(rows, width), ColorSystem.STANDARD)
    return picture


def textual_screen(rows: list[list[Segment]], width: int) -> Screen:
    text = update_of(rows, width).render_segments(CONSOLE)
    return screen_after("\x1b[2J", text, width=width, height=len(rows))


@pytest.mark.parametrize("seed", range(8))
def test_a_terminal_shows_after_every_frame_what_textual_would(seed: int) -> None:
    chance = random.Random(seed)
    terminal = screen_after()
    stream = Stream(terminal)
    rows, old, place = random_rows(chance, WIDTH, HEIGHT), None, None
    for _ in range(25):
        new = picture_of(rows, WIDTH)
        end = Place(chance.randrange(HEIGHT), chance.randrange(WIDTH))
        stream.feed(encode(old, new, place, end))
        assert terminal.shown() == textual_screen(rows, WIDTH).shown()
        assert (terminal.cursor.y, terminal.cursor.x) == end
        assert terminal.cursor.attrs == terminal.default_char
        assert terminal.margins is None or terminal.margins == (0, HEIGHT - 1)
        old, place = new, end
        rows = edited(chance, rows, WIDTH)


def test_nothing_changed_sends_nothing() -> None:
    rows = random_rows(random.Random(1), WIDTH, HEIGHT)
    assert encode(picture_of(rows, WIDTH), picture_of(rows, WIDTH), HOME, HOME) == ""


def test_one_letter_costs_one_letter_and_a_move() -> None:
    old = picture_of([[Segment("hell" + " " * 36)], *[[Segment(" " * 40)]] * 11], WIDTH)
    new = picture_of([[Segment("hello" + " " * 35)], *[[Segment(" " * 40)]] * 11], WIDTH)
    assert encode(old, new, Place(0, 4), Place(0, 5)) == "o"


def test_rows_that_move_are_not_sent_again() -> None:
    lines = [f"line {i} has words of its own".ljust(WIDTH) for i in range(HEIGHT + 1)]
    old = picture_of([[Segment(line)] for line in lines[:HEIGHT]], WIDTH)
    new = picture_of([[Segment(line)] for line in lines[1:]], WIDTH)
    sent = encode(old, new, HOME, HOME)
    assert find_scrolls(old, new) == [Scroll(0, HEIGHT - 1, 1)]
    assert "line 12" in sent
    assert "line 11" not in sent
    assert len(sent) < 60


def test_no_sequence_is_used_that_a_linux_console_lacks() -> None:
    """It has no SU (S) and no SD (T), see console_codes(4)."""
    chance, sent, old = random.Random(5), "", None
    rows = random_rows(chance, WIDTH, HEIGHT)
    for _ in range(60):
        new = picture_of(rows, WIDTH)
        sent += encode(old, new, HOME, HOME)
        old, rows = new, edited(chance, rows, WIDTH)
    finals = {match[-1] for match in re.findall(r"\x1b\[[\d;]*[A-Za-z]", sent)}
    assert finals <= set("ABCDHJKXmr")
    assert {match[-1] for match in re.findall(r"\x1b[^\[]", sent)} <= set("DEM")
    assert "\n" not in sent  # which the terminal's driver would turn into two bytes


def test_every_move_arrives_and_none_is_longer_than_the_absolute_one() -> None:
    places = [Place(y, x) for y in (0, 1, 5, 11) for x in (0, 1, 7, 38, 39)]
    for start, to in itertools.product([*places, Place(3, None)], places):
        sequence = move_sequence(start, to)
        at = f"\x1b[{start.y + 1};{1 + (WIDTH - 1 if start.x is None else start.x)}H"
        terminal = screen_after(at + ("x" if start.x is None else ""), sequence)
        assert (terminal.cursor.y, terminal.cursor.x) == to
        assert len(sequence) <= len(f"\x1b[{to.y + 1};{(to.x or 0) + 1}H")


def test_every_change_of_look_arrives() -> None:
    looks = [
        Look(attributes, foreground, background)
        for attributes in ((), ("1",), ("1", "2"), ("2", "7"), ("3", "4"), ("4", "9"))
        for foreground in ("", "31", "95")
        for background in ("", "44")
    ]
    for old, new in itertools.product(looks, looks):
        anew = screen_after(look_sequence(PLAIN, new)).cursor.attrs
        through = screen_after(look_sequence(PLAIN, old), look_sequence(old, new)).cursor.attrs
        assert anew == through
    # pyte knows no dim: that bold goes and dim stays is in the codes.
    assert look_sequence(Look(("1", "2"), "31"), Look(("2",), "31")) in (
        "\x1b[22;2m",
        "\x1b[;2;31m",
    )


def test_links_are_kept_and_none_can_end_early() -> None:
    style = Style(link="https://example.org/a")
    bad = Style(link="https://example.org/\x1b\\\x1b[2J")
    row = [Segment("here", style), Segment(" and "), Segment("there", bad)]
    new = picture_of([list(Strip(row).adjust_cell_length(WIDTH))], WIDTH)
    sent = encode(Picture(WIDTH, 1), new, HOME, HOME)
    assert sent.startswith("\x1b]8;;https://example.org/a\x1b\\here")
    assert sent.index("\x1b]8;;\x1b\\") < sent.index("and")
    assert "\x1b[2J" not in sent


def test_text_cannot_command_the_terminal() -> None:
    assert clusters("a\x1b[2Jb\x9b\x00\x07") == list("a[2Jb")
    sent = encode(Picture(9, 1), picture_of([[Segment("a\x1b]0;x\x07")]], 9), HOME, HOME)
    assert sent.startswith("a]0;x")


def test_marks_stay_with_their_character() -> None:
    assert clusters("e\u0301x") == ["e\u0301", "x"]
    assert [cell.text for cell in cells_of("漢a", PLAIN)] == ["漢", "", "a"]
    assert is_certain("漢")
    assert is_certain("│")
    assert not is_certain("🙂")
    assert not is_certain("✅")
    assert not is_certain("e\u0301")


@pytest.mark.parametrize("drawn_as", [1, 2])
def test_a_terminal_that_disagrees_on_a_width_stays_in_step(
    drawn_as: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pyte.screens.wcwidth
    monkeypatch.setattr(pyte.screens, "wcwidth", lambda c: drawn_as if c == "🙂" else real(c))
    lines = ["🙂 one two three", "🙂 one two thrxe", "plain words here", "a🙂 b🙂 c", "a🙂 b🙂 d"]
    terminal = screen_after()
    stream, old = Stream(terminal), None
    for line in lines:
        new = picture_of([[Segment(line)]] + [[Segment("below")]] * 3, WIDTH)
        stream.feed(encode(old, new, HOME, HOME))
        old = new
        expected = [cell.text or " " for cell in new.rows[0]]
        shown = [terminal.buffer[0][x].data or " " for x in range(WIDTH)]
        assert shown == expected


def test_half_a_wide_character_is_a_space() -> None:
    picture = picture_of([[Segment("漢字漢")]], 6)
    picture.put(0, 1, cells_of("ab", PLAIN))
    assert [cell.text for cell in picture.rows[0]] == [" ", "a", "b", " ", "漢", ""]
    picture.put(0, 5, cells_of("字", PLAIN))
    assert [cell.text for cell in picture.rows[0]] == [" ", "a", "b", " ", " ", " "]


@pytest.mark.parametrize("rows", [3, -3, 1, -1])
@pytest.mark.parametrize(("top", "bottom"), [(0, 11), (2, 9), (0, 5), (6, 11)])
def test_the_terminal_scrolls_as_reckoned(rows: int, top: int, bottom: int) -> None:
    text = [[Segment(f"row {i}".ljust(WIDTH))] for i in range(HEIGHT)]
    scroll = Scroll(top, bottom, rows)
    terminal = screen_after(encode(None, picture_of(text, WIDTH), None, HOME))
    Stream(terminal).feed(scroll_sequence(scroll))
    expected = scroll.apply(picture_of(text, WIDTH))
    assert [["".join(cell.text for cell in row)] for row in expected.rows] == [
        [line] for line in terminal.display
    ]
    assert terminal.margins is None


# The app


class Recorder(HeadlessDriver):
    """A driver that writes to pyte, and counts."""

    screen: ClassVar[Screen]
    sent: ClassVar[list[str]]

    @property
    def is_headless(self) -> bool:
        return False

    def write(self, data: str) -> None:
        Recorder.sent.append(data)
        # pyte mistakes the private sequences of a start for others; none draws anything.
        Stream(Recorder.screen).feed(re.sub(r"\x1b\[[<>?][\d;]*\$?[a-z]", "", data))


class Sample(LowBandwidthApp[None]):
    """Everything that a chat has: Markdown that grows, a text area, a scroll bar, a status."""

    CSS = """
    VerticalScroll { height: 1fr; align-vertical: bottom; scrollbar-size-vertical: 1; }
    TextArea { height: auto; max-height: 5; border: none; padding: 0; }
    TextArea { border-top: solid ansi_green; }
    #status { height: 1; text-style: reverse; }
    #box { width: 20; height: 5; border: round ansi_red; }
    """

    def __init__(self) -> None:
        super().__init__(driver_class=Recorder, ansi_color=True)
        self.theme = "ansi-dark"
        self.low_bandwidth = True

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            yield Markdown("# Title\n")
        yield TextArea()
        yield Static("status", id="status")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).anchor()
        self.query_one(TextArea).cursor_blink = False
        self.query_one(TextArea).focus()


class Box(ModalScreen[None]):
    def compose(self) -> ComposeResult:
        yield Static("a box", id="box")


@pytest.fixture
def fresh_terminal() -> None:
    Recorder.screen, Recorder.sent = screen_after(width=80, height=24), []


def expected_screen(app: Sample) -> Screen:
    """Return a terminal that was sent the whole screen by Textual itself."""
    update = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    assert isinstance(update, LayoutUpdate)
    # A strip keeps what it was first drawn as, in whatever colours: draw copies.
    fresh = [[Strip(list(strip)) for strip in line] for line in update.strips]
    text = LayoutUpdate(fresh, update.region).render_segments(CONSOLE)
    return screen_after(text, width=app.size.width, height=app.size.height)


async def settled(app: Sample) -> None:
    """Wait until the screen shows what it should, or fail."""
    deadline = time.monotonic() + 4
    while Recorder.screen.shown() != expected_screen(app).shown():
        if time.monotonic() > deadline:
            assert Recorder.screen.display == expected_screen(app).display
            assert Recorder.screen.shown() == expected_screen(app).shown()
        await asyncio.sleep(0.02)


PIECES = [
    "Some prose that goes on for a while, **bold** and `code`, and then ends. ",
    "\n\n- an item\n- *another*\n",
    "\n\n```python\ndef add(a, b):\n    return a + b\n```\n\n",
    "\n\n| a | b |\n|---|---|\n| one | 漢字 |\n| three | four |\n\n",
    "emoji 🙂 and ✅, accents e\u0301, [a link](https://example.org). ",
]


async def live(app: Sample, chance: random.Random, steps: int) -> None:
    """Do at random what happens in a chat, and look at the screen after each step."""
    markdown, area = app.query_one(Markdown), app.query_one(TextArea)
    for _ in range(steps):
        match chance.randrange(7):
            case 0 | 1:
                await markdown.append(chance.choice(PIECES))
            case 2:
                area.insert(chance.choice(["word ", "漢", "\n", "e\u0301", "x" * 30]))
            case 3:
                app.query_one(VerticalScroll).scroll_relative(y=chance.choice([-9, -1, 2, 9]))
            case 4:
                app.query_one("#status", Static).update(chance.choice(["busy", "ready 漢", ""]))
            case 5:
                await (app.pop_screen() if len(app.screen_stack) > 1 else app.push_screen(Box()))
            case 6:
                size = Size(chance.choice([80, 60, 33]), chance.choice([24, 13]))
                Recorder.screen.resize(size.height, size.width)
                app.post_message(events.Resize(size, size))
        await settled(app)


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_app_shows_what_textual_would(seed: int, fresh_terminal: None) -> None:
    app = Sample()

    async def pilot(_: Any) -> None:
        try:
            await live(app, random.Random(seed), 12)
        finally:
            app.exit()

    await app.run_async(size=(80, 24), auto_pilot=pilot)
    assert app._exception is None


async def run(app: Sample, body: Any) -> None:
    async def pilot(_: Any) -> None:
        try:
            await settled(app)
            await body()
        finally:
            app.exit()

    await app.run_async(size=(80, 24), auto_pilot=pilot)


async def test_frames_are_few_but_a_key_does_not_wait(fresh_terminal: None) -> None:
    app = Sample()

    async def body() -> None:
        await asyncio.sleep(0.4)
        Recorder.sent.clear()
        start = time.monotonic()
        for i in range(40):
            app.query_one("#status", Static).update(f"step {i}")
            await asyncio.sleep(0.025)
        frames = len([text for text in Recorder.sent if text])
        assert 2 <= frames <= (time.monotonic() - start) / low_bandwidth.PERIOD_S + 2
        await settled(app)
        app.query_one("#status", Static).update("something else")  # starts a period
        await asyncio.sleep(0.1)
        start = time.monotonic()
        app.post_message(events.Key("z", "z"))
        while not any("z" in line for line in Recorder.screen.display):
            await asyncio.sleep(0.002)
            assert time.monotonic() - start < 0.25
        await settled(app)

    await run(app, body)
    assert app._exception is None


async def test_what_overwrote_the_screen_is_repaired(fresh_terminal: None) -> None:
    app = Sample()

    async def body() -> None:
        for repair in (
            app.action_repaint,
            lambda: app.post_message(events.AppFocus()),
            lambda: app.post_message(events.Resize(app.size, app.size)),
        ):
            Stream(Recorder.screen).feed("\x1b[5;5Hjunk from elsewhere\x1b[31m")
            repair()
            await settled(app)

    await run(app, body)
    assert app._exception is None


async def test_the_mode_can_change_while_the_app_runs(fresh_terminal: None) -> None:
    app = Sample()

    async def body() -> None:
        for low in (False, True, False, True):
            app.low_bandwidth = low
            await app.query_one(Markdown).append("more text, and a `bit` of code\n\n")
            await settled(app)
            assert app.animation_level == ("none" if low else "full")

    await run(app, body)
    assert app._exception is None


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        ("auto", {}, False),
        ("auto", {"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, True),
        ("auto", {"SSH_TTY": "/dev/pts/1"}, True),
        ("auto", {"MOSH_KEY": "x"}, True),
        ("full", {"SSH_TTY": "/dev/pts/1"}, False),
        ("low", {}, True),
    ],
)
def test_the_mode_is_chosen_by_itself(
    setting: Any, environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("SSH_", "MOSH"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wanted(setting) is expected


def test_a_serial_line_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ttyS0", "ttyUSB12", "ttyAMA0"):
        assert low_bandwidth.SERIAL_LINE.fullmatch(f"/dev/{name}")
    assert not low_bandwidth.SERIAL_LINE.fullmatch("/dev/tty1")
    assert not low_bandwidth.SERIAL_LINE.fullmatch("/dev/pts/3")


PROGRAM = """
import importlib.util, sys
from textual.widgets import Markdown, TextArea
spec = importlib.util.spec_from_file_location("sample", sys.argv[1])
sample = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sample)

class InTmux(sample.Sample):
    def __init__(self):
        super().__init__()
        self.driver_class = self.get_driver_class()
        self.low_bandwidth = sys.argv[2] == "low"

    async def work(self):
        import asyncio
        for piece in sample.PIECES * 3:
            await self.query_one(Markdown).append(piece)
            await asyncio.sleep(0.12)
        await asyncio.sleep(0.5)
        self.query_one("#status").update("the end")

    def on_ready(self):
        self.run_worker(self.work())

InTmux().run()
"""


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_tmux_shows_the_same_in_both_modes(tmp_path: Path) -> None:
    sessions = [TmuxSession(tmp_path / mode, mode) for mode in ("low", "full")]
    try:
        low, full = (session.shown_at_the_end() for session in sessions)
    finally:
        for session in sessions:
            session.end()
    assert any(cell[0] == "漢" for row in low for cell in row)
    assert low == full


class TmuxSession:
    """The program in a tmux of its own."""

    def __init__(self, socket: Path, mode: str) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        command = [sys.executable, "-c", PROGRAM, __file__, mode]
        self.run("-u", "new-session", "-d", "-x", "80", "-y", "24", "--", *command)

    def run(self, *words: str, check: bool = True) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "TMUX"}
        environment |= {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        done = subprocess.run(
            [*self._tmux, *words], check=check, capture_output=True, text=True, env=environment
        )
        return done.stdout

    def end(self) -> None:
        """End the program, which a hang-up alone does not, and tmux."""
        if process := self.run("display-message", "-p", "#{pane_pid}", check=False).strip():
            os.kill(int(process), signal.SIGKILL)
        self.run("kill-server", check=False)

    def shown_at_the_end(self) -> list[list[tuple[Any, ...]]]:
        """Return the cells and their looks when the program has come to its end."""
        deadline = time.monotonic() + 20
        while "the end" not in self.run("capture-pane", "-p"):
            assert time.monotonic() < deadline, self.run("capture-pane", "-p")
            time.sleep(0.1)
        lines = self.run("capture-pane", "-p", "-e", "-N").rstrip("\n").split("\n")
        return screen_after("\r\n".join(lines), width=80, height=24).shown()
