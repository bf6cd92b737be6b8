"""What the terminal's driver tells the app. Apart from it, as the driver needs a POSIX system."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message


@dataclass
class Ended(Message):
    """Save and leave with this exit code: the terminal has gone, or a signal came. May repeat."""

    exit_code: int


class Drained(Message):
    """The terminal has taken all that was written."""
