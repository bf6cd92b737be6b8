"""The chat's screen: which key does what, what is drawn where, and when the store is written.

It knows a `Runtime` and nothing of files, formats or devices. The model loads and answers in
threads (`tui.session`) and reports by messages, so nothing here waits for it. How a question is
answered is in `tui.asking`, what commands do in `tui.actions`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Markdown, Static, TextArea

from edgekit.errors import EdgekitError
from tui.actions import run
from tui.actions.chats import look_through
from tui.asking import Asking
from tui.clean import clean_line
from tui.commands import BY_NAME, Call, parse, unescaped
from tui.conversation import Attachment, Conversation, Question, Turn, new_id
from tui.messages import (
    AnswerEnded,
    AnswerGrew,
    ModelFailed,
    ModelLoaded,
    PromptFitted,
    QuestionSubmitted,
    TurnKey,
)
from tui.naming import heading, model_name
from tui.prompt import Completions, Prompt, PromptBar
from tui.recorder import Recorder
from tui.session import Session
from tui.status import State, Status, StatusLine
from tui.timing import Clock, Timing
from tui.transcript import Notice, Transcript, Welcome
from tui.turn_view import TurnView

if TYPE_CHECKING:
    from runtimes.base import Sampling
    from tui.app import ChatApp
    from tui.setup import ChatSetup

TICK_S = 0.25
# Half the time between two saves of the recorder, which would else miss its moment by a little.
SAVE_EVERY_S = 1.0


class ChatScreen(Screen[None]):
    """One model and one chat."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "stop the answer", key_display="Esc"),
        Binding("ctrl+c", "interrupt", "stop, or copy", key_display="Ctrl+C", priority=True),
        Binding("pageup", "scroll(-1)", "scroll", key_display="PageUp", priority=True),
        Binding("pagedown", "scroll(1)", show=False, priority=True),
        Binding("ctrl+end", "follow", "back to the end", key_display="Ctrl+End"),
        Binding("ctrl+p", "palette", "find a command", key_display="Ctrl+P", priority=True),
        Binding("ctrl+n", "run('new')", show=False, priority=True),
        Binding("ctrl+o", "run('chats')", show=False, priority=True),
        Binding("ctrl+e", "run('edit')", show=False, priority=True),
        Binding("ctrl+r", "run('retry')", show=False, priority=True),
        Binding("ctrl+y", "run('copy')", show=False, priority=True),
        Binding("f2", "run('model')", show=False),
        Binding("f3", "run('persona')", show=False),
        Binding("f4", "run('set')", show=False),
    ]

    app: ChatApp

    def __init__(self, setup: ChatSetup, clock: Clock) -> None:
        super().__init__()
        self.setup = setup
        self.model = setup.model
        self.session = Session(setup.open_runtime, self.post_message, clock)
        self.recorder = Recorder(setup.store, model=setup.model, system=setup.system)
        self.attachments: list[Attachment] = []
        self.asking = Asking(self)
        self._clock = clock
        self._since = clock()
        self._saving = asyncio.Lock()
        self.draft_saved = ""

    def compose(self) -> ComposeResult:
        """Draw the conversation, the prompt below it and the status line at the bottom."""
        yield Transcript()
        yield Completions()
        yield Static(id="attached", markup=False)
        yield PromptBar(self._clock)
        yield StatusLine(Status(model_name(self.model), private=bool(self.setup.privacy)))

    async def on_mount(self) -> None:
        """Show the chat first, then load the model."""
        self.transcript = self.query_one(Transcript)
        self.bar = self.query_one(PromptBar)
        self.prompt = self.query_one(Prompt)
        self.status = self.query_one(StatusLine)
        self.prompt.focus()
        self.show_attachments()
        self.enter(State.LOADING)
        await self._resume()
        self._tick()
        self.set_interval(TICK_S, self._tick)
        self.set_interval(SAVE_EVERY_S, self._autosave)
        self.call_after_refresh(self.load_model, self.model)
        self.run_worker(look_through(self.setup.store, self.transcript.add), group="store")

    async def _resume(self) -> None:
        """Open the chat that the setup names, with what was typed in it and not sent."""
        if self.setup.resume is None:
            await self.show_chat()
        else:
            await self.open_chat(self.setup.resume)
        if self.setup.draft:
            self.prompt.give_back(self.setup.draft)

    async def leave(self) -> None:
        """Save what is under way, free the model and note that the chat ended well."""
        await self.asking.finish("stopped", self.status.status.timing)
        await self.save(self.recorder.save_draft, "")
        await self.save(self.recorder.close)
        self.session.close()

    def on_unmount(self) -> None:
        """Free the model, however the screen went away."""
        self.session.close()

    # What is shown

    @property
    def conversation(self) -> Conversation:
        """Return the tree of the chat that is open."""
        return self.recorder.conversation

    @property
    def sampling(self) -> Sampling:
        """Return how this chat chooses the next token."""
        return self.recorder.chat.sampling or self.setup.sampling

    async def show_chat(self, entry_id: str | None = None) -> None:
        """Draw the branch that is being read, and forget what was known of the context.

        The turn with `entry_id`, if that is given, is marked and in sight; else the end is.
        """
        turns = self.conversation.turns()
        at = next((n for n, turn in enumerate(turns) if entry_id in _ids(turn)), None)
        await self.show_turns(turns, at)
        self.asking.forget_context()
        self.prompt.asked.replace(turn.question.text for turn in turns)
        self.status.change(timing=Timing(), left_out=0)
        self.asking.count_context()
        view = self.transcript.view_of(turns[at].question.id) if at is not None else None
        if view is not None:
            view.focus(scroll_visible=False)
            self.transcript.anchor(False)
            self.call_after_refresh(
                self.transcript.scroll_to_widget, view, top=True, animate=False, immediate=True
            )

    async def show_turns(self, turns: Sequence[Turn], at: int | None = None) -> None:
        """Draw these turns, each with the number of its version."""
        await self.transcript.show(turns, await self._welcome(turns), at)
        self.tell_versions()

    async def _welcome(self, turns: Sequence[Turn]) -> Welcome:
        private = "This chat is private: /privacy tells what that means."
        earlier_chats = 0
        if not turns:
            with contextlib.suppress(EdgekitError):  # it says so when it is asked for something
                earlier_chats = len(await asyncio.to_thread(self.setup.store.chats))
        protection = private if self.setup.privacy else ""
        return Welcome(model_name(self.model), protection, earlier_chats)

    def tell_versions(self) -> None:
        """Say under each turn which of its versions is drawn."""
        for view in self.transcript.views:
            versions = self.conversation.turn_versions(view.turn.question)
            if view.turn in versions:
                view.tell_versions(versions.index(view.turn) + 1, len(versions))

    def show_attachments(self) -> None:
        """Name the files that go along with the next question, and what they leave room for."""
        line = self.query_one("#attached", Static)
        line.display = bool(self.attachments)
        status = self.status.status
        tokens = sum(attachment.tokens for attachment in self.attachments)
        left = max(0, status.context_length - status.timing.context_tokens)
        names = ", ".join(clean_line(attachment.name) for attachment in self.attachments)
        verdict = ": too much" if tokens >= left else ""
        line.update(f"with {names}: {tokens} tokens, {left} are left{verdict} (/detach)")

    def give_back(self, question: Question) -> None:
        """Put a question that was not answered back where it was typed."""
        self.attachments = [*question.attachments, *self.attachments]
        self.show_attachments()
        self.prompt.give_back(question.text)

    async def explain(self, error: Exception) -> None:
        """Show a problem in the conversation; a bug of ours is kept for after the end."""
        if isinstance(error, EdgekitError):
            notice = Notice(error.message, error.hint)
        else:
            self.app.bug = self.app.bug or error
            notice = Notice(
                f"{type(error).__name__}: {error}",
                "this is a bug of edgekit; the details are printed when you quit",
            )
        await self.transcript.add(notice)

    def enter(self, state: State, **changes: Any) -> None:
        """Show what the model is doing now, and for how long if the user waits for it."""
        self._since = self._clock()
        waiting = state in (State.LOADING, State.THINKING)
        self.status.change(state=state, elapsed_s=0.0 if waiting else None, **changes)

    def _tick(self) -> None:
        """Show what time changes: how long the user has waited, and the key to know now."""
        if self.status.status.elapsed_s is not None:
            self.status.change(elapsed_s=self._clock() - self._since)
        self.bar.entitle(heading(self.recorder.chat, self.setup.sampling))
        if isinstance(self.focused, TurnView):
            self.bar.advise("E edit  R retry  Left/Right versions  C copy  Esc back")
        elif not self.transcript.is_at_the_end:
            self.bar.advise("Ctrl+End: more below")
        elif self.asking.active is not None:
            self.bar.advise("Esc: stop")
        else:
            self.bar.advise("Shift+Tab: turns  F1: keys" if self.transcript.views else "F1: keys")

    # The store

    async def save(self, function: Callable[..., object], *arguments: object) -> bool:
        """Run a function of the recorder in a thread, in turn; return whether it went well."""
        async with self._saving:
            try:
                await asyncio.to_thread(function, *arguments)
            except EdgekitError as error:
                await self.explain(error)
                return False
        return True

    async def _autosave(self) -> None:
        await self.asking.save_progress()
        if self.prompt.text != self.draft_saved:
            self.draft_saved = self.prompt.text
            await self.save(self.recorder.save_draft, self.draft_saved)

    async def open_chat(self, chat_id: str, entry_id: str | None = None) -> None:
        """Show a stored chat, at the branch with `entry_id` if that is given."""
        if not await self.save(self.recorder.open, chat_id):
            return
        if entry_id is not None and entry_id in {e.id for e in self.conversation.entries()}:
            self.conversation.choose(self.conversation.entry(entry_id))
        await self.show_chat(entry_id)
        for sentence in self.recorder.damage:
            await self.transcript.add(Notice(sentence, title="Damaged"))

    # What the model reports

    def load_model(self, name: str) -> None:
        """Load the artifact `name` in place of the model that is open."""
        self.model = name
        self.enter(State.LOADING, model=model_name(name), context_length=0)
        self.session.load(name)

    @on(ModelLoaded)
    def _model_loaded(self, event: ModelLoaded) -> None:
        self.session.loaded(event.runtime)
        # What is there now will stay: a full garbage collection over all of it, 80 ms, would hold
        # up a key several times in each answer.
        gc.collect()
        gc.freeze()
        self.asking.forget_context()
        self.enter(State.READY, context_length=event.runtime.context_length)
        self.show_attachments()
        self.asking.count_context()
        self.asking.send()

    @on(ModelFailed)
    async def _model_failed(self, event: ModelFailed) -> None:
        self.session.failed()
        self.enter(State.NO_MODEL)
        await self.asking.fail(event.error)

    @on(PromptFitted)
    def _prompt_fitted(self, event: PromptFitted) -> None:
        if event.fitted.left_out > self.status.status.left_out:
            self.bar.remark("the context is full: the oldest turns are no longer sent (/context)")
        self.status.change(left_out=event.fitted.left_out)

    @on(AnswerGrew)
    def _answer_grew(self, event: AnswerGrew) -> None:
        self.asking.grew(event)

    @on(AnswerEnded)
    async def _answer_ended(self, event: AnswerEnded) -> None:
        await self.asking.ended(event)

    # What the user sends, and keys

    @on(QuestionSubmitted)
    async def _question_submitted(self, event: QuestionSubmitted) -> None:
        try:
            call = parse(event.text)
        except EdgekitError as error:
            self.prompt.give_back(event.text)
            self.bar.remark(run.sentences(error))
            return
        if call is not None:
            self.run_command(call)
        elif self.asking.busy():
            self.prompt.give_back(event.text)
        else:
            await self.asking.ask(self._question(unescaped(event.text)))

    def _question(self, text: str) -> Question:
        """Return `text` as the question that comes next, with the files that go along."""
        turns = self.conversation.turns()
        parent = None
        if turns:  # a question that was never answered is asked beside, not after
            last = turns[-1]
            parent = last.answer.id if last.answer else last.question.parent
        attachments, self.attachments = tuple(self.attachments), []
        self.show_attachments()
        return Question(new_id(), parent, text, attachments)

    def run_command(self, call: Call) -> None:
        """Run a command beside the interface, so that it may open dialogs and wait for them."""
        self.run_worker(run.run(self, call), group="command")

    def action_run(self, name: str) -> None:
        """Run the command `name` without an argument."""
        self.run_command(Call(BY_NAME[name], ""))

    def action_palette(self) -> None:
        """Find a command."""
        self.run_worker(run.palette(self), group="command")

    @on(TurnKey)
    def _turn_key(self, event: TurnKey) -> None:
        self.run_worker(run.on_turn(self, event), group="command")

    def action_stop(self) -> None:
        """Stop the answer, or take back a question that waits for the model, or a command."""
        if self.asking.active is None and not self.session.answering:
            self.prompt.drop_command()
            self.bar.hush()
        self.asking.stop()

    def action_interrupt(self) -> None:
        """Ctrl+C: stop, else copy what is marked, else say how to quit."""
        marked = self.prompt.selected_text or self.get_selected_text()
        if self.asking.active is not None or self.session.answering:
            self.asking.stop()
        elif marked:
            self.copy(marked)
        else:
            self.bar.remark("Ctrl+Q quits")

    def copy(self, text: str) -> None:
        """Send `text` to the clipboard of the terminal (OSC 52)."""
        self.app.copy_to_clipboard(text)
        self.bar.remark(f"{len(text)} characters sent to the terminal's clipboard")

    async def action_scroll(self, pages: int) -> None:
        """Scroll the conversation by a page, up or down."""
        if pages > 0:
            if self.transcript.is_vertical_scroll_end:
                await self.transcript.show_later()
            self.transcript.scroll_page_down(animate=False)
        elif self.transcript.scroll_offset.y > 0 or not await self.transcript.show_earlier():
            self.transcript.scroll_page_up(animate=False)

    async def action_follow(self) -> None:
        """Go to the end, and stay there as the answer grows."""
        if self.transcript.has_later:
            await self.show_turns(self.conversation.turns())
        self.transcript.anchor()

    @on(TextArea.Changed)
    def _typed(self, event: TextArea.Changed) -> None:
        self.query_one(Completions).offer(event.text_area.text)

    @on(Markdown.LinkClicked)
    def _link_clicked(self, event: Markdown.LinkClicked) -> None:
        self.bar.remark(f"not opened: {clean_line(event.href)}")


def _ids(turn: Turn) -> tuple[str, ...]:
    return (turn.question.id, turn.answer.id) if turn.answer else (turn.question.id,)
