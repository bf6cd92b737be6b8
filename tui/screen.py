"""The chat's screen: what happens when a key is pressed and when the model reports.

It knows a `Runtime` and nothing of files, formats or devices. The model loads and answers in
threads (`tui.session`) and reports by messages, so nothing here waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Markdown

from edgekit.errors import EdgekitError
from tui.clean import clean_line
from tui.conversation import Answer, Conversation, Turn
from tui.messages import AnswerEnded, AnswerGrew, ModelFailed, ModelLoaded, QuestionSubmitted
from tui.prompt import Prompt, PromptBar
from tui.session import Session
from tui.status import State, Status, StatusLine
from tui.timing import Clock, Timing
from tui.transcript import Notice, Transcript, TurnView, Welcome

if TYPE_CHECKING:
    from runtimes.base import Runtime, Sampling
    from tui.app import ChatApp

TICK_S = 0.25


class ChatScreen(Screen[None]):
    """One model and one conversation. `_active` is the turn that is being answered."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "stop the answer", key_display="Esc"),
        Binding("ctrl+r", "regenerate", "answer again", key_display="Ctrl+R"),
        Binding("ctrl+y", "copy", "copy the last answer", key_display="Ctrl+Y", priority=True),
        Binding("ctrl+n", "new_chat", "new chat", key_display="Ctrl+N"),
        Binding("pageup", "scroll(-1)", "scroll up", key_display="PageUp", priority=True),
        Binding("pagedown", "scroll(1)", "scroll down", key_display="PageDown", priority=True),
        Binding("ctrl+end", "follow", "back to the end", key_display="Ctrl+End"),
        Binding(
            "ctrl+c",
            "interrupt",
            "stop the answer, or copy what is marked",
            key_display="Ctrl+C",
            priority=True,
        ),
    ]

    app: ChatApp

    def __init__(
        self,
        open_runtime: Callable[[], Runtime],
        model: str,
        sampling: Sampling,
        system: str | None,
        clock: Clock,
    ) -> None:
        super().__init__()
        self._model = model
        self._sampling = sampling
        self._clock = clock
        self._session = Session(open_runtime, self.post_message, clock)
        self._conversation = Conversation(system)
        self._active: TurnView | None = None
        self._since = clock()
        self._timing_before = Timing()

    def compose(self) -> ComposeResult:
        """Draw the conversation, the prompt below it and the status line at the bottom."""
        yield Transcript(Welcome(self._model))
        yield PromptBar(self._clock)
        yield StatusLine(Status(self._model))

    def on_mount(self) -> None:
        """Show the screen first, then load the model."""
        self.transcript = self.query_one(Transcript)
        self.bar = self.query_one(PromptBar)
        self.prompt = self.query_one(Prompt)
        self.status = self.query_one(StatusLine)
        self.prompt.focus()
        self._enter(State.LOADING)
        self._tick()
        self.set_interval(TICK_S, self._tick)
        self.call_after_refresh(self._session.load)

    def on_unmount(self) -> None:
        """Free the model."""
        self._session.close()

    def _enter(self, state: State, **changes: Any) -> None:
        self._since = self._clock()
        waiting = state in (State.LOADING, State.THINKING)
        self.status.change(state=state, elapsed_s=0.0 if waiting else None, **changes)

    def _tick(self) -> None:
        """Show what time changes: how long the user has waited, and the key to know now."""
        if self.status.status.elapsed_s is not None:
            self.status.change(elapsed_s=self._clock() - self._since)
        if not self.transcript.is_vertical_scroll_end:
            self.bar.advise("Ctrl+End: more below")
        else:
            self.bar.advise("Esc: stop" if self._active is not None else "F1: keys")

    # What the model reports

    @on(ModelLoaded)
    def _model_loaded(self, event: ModelLoaded) -> None:
        self._session.loaded(event.runtime)
        self._enter(State.READY, context_length=event.runtime.context_length)
        if self._active is not None:
            self._ask(self._active.turn)

    @on(ModelFailed)
    async def _model_failed(self, event: ModelFailed) -> None:
        self._session.failed()
        self._enter(State.NO_MODEL)
        await self._fail(event.error)

    @on(AnswerGrew)
    def _answer_grew(self, event: AnswerGrew) -> None:
        if self._active is None:  # the user has left for a new chat
            return
        if self.status.status.state is State.THINKING:
            self._enter(State.WRITING)
        self.status.change(timing=event.timing)
        self._active.write(event.text)

    @on(AnswerEnded)
    async def _answer_ended(self, event: AnswerEnded) -> None:
        outcome, view = event.outcome, self._active
        self._session.ended(outcome)
        self._enter(State.NO_MODEL if self._session.runtime is None else State.READY)
        if view is None:
            return
        if outcome.ending is None:
            await self._fail(outcome.error)
        elif outcome.ending == "stopped" and not view.written:
            await self._withdraw()
        else:
            self._active = None
            self.status.change(timing=outcome.timing)
            answer = Answer(view.written, outcome.ending)
            self._conversation.record(view.turn, answer)
            await view.end(answer.note(self._sampling))

    # Asking, and taking back

    @on(QuestionSubmitted)
    async def _question_submitted(self, event: QuestionSubmitted) -> None:
        if self._busy():
            self.prompt.give_back(event.text)
            return
        view = TurnView(Turn(event.text))
        await self.transcript.add(view)
        await self._begin(view)

    def _busy(self) -> bool:
        """Return whether an answer is under way, and if so tell the user."""
        if self._active is None and not self._session.answering:
            return False
        self.bar.remark("one answer at a time: Esc stops this one")
        return True

    async def _begin(self, view: TurnView) -> None:
        self._active = view
        self._timing_before = self.status.status.timing
        await view.begin()
        self._ask(view.turn)

    def _ask(self, turn: Turn) -> None:
        """Ask for an answer to `turn`, as soon as there is a model."""
        if self._session.runtime is not None:
            taken = self._timing_before.context_tokens
            self._enter(State.THINKING, timing=Timing(prompt_tokens=taken))
            self._session.ask(self._conversation.messages(turn), turn.next_sampling(self._sampling))
        elif not self._session.loading:
            self._enter(State.LOADING)
            self._session.load()

    async def _fail(self, error: Exception | None) -> None:
        """Take the question back and explain what happened."""
        await self._withdraw()
        if isinstance(error, EdgekitError):
            notice = Notice(error.message, error.hint)
        else:
            self.app.bug = self.app.bug or error
            notice = Notice(
                f"{type(error).__name__}: {error}",
                "this is a bug of edgekit; the details are printed when you quit",
            )
        await self.transcript.add(notice)

    async def _withdraw(self) -> None:
        """Leave the conversation as it was before the question; give back what was typed."""
        view, self._active = self._active, None
        if view is None:
            return
        self.status.change(timing=self._timing_before)
        if (answer := view.turn.answer) is not None:
            await view.restore(answer.text, answer.note(self._sampling))
            return
        if view.written:
            await view.end("failed, and not part of this chat")
        else:
            await view.remove()
        self.prompt.give_back(view.turn.question)

    # Keys

    async def action_stop(self) -> None:
        """Stop the answer, or take back a question that waits for the model."""
        if self._session.answering:
            self._enter(State.STOPPING)
            self._session.stop()
        elif self._active is not None:
            await self._withdraw()

    async def action_interrupt(self) -> None:
        """Ctrl+C: stop, else copy what is marked, else say how to quit."""
        marked = self.prompt.selected_text or self.get_selected_text()
        if self._active is not None or self._session.answering:
            await self.action_stop()
        elif marked:
            self._copy(marked)
        else:
            self.bar.remark("Ctrl+Q quits")

    async def action_regenerate(self) -> None:
        """Answer the last question again. The old answer stays until the new one has ended."""
        turns = self._conversation.turns
        views = [view for view in self.query(TurnView) if turns and view.turn is turns[-1]]
        if not views:
            self.bar.remark("there is no answer yet")
        elif not self._busy():
            if self._sampling.temperature == 0:
                self.bar.remark("temperature is 0: the same answer will come again")
            self.transcript.anchor()
            await self._begin(views[0])

    async def action_new_chat(self) -> None:
        """Leave this conversation for an empty one; what is typed stays."""
        await self.action_stop()
        self._active = None
        self._conversation = Conversation(self._conversation.system)
        self.status.change(timing=Timing())
        await self.transcript.remove_children()
        await self.transcript.add(Welcome(self._model))

    def action_copy(self) -> None:
        """Copy the last answer as the Markdown that the model wrote."""
        answers = [turn.answer.text for turn in self._conversation.turns if turn.answer]
        if answers:
            self._copy(answers[-1])
        else:
            self.bar.remark("there is no answer yet")

    def _copy(self, text: str) -> None:
        self.app.copy_to_clipboard(text)
        self.bar.remark(f"{len(text)} characters sent to the terminal's clipboard")

    def action_scroll(self, pages: int) -> None:
        """Scroll the conversation by a page, up or down."""
        if pages < 0:
            self.transcript.scroll_page_up(animate=False)
        else:
            self.transcript.scroll_page_down(animate=False)

    def action_follow(self) -> None:
        """Go to the end, and stay there as the answer grows."""
        self.transcript.anchor()

    @on(Markdown.LinkClicked)
    def _link_clicked(self, event: Markdown.LinkClicked) -> None:
        self.bar.remark(f"not opened: {clean_line(event.href)}")
