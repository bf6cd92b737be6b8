"""What the parts of the chat tell each other; posted from threads and widgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from textual.message import Message

from tui.answering import Outcome
from tui.timing import Timing

if TYPE_CHECKING:
    from runtimes.base import Runtime
    from tui.context import Fitted
    from tui.conversation import Question

TurnAction = Literal["edit", "retry", "older", "newer", "copy", "up", "down", "leave"]


@dataclass
class ModelLoaded(Message):
    """The runtime is open."""

    runtime: Runtime


@dataclass
class ModelFailed(Message):
    """The runtime could not be opened."""

    error: Exception


@dataclass
class PromptFitted(Message):
    """It is known what of the conversation the model is sent."""

    fitted: Fitted


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
    """The user sends `text`, which may be a command."""

    text: str


@dataclass
class PromptChanged(Message):
    """The text in the prompt is another one."""

    text: str


@dataclass
class TurnKey(Message):
    """A key was pressed on a turn. `number` is of a code block, 0 for the whole answer."""

    question: Question
    action: TurnAction
    number: int = 0
