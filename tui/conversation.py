"""A chat as plain data: questions and answers in a tree, and the branch that is being read.

Nothing is ever overwritten: an edited question and a second answer become new branches beside
the old ones. Knows nothing of widgets, threads, engines or disks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from uuid import uuid4

from runtimes.base import Message, Sampling

Ending = Literal["stop", "length", "context", "stopped", "interrupted"]
TITLE_CHARACTERS = 60


def new_id() -> str:
    """Return an identifier that no other chat or entry has: 32 hexadecimal digits, random."""
    return uuid4().hex


@dataclass(frozen=True, slots=True)
class Attachment:
    """A text file that goes along with a question; `tokens` as the model of that time counted."""

    name: str
    text: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What the user asked. `parent` is the answer before it, None at the start of a chat.

    `at` is in seconds since 1970, here and everywhere in a chat.
    """

    id: str
    parent: str | None
    text: str
    attachments: tuple[Attachment, ...] = ()
    at: float = field(default_factory=time.time)

    @property
    def content(self) -> str:
        """Return the text as the model is sent it: the attachments first, each in a fence."""
        parts = [_fenced(attachment) for attachment in self.attachments]
        return "\n\n".join([*parts, self.text])


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote to the question `parent`.

    `ending` is the runtime's `Finish`, "stopped" by the user, or "interrupted": the program ended
    first, or is still writing. `model` is the artifact's name; `tokens` and the speed are of this
    answer alone.
    """

    id: str
    parent: str
    text: str
    ending: Ending = "interrupted"
    model: str = ""
    tokens: int = 0
    first_token_s: float | None = None
    decode_tokens_per_s: float | None = None
    at: float = field(default_factory=time.time)

    def note(self) -> str:
        """Return what a reader should know of how it ended, or nothing if it ended by itself."""
        match self.ending:
            case "stopped":
                return "stopped"
            case "interrupted":
                return "interrupted: this is not the whole answer"
            case "length":
                return f"cut off after {self.tokens} tokens, the limit of this chat"
            case "context":
                return "cut off: the context is full"
            case "stop":
                return "" if self.text.strip() else "the model answered nothing"


Entry = Question | Answer


class Turn(NamedTuple):
    """A question and the answer to it that is being read, if there is one yet."""

    question: Question
    answer: Answer | None


@dataclass(frozen=True, slots=True)
class Persona:
    """A named system prompt."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Chat:
    """The facts of a chat. `head` is the entry at the end of the branch that is being read.

    `system` is the system prompt as it is sent, `persona` the name it came from or "". `model` is
    the artifact that answered last. `sampling` None means the one given on the command line.
    """

    id: str
    title: str = ""
    made_at: float = field(default_factory=time.time)
    changed_at: float = field(default_factory=time.time)
    head: str | None = None
    system: str = ""
    persona: str = ""
    model: str = ""
    sampling: Sampling | None = None


class Conversation:
    """The tree of a chat. The entries come in any order; one without its parent starts a branch."""

    def __init__(self, entries: Iterable[Entry] = (), head: str | None = None) -> None:
        self._entries = {entry.id: entry for entry in sorted(entries, key=lambda e: e.at)}
        self.head: str | None = None
        if head in self._entries:
            self.head = head
        elif self._entries:  # the newest
            self.head = next(reversed(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, entry_id: str) -> Entry:
        """Return an entry. Raises KeyError."""
        return self._entries[entry_id]

    def entries(self) -> list[Entry]:
        """Return all entries of all branches, oldest first."""
        return list(self._entries.values())

    def turns(self) -> list[Turn]:
        """Return the branch that ends at the head, oldest turn first."""
        return self._turns_to(self.head)

    def turns_before(self, question: Question) -> list[Turn]:
        """Return the turns that lead to `question`, oldest first, without its own."""
        return self._turns_to(question.parent)

    def _turns_to(self, entry_id: str | None) -> list[Turn]:
        turns: list[Turn] = []
        seen: set[str] = set()  # a damaged store may hold a circle
        answer: Answer | None = None
        while entry_id in self._entries and entry_id not in seen:
            seen.add(entry_id)
            entry = self._entries[entry_id]
            if isinstance(entry, Question):
                turns.append(Turn(entry, answer))
                answer = None
            else:
                answer = entry
            entry_id = entry.parent
        return turns[::-1]

    def put(self, entry: Entry) -> None:
        """Add `entry` and make it the head, or replace the one with its id where it stands."""
        if entry.id not in self._entries:
            self.head = entry.id
        self._entries[entry.id] = entry

    def remove(self, question: Question) -> None:
        """Take back a question that has no answer; the head moves to what was before it."""
        del self._entries[question.id]
        if self.head == question.id:
            self.head = question.parent

    def versions(self, entry: Entry) -> list[Entry]:
        """Return `entry` and what stands beside it on other branches, oldest first."""
        return [other for other in self._entries.values() if self._same_place(entry, other)]

    def _same_place(self, left: Entry, right: Entry) -> bool:
        return left.parent == right.parent and isinstance(left, type(right))

    def turn_versions(self, question: Question) -> list[Turn]:
        """Return every version of a turn, oldest first: all wordings, each with all its answers."""
        turns: list[Turn] = []
        for wording in self.versions(question):
            if isinstance(wording, Question):
                turns += [Turn(wording, answer) for answer in self.answers(wording)]
        return sorted(turns, key=lambda turn: (turn.answer or turn.question).at)

    def answers(self, question: Question) -> Sequence[Answer | None]:
        """Return the answers to `question`, oldest first, or a None where there is none."""
        answers = [
            entry
            for entry in self._entries.values()
            if isinstance(entry, Answer) and entry.parent == question.id
        ]
        return answers or [None]

    def choose(self, entry: Entry) -> None:
        """Read the branch of `entry`: the head becomes the newest entry that follows from it."""
        self.head = entry.id
        children = {e.parent: e.id for e in self._entries.values()}  # the newest child wins
        seen: set[str] = set()
        while self.head in children and self.head not in seen:
            seen.add(self.head)
            self.head = children[self.head]

    def messages(self, question: Question, system: str = "", left_out: int = 0) -> list[Message]:
        """Return what the model is sent to answer `question`: the system prompt, all but the first
        `left_out` turns that lead to it, and the question itself.
        """
        messages = [Message("system", system)] if system else []
        for turn in self._turns_to(question.parent)[left_out:]:
            messages.append(Message("user", turn.question.content))
            messages.append(Message("assistant", turn.answer.text if turn.answer else ""))
        return [*messages, Message("user", question.content)]


def title_of(question: str) -> str:
    """Return a title for a chat that begins with `question`: its first line, shortened."""
    lines = [line.strip() for line in question.splitlines() if line.strip()]
    line = " ".join(lines[0].split()) if lines else ""
    if len(line) <= TITLE_CHARACTERS:
        return line
    return line[: TITLE_CHARACTERS - 1].rsplit(" ", 1)[0] + "…"


def _fenced(attachment: Attachment) -> str:
    """Return an attachment as a Markdown fence that its own backticks cannot close."""
    longest = max((len(run) for run in _backticks(attachment.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{attachment.name}:\n{fence}\n{attachment.text.rstrip()}\n{fence}"


def _backticks(text: str) -> Sequence[str]:
    return "".join(c if c == "`" else " " for c in text).split()
