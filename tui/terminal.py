"""What the terminal can do, asked before anything is drawn on it. Imports no Textual."""

from __future__ import annotations

import os
import sys


def can_draw() -> bool:
    """Return whether a full-screen chat is possible; the line mode (`tui.plain`) always is.

    Standard error counts too: that is where Textual draws.
    """
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    on_terminal = all(stream is not None and stream.isatty() for stream in streams)
    return on_terminal and os.environ.get("TERM", "dumb") != "dumb"


def has_few_colours() -> bool:
    """Return whether the user wants no colour, or the terminal has no more than sixteen."""
    from rich.console import Console

    if os.environ.get("NO_COLOR"):
        return True
    return Console(force_terminal=True).color_system not in ("256", "truecolor")
