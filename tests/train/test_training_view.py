"""The panel: what it says, that it fits, and that nothing of it stays on the screen."""

from __future__ import annotations

import io
import re
import sys

import pytest

from edgekit.cli.training_view import TrainingView, duration, panel, sketch
from edgekit.train.meter import Speed
from edgekit.train.standing import Standing

CURVE = [{"loss": 8.0 - step, "step": step} for step in range(8)]


def standing(**changes: object) -> Standing:
    settings: dict[str, object] = {
        "name": "training", "step": 120, "steps": 300, "done": 0.4, "left_s": 750.0,
        "loss": 1.23456, "figure_name": "evaluation loss", "held_out": 2.5,
        "learning_rate": 3e-4, "speed": Speed(12345.6, 0.4112), "peak": "990 TFLOP/s",
        "memory_bytes": 12_300_000_000, "curve": CURVE,
    }  # fmt: skip
    return Standing(**(settings | changes))  # type: ignore[arg-type]


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[\d*m", "", line) for line in lines]


def test_the_panel_says_how_the_run_stands() -> None:
    assert plain(panel(standing(), 80)) == [
        "  step 120 of 300  |  40%  |  12 min left",
        "  loss 1.2346 [#*+=-:. ]  |  evaluation loss 2.5000  |  rate 3.0e-04",
        "  12346 tokens/s  |  MFU 41.1% of 990 TFLOP/s  |  memory 12.3 GB",
    ]
    lines = plain(panel(standing(steps=None, speed=Speed(9.0, None)), 80))
    assert lines[0].startswith("  step 120  |  40%")
    assert lines[2] == "  9 tokens/s  |  memory 12.3 GB"


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_no_line_is_wrapped(columns: int) -> None:
    worst = standing(step=10**6, steps=10**7, left_s=1e6, curve=CURVE * 99, peak="9999 TFLOP/s")
    assert all(len(line) < columns for line in plain(panel(worst, columns)))


def test_the_sketch_goes_from_the_first_step_to_the_last() -> None:
    assert sketch(CURVE[:1]) == "[ ]"
    long = sketch([{"loss": float(n)} for n in range(1000)])
    assert (len(long), long[1], long[-2]) == (26, " ", "#")
    assert [duration(s) for s in (45, 750, 12_000)] == ["45 s", "12 min", "3 h 20 min"]


class Terminal(io.StringIO):
    """A terminal as far as it goes: the lines that an 80-column screen would show."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        rows, at, column = [""], 0, 0
        for code, letter in re.findall(r"\x1b\[(\d*[A-Za-z])|([^\x1b])", self.getvalue()):
            if letter == "\n":
                at, column = at + 1, 0
                rows += [""] * (at == len(rows))
            elif letter == "\r":
                column = 0
            elif letter:
                rows[at] = rows[at][:column].ljust(column) + letter + rows[at][column + 1 :]
                column += 1
            elif code == "K":
                rows[at] = rows[at][:column]
            elif code == "J":
                rows[at:] = [rows[at][:column]]
            elif code.endswith("A"):
                at -= int(code[:-1] or 1)
        return [row.rstrip() for row in rows]


def test_the_panel_stands_under_the_bar_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-16color")
    monkeypatch.setattr("edgekit.cli.training_view.REDRAW_S", 0.0)
    monkeypatch.setattr("edgekit.cli.progress.REDRAW_S", 0.0)
    view = TrainingView()
    for stretch in ("one", "two"):
        with view.task(stretch, 2, "steps") as advance:
            for step in (1, 2):
                advance(1)
                view.tell(standing(step=step))
                shown = terminal.screen()
                assert shown[-4].startswith(f"  {stretch}")
                assert shown[-3].startswith(f"  step {step} of 300")
                assert shown[-1].startswith("  12346 tokens/s")
    assert [line.split()[0] for line in terminal.screen() if line] == ["one", "two"]


def test_without_a_terminal_there_is_no_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    view = TrainingView()
    with view.task("one", 2, "steps") as advance:
        advance(2)
        view.tell(standing())
    (line,) = stream.getvalue().splitlines()
    assert line.split() == ["one", "2", "steps,", "0.0", "s"]
