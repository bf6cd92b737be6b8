"""What the parts of the chat tell each other. Posted from threads and widgets, read by the app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.message import Message

from tui.answering import Outcome
from tui.timing import Timing

if TYPE_CHECKING:
    from runtimes.base import Runtime


@dataclass
class ModelLoaded(Message):
    """The runtime is open."""

    runtime: Runtime


@dataclass
class ModelFailed(Message):
    """The runtime could not be opened."""

    error: Exception


@dataclass
class AnswerGrew(Message):
    """The model wrote `text`; it is clean."""

    text: str
    timing: Timing


@dataclass
class AnswerEnded(Message):
    """No more text will come for this question."""

    outcome: Outcome


@dataclass
class QuestionSubmitted(Message):
    """The user sends `text`."""

    text: str
