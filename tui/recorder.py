"""The chat that is open, and its way to the store: what is asked and answered is saved at once.

Between a screen or lines and a `ChatStore`. A question is on the disk before the model is asked,
a growing answer every two seconds, a finished one when `finish` returns. Knows no widget and no
engine.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError, InputError
from tui.conversation import Answer, Chat, Conversation, Entry, Question, new_id, title_of
from tui.timing import Clock, Timing

if TYPE_CHECKING:
    from runtimes.base import Sampling
    from tui.store.chats import ChatStore

SAVE_EVERY_S = 2.0
OPEN = "open"
DRAFT = "draft"
_UNKNOWN = ""
"""No id: what the store's note says was not written by this program, or is not known."""


class Recorder:
    """Holds one chat at a time: its facts in `chat`, its tree in `conversation`.

    An empty chat is never stored. Every method may be called from any thread. A save that fails
    (GateError: the disk is full) changes nothing of what is held here: the next save, whatever it
    is for, writes what the failed one could not.

    The store's note "open" names the chat that is open: it is still there when a program that
    was killed is started again. `damage` says what of the chat that was opened last could not be
    read.
    """

    def __init__(
        self, store: ChatStore, *, model: str = "", system: str = "", clock: Clock = time.monotonic
    ) -> None:
        self._store = store
        self._model = model
        self._system = system
        self._clock = clock
        self._lock = threading.RLock()
        self._unsaved: dict[str, Entry] = {}
        self._answer: Answer | None = None
        self._head_before: str | None = None
        self._saved_at = 0.0
        self._noted: str | None = _UNKNOWN
        self._withdrawn: set[str] = set()
        self._sent = False  # what was typed is a question now, and no draft any more
        self.damage: list[str] = []
        self._begin_chat(Chat(new_id(), system=system, model=model), Conversation())

    def _begin_chat(self, chat: Chat, conversation: Conversation) -> None:
        self.chat = chat
        self.conversation = conversation
        self._unsaved.clear()
        self._withdrawn.clear()
        self._answer = None
        self.damage = []

    # Which chat

    def start(self) -> None:
        """Leave this chat, which is kept, for an empty one with the first system prompt."""
        with self._lock:
            self._flush()
            self._begin_chat(Chat(new_id(), system=self._system, model=self._model), Conversation())
            self._note_open(None)

    def open(self, chat_id: str) -> None:
        """Leave this chat for a stored one. Raises InputError if it is not there."""
        with self._lock:
            self._flush()
            chat, entries, damage = self._store.load(chat_id)
            self._begin_chat(chat, Conversation(entries, chat.head))
            self.damage = damage
            self._note_open(chat_id)

    def refresh(self) -> None:
        """Take in a new title, or start an empty chat if this one was deleted elsewhere."""
        with self._lock:
            if not len(self.conversation):
                return
            listed = {chat.id: chat for chat in self._store.chats()}
            if self.chat.id in listed:
                self.chat = replace(self.chat, title=listed[self.chat.id].title)
            elif not self._unsaved:
                self._begin_chat(
                    Chat(new_id(), system=self._system, model=self._model), Conversation()
                )
                self._note_open(None)

    def delete(self) -> None:
        """Delete this chat for good, and start an empty one."""
        with self._lock:
            self._store.delete_chat(self.chat.id)
            self._unsaved.clear()
            self.start()

    def close(self) -> None:
        """Save what is not saved yet, and note that the chat ended well."""
        with self._lock:
            self._flush()
            if self._store.note(OPEN) == self.chat.id:
                self._noted = _UNKNOWN
                self._note_open(None)

    def rename_chat(self, chat_id: str, title: str) -> None:
        """Give any chat a title, the one that is open among them."""
        with self._lock:
            if chat_id == self.chat.id:
                self.rename(title)
                return
            for chat in self._store.chats():
                if chat.id == chat_id:
                    self._store.save_chat(replace(chat, title=_line(title)))

    def delete_chat(self, chat_id: str) -> None:
        """Delete any chat for good; if it is the one that is open, start an empty one."""
        with self._lock:
            if chat_id == self.chat.id:
                self.delete()
            else:
                self._store.delete_chat(chat_id)

    # Its facts

    def rename(self, title: str) -> None:
        """Give this chat a title."""
        self._change(title=_line(title))

    def set_model(self, name: str) -> None:
        """Note which artifact answers from now on."""
        with self._lock:
            self._model = name
            self._change(model=name)

    def set_system(self, text: str, persona: str = "") -> None:
        """Set the system prompt, and the name of the persona it is of."""
        self._change(system=text, persona=persona)

    def set_sampling(self, sampling: Sampling) -> None:
        """Set how this chat chooses its next token."""
        self._change(sampling=sampling)

    def save_head(self) -> None:
        """Note which branch is being read."""
        self._change(head=self.conversation.head)

    def _change(self, **facts: object) -> None:
        with self._lock:
            self.chat = replace(self.chat, **facts)  # type: ignore[arg-type]
            if len(self.conversation):
                self._save()

    # Questions and answers

    @property
    def answer_id(self) -> str:
        """Return the id of the answer that is under way, "" if there is none."""
        return self._answer.id if self._answer else ""

    def begin(self, question: Question, answer_id: str | None = None) -> None:
        """Save `question`, which is now at the head and to be answered; it may be there already.

        A new one takes the place of the draft: after a kill it is not typed there once more.
        The answer will have the id `answer_id`, or a new one: see the property.
        """
        with self._lock:
            is_new = question.id not in {entry.id for entry in self.conversation.entries()}
            self._answer = Answer(answer_id or new_id(), question.id, "", model=self._model)
            self._saved_at = self._clock()
            self._head_before = self.conversation.head
            if is_new:
                self.conversation.put(question)
                self._unsaved[question.id] = question
                self._sent = True
                title = self.chat.title or _title(question)
                self.chat = replace(
                    self.chat, title=title, head=question.id, changed_at=question.at
                )
            # The stored head stays at the old answer until there is something of the new one.
            self.conversation.head = question.id
            self._flush()

    def progress(self, text: str, timing: Timing) -> None:
        """Save what is written so far, as interrupted, unless it was saved a moment ago."""
        with self._lock:
            due = self._clock() - self._saved_at >= SAVE_EVERY_S
            if self._answer is None or not text or not due:
                return
            self._keep(_timed(replace(self._answer, text=text), timing))
            try:
                self._save()
            finally:
                self._saved_at = self._clock()

    def finish(self, answer: Answer) -> Answer:
        """Save the answer under way as it ended; return it as saved, with the id it has had.

        Does nothing if there is none under way: the chat may have been deleted meanwhile.
        """
        with self._lock:
            if self._answer is None or answer.parent != self._answer.parent:
                return answer
            answer = replace(answer, id=self._answer.id)
            self._answer = None
            self._keep(answer)
            self._save()
            return answer

    def withdraw(self, question: Question) -> None:
        """Take back a question that got no answer, out of the store too.

        The branch ends where it did before. A question that had answers before stays with them.
        """
        with self._lock:
            if self._answer is None or self._answer.parent != question.id:
                return
            self._answer = None
            self.conversation.head = self._head_before
            known = {entry.id for entry in self.conversation.entries()}
            if question.id not in known or any(self.conversation.answers(question)):
                return  # deleted meanwhile, or asked once more
            self._unsaved.pop(question.id, None)
            self.conversation.remove(question)
            if len(self.conversation):
                self._withdrawn.add(question.id)
                self._change(head=self.conversation.head)
            else:
                self._store.delete_chat(self.chat.id)
                self.chat = replace(self.chat, head=None, title="")
                self._note_open(None)

    def _keep(self, answer: Answer) -> None:
        self.conversation.put(answer)
        self._unsaved[answer.id] = answer
        model = answer.model or self.chat.model
        self.chat = replace(
            self.chat, head=self.conversation.head, changed_at=time.time(), model=model
        )

    # The store

    def save_draft(self, text: str) -> None:
        """Keep the text that is typed but not sent."""
        self._store.set_note(DRAFT, text or None)

    def _flush(self) -> None:
        if self._unsaved or self._withdrawn:
            self._save()

    def _save(self) -> None:
        """Write the chat, what is not saved of it and that it is open, in one commit."""
        notes = {} if self._noted == self.chat.id else {OPEN: self.chat.id}
        if self._sent and self._store.note(DRAFT):
            notes[DRAFT] = ""
        self._store.save_all(self.chat, list(self._unsaved.values()), notes)
        self._noted, self._sent = self.chat.id, False
        self._unsaved.clear()
        for question_id in sorted(self._withdrawn):
            with contextlib.suppress(InputError):  # answered in another window: it stays
                self._store.delete_entry(self.chat.id, question_id)
            self._withdrawn.discard(question_id)

    def _note_open(self, chat_id: str | None) -> None:
        if chat_id == self._noted:
            return
        # Without the note the chat is not opened by itself next time, and nothing else is lost.
        with contextlib.suppress(EdgekitError):
            self._store.set_note(OPEN, chat_id)
            self._noted = chat_id


def _line(title: str) -> str:
    return " ".join(title.split())


def _title(question: Question) -> str:
    named = question.text, *(attachment.name for attachment in question.attachments)
    return next(filter(None, map(title_of, named)), "untitled")


def _timed(answer: Answer, timing: Timing) -> Answer:
    return replace(
        answer,
        tokens=timing.tokens,
        first_token_s=timing.first_token_s,
        decode_tokens_per_s=timing.decode_tokens_per_s,
    )
