"""A form of the sampling values: each with what it means, checked while it is typed."""

from __future__ import annotations

from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Input, Static

from edgekit.errors import UsageError
from runtimes.base import Sampling
from tui.dialogs.frame import Dialog
from tui.dialogs.line_input import LineInput
from tui.sampling_settings import BY_NAME, FIELDS, changed, shown

FIELD_KEYS = {
    "up": "app.focus_previous",
    "down": "app.focus_next",
    "enter": "accept",
    "ctrl+r": "defaults",
}


class SamplingScreen(Dialog[Sampling]):
    """Edits `sampling`; the result is the new one, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "accept", "use")]
    keys = (
        ("Up, Down", "move"),
        ("Ctrl+R", "defaults"),
        ("Enter", "use"),
        ("Esc", "cancel"),
    )

    def __init__(self, sampling: Sampling) -> None:
        super().__init__("Sampling of this chat")
        self._sampling = sampling

    def body(self) -> ComposeResult:
        """Show a line for each value, and below them what is wrong or allowed."""
        for field in FIELDS:
            with Horizontal(classes="field"):
                yield Static("", id=f"sign-{field.name}", classes="sign")
                yield Static(field.name, classes="name")
                yield LineInput(shown(self._sampling, field.name), "random", FIELD_KEYS, field.name)
                yield Static(Content(field.meaning), classes="meaning")
        yield Static(classes="detail")

    @property
    def _inputs(self) -> list[LineInput]:
        return list(self.query(LineInput))

    def _edited(self) -> Sampling:
        """Return what the form says. Raises UsageError for the first value that cannot be."""
        sampling = self._sampling
        for line in self._inputs:
            sampling = changed(sampling, str(line.id), line.value)
        return sampling

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        self._check()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Say what the value under the cursor may be."""
        self._check()

    def _check(self) -> None:
        """Put a sign before each bad value; explain the one under the cursor, else the first."""
        problems = {str(line.id): self._problem(line) for line in self._inputs}
        for name, problem in problems.items():
            self.query_one(f"#sign-{name}", Static).update("!" if problem else "")
        here = str(self.focused.id) if isinstance(self.focused, LineInput) else ""
        text = problems.get(here) or next(filter(None, problems.values()), "")
        if not text and here in BY_NAME:
            text = f"{here}: {BY_NAME[here].allowed}"
        self.query_one(".detail", Static).update(Content(text))

    def _problem(self, line: LineInput) -> str:
        try:
            changed(self._sampling, str(line.id), line.value)
        except UsageError as error:
            return error.message
        return ""

    def action_defaults(self) -> None:
        """Fill in what a chat has that nobody changed."""
        for line in self._inputs:
            line.value = shown(Sampling(), str(line.id))

    def action_accept(self) -> None:
        """Close with the form's values, or go to the first that is wrong."""
        for line in self._inputs:
            if self._problem(line):
                line.focus()
                return
        self.dismiss(self._edited())
