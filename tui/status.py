"""The status line: what the model is doing, how fast, and how much of its context is taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from tui.timing import Timing

NEARLY_FULL = 0.85


class State(StrEnum):
    """What the model is doing; the value is what the user reads."""

    LOADING = "loading"
    NO_MODEL = "no model"
    READY = "ready"
    THINKING = "thinking"
    WRITING = "writing"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Status:
    """The facts that the status line shows. `context_length` 0 means not yet known."""

    model: str
    state: State = State.LOADING
    elapsed_s: float | None = None
    timing: Timing = field(default_factory=Timing)
    context_length: int = 0
    more_below: bool = False

    @property
    def nearly_full(self) -> bool:
        """Return whether more than 85 % of the context is taken."""
        return self.timing.context_tokens > NEARLY_FULL * self.context_length > 0


def status_line(status: Status, width: int) -> Content:
    """Lay `status` out in `width` cells: state and model to the left, figures to the right.

    What is least needed goes first when the line is narrow: long words, then the model's name,
    then the speed. The state and the context stay.
    """
    left = _state(status)
    for figures in (_figures(status, short=False), _figures(status, short=True), _context(status)):
        room = width - len(left) - len(figures) - 2
        name = _shorten(status.model, room - 2)
        if name or room >= 0 and figures == _context(status):
            break
    middle = f"  {name}" if name else ""
    gap = max(1, width - len(left) - len(middle) - len(figures))
    style = "$text-warning bold" if status.nearly_full else ""
    return Content.assemble((left, "bold"), middle, " " * gap, (figures, style))


def _state(status: Status) -> str:
    elapsed = "" if status.elapsed_s is None else f" {status.elapsed_s:.1f} s"
    return f"{status.state}{elapsed}"


def _figures(status: Status, *, short: bool) -> str:
    timing, parts = status.timing, []
    if status.more_below:
        parts.append("more below: Ctrl+End")
    if timing.first_token_s is not None:
        parts.append(f"{'TTFT' if short else 'first token'} {timing.first_token_s:.2f} s")
    if timing.decode_tokens_per_s is not None:
        parts.append(f"{timing.decode_tokens_per_s:.1f} {'tok/s' if short else 'tokens/s'}")
    return " · ".join([*parts, _context(status)])


def _context(status: Status) -> str:
    if not status.context_length:
        return ""
    warning = "! " if status.nearly_full else ""
    return f"{warning}context {status.timing.context_tokens} of {status.context_length}"


def _shorten(text: str, room: int) -> str:
    """Return `text` in at most `room` cells, cut at the end, or nothing below eight cells."""
    if len(text) <= room:
        return text
    return f"{text[: room - 1]}…" if room >= 8 else ""


class StatusLine(Widget):
    """Shows a `Status`."""

    status: reactive[Status | None] = reactive(None)

    def render(self) -> Content:
        """Render the status to the width there is."""
        return Content() if self.status is None else status_line(self.status, self.size.width)
