"""The status line: what the model is doing, how fast, and how much of its context is taken."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from rich.cells import cell_len
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from tui.dialogs.layout import shorten
from tui.timing import Timing

NEARLY_FULL = 0.85
SHORTEST_NAME = 12
GAP = "  "
SEPARATOR = " · "


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
    """The facts that the status line shows. `context_length` 0 means not yet known.

    `left_out` counts the turns that no longer fit the context, so that the model is not sent them.
    """

    model: str
    state: State = State.LOADING
    elapsed_s: float | None = None
    timing: Timing = field(default_factory=Timing)
    context_length: int = 0
    left_out: int = 0
    private: bool = False

    @property
    def nearly_full(self) -> bool:
        """Return whether more than 85 % of the context is taken."""
        return self.timing.context_tokens > NEARLY_FULL * self.context_length > 0


def status_line(status: Status, width: int) -> Content:
    """Lay `status` out in `width` cells: state and model to the left, figures to the right.

    A narrow line loses long words first, then the middle of the model's name, then the speed. The
    state and the context stay.
    """
    state, model = _state(status), status.model
    layouts = (
        (_figures(status, short=False), cell_len(model)),
        (_figures(status, short=True), min(cell_len(model), SHORTEST_NAME)),
        (_context(status), 0),
    )
    for figures, least_name in layouts:
        room = width - cell_len(state) - cell_len(figures) - 2 * len(GAP)
        if room >= least_name:
            break
    has_room = room >= min(cell_len(model), SHORTEST_NAME)
    name = shorten(model, room) if has_room else ""
    gap = width - cell_len(state) - len(GAP) - cell_len(name) - cell_len(figures)
    style = "$text-warning bold" if status.nearly_full else ""
    return Content.assemble((state, "bold"), GAP, name, " " * max(1, gap), (figures, style))


def _state(status: Status) -> str:
    elapsed = "" if status.elapsed_s is None else f" {status.elapsed_s:.1f} s"
    private = f"private{SEPARATOR}" if status.private else ""
    return f"{private}{status.state}{elapsed}"


def _figures(status: Status, *, short: bool) -> str:
    timing, parts = status.timing, []
    if timing.first_token_s is not None:
        parts.append(f"{'TTFT' if short else 'first token'} {timing.first_token_s:.2f} s")
    if timing.decode_tokens_per_s is not None:
        parts.append(f"{timing.decode_tokens_per_s:.1f} {'tok/s' if short else 'tokens/s'}")
    return SEPARATOR.join([*parts, _context(status)])


def _context(status: Status) -> str:
    if not status.context_length:
        return ""
    warning = "nearly full! " if status.nearly_full else ""
    if status.left_out:
        plural = "" if status.left_out == 1 else "s"
        warning = f"{status.left_out} turn{plural} left out, "
    return f"{warning}context {status.timing.context_tokens} of {status.context_length}"


class StatusLine(Widget):
    """Shows a `Status`."""

    status: reactive[Status] = reactive(Status(""), init=False)

    def __init__(self, status: Status) -> None:
        super().__init__()
        self.set_reactive(StatusLine.status, status)

    def change(self, **changes: Any) -> None:
        """Show the status with these fields replaced."""
        self.status = replace(self.status, **changes)

    def render(self) -> Content:
        """Render the status to the width there is."""
        return status_line(self.status, self.content_size.width)
