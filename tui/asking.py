"""One question on its way: asked, answered, stopped, failed or taken back.

Owned by the screen, which tells it what the model reports. It saves before it shows: an answer
that looks finished is on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError
from tui import context
from tui.conversation import Answer, Conversation, Ending, Question, Turn, new_id
from tui.messages import AnswerEnded, AnswerGrew, PromptFitted
from tui.status import State
from tui.timing import Timing
from tui.turn_view import TurnView

if TYPE_CHECKING:
    from runtimes.base import Message, Runtime, Sampling
    from tui.screen import ChatScreen


class Asking:
    """At most one question at a time. `active` is its view, None when nothing is under way."""

    def __init__(self, screen: ChatScreen) -> None:
        self._screen = screen
        self.active: TurnView | None = None
        self.fitter = context.ContextFitter()
        self._waiting = False  # drawn and saved, but not sent yet
        self._answer_id = ""
        self._timing_before = Timing()
        self._idle = asyncio.Event()
        self._idle.set()

    def busy(self) -> bool:
        """Return whether an answer is under way, and if so tell the user."""
        if self.active is None and not self._screen.session.answering:
            return False
        self._screen.bar.remark("one answer at a time: Esc stops this one")
        return True

    def forget_context(self) -> None:
        """Decide anew what fits the context: the chat or the model is another one."""
        self.fitter = context.ContextFitter()

    def count_context(self) -> None:
        """Show how much of the context this chat takes, once the model can tell."""
        screen = self._screen
        idle = self.active is None and screen.session.runtime is not None
        if idle and screen.conversation.head is not None:
            screen.run_worker(self._count_context(), group="count", exclusive=True)

    async def _count_context(self) -> None:
        screen, fitter = self._screen, self.fitter
        head = screen.conversation.head
        conversation = Conversation(screen.conversation.entries(), head)
        system, reserve = screen.recorder.chat.system, screen.sampling.max_tokens
        question = Question(new_id(), head, "")

        def count(runtime: Runtime) -> context.Fitted:
            return fitter.choose(runtime, conversation, question, system, reserve)

        try:
            fitted = await asyncio.to_thread(screen.session.use, count)
        except EdgekitError:  # the next answer will tell
            return
        if self.active is None and screen.conversation.head == head:
            timing = Timing(prompt_tokens=fitted.prompt_tokens)
            screen.status.change(timing=timing, left_out=fitted.left_out)
            screen.show_attachments()

    async def ask(self, question: Question) -> None:
        """Ask `question`, which is new or is to be answered once more, at its place in the tree."""
        screen = self._screen
        self._answer_id = new_id()
        self._idle.clear()
        if question.id not in {entry.id for entry in screen.conversation.entries()}:
            screen.draft_saved = ""
        await screen.save(screen.recorder.begin, question, self._answer_id)
        screen.conversation.head = question.id
        self.active = view = await self._draw(question)
        self._timing_before = screen.status.status.timing
        screen.transcript.anchor()
        await view.begin()
        self._waiting = True
        self.send()

    async def _draw(self, question: Question) -> TurnView:
        """Draw the branch up to `question`, with no answer to it yet."""
        screen = self._screen
        before = screen.conversation.turns()[:-1]
        await screen.show_turns([*before, Turn(question, None)])
        view = screen.transcript.view_of(question.id)
        if view is None:
            raise RuntimeError("the question that was asked is not drawn")
        return view

    def send(self) -> None:
        """Ask the model, if a question waits for it; load it first if it is not there."""
        screen = self._screen
        if self.active is None or not self._waiting:
            return
        if screen.session.runtime is not None:
            self._waiting = False
            question = self.active.turn.question
            taken = self._timing_before.context_tokens
            screen.enter(State.THINKING, timing=Timing(prompt_tokens=taken))
            screen.session.ask(self._preparation(question), self._sampling(question))
        elif not screen.session.loading:
            screen.load_model(screen.model)

    def _preparation(self, question: Question) -> Callable[[Runtime], Sequence[Message]]:
        screen, fitter = self._screen, self.fitter
        conversation = Conversation(screen.conversation.entries(), screen.conversation.head)
        system, reserve = screen.recorder.chat.system, screen.sampling.max_tokens

        def prepare(runtime: Runtime) -> Sequence[Message]:
            fitted = fitter.fit(runtime, conversation, question, system, reserve)
            screen.post_message(PromptFitted(fitted))
            return fitted.messages

        return prepare

    def _sampling(self, question: Question) -> Sampling:
        """Return the sampling of this chat; a fixed seed moves on by one for each new answer."""
        sampling = self._screen.sampling
        if sampling.seed is None:
            return sampling
        earlier = sum(a is not None for a in self._screen.conversation.answers(question))
        return replace(sampling, seed=sampling.seed + earlier)

    # What the model reports

    def grew(self, event: AnswerGrew) -> None:
        """Show what was written."""
        screen = self._screen
        if self.active is None:
            return
        if screen.status.status.state is State.THINKING:
            screen.enter(State.WRITING)
        screen.status.change(timing=event.timing)
        self.active.write(event.text)

    async def ended(self, event: AnswerEnded) -> None:
        """Keep the answer, or take the question back if there is none."""
        outcome, view, screen = event.outcome, self.active, self._screen
        screen.session.ended(outcome)
        if view is None:
            self._show_rest()
            return
        if outcome.ending is None:
            await self.fail(outcome.error or RuntimeError("the answer ended without a reason"))
        elif outcome.ending == "stopped" and not view.written:
            await self.withdraw()
        else:
            await self.finish(outcome.ending, outcome.timing)
            length = screen.status.status.context_length
            reserve = screen.sampling.max_tokens
            if warning := context.warning(outcome.timing.context_tokens, length, reserve):
                screen.bar.remark(warning)

    async def finish(self, ending: Ending, timing: Timing) -> None:
        """Save the answer, and only then show it as finished."""
        view, screen = self.active, self._screen
        if view is None:
            return
        answer = Answer(
            self._answer_id,
            view.turn.question.id,
            view.written,
            ending,
            screen.model,
            timing.tokens,
            timing.first_token_s,
            timing.decode_tokens_per_s,
        )
        screen.status.change(timing=timing)
        await screen.save(screen.recorder.finish, answer)
        self._show_rest()
        self._rest()
        await view.end(Turn(view.turn.question, answer))
        screen.tell_versions()

    async def save_progress(self) -> None:
        """Save what is written so far, as an unfinished answer."""
        screen = self._screen
        if self.active is not None and self.active.written:
            timing = screen.status.status.timing
            await screen.save(screen.recorder.progress, self.active.written, timing)

    async def fail(self, error: Exception) -> None:
        """Keep what was written, or take the question back, and explain what happened."""
        if self.active is not None and self.active.written:
            await self.finish("interrupted", self._screen.status.status.timing)
        else:
            await self.withdraw()
        await self._screen.explain(error)

    async def withdraw(self) -> None:
        """Leave the conversation as it was before the question; give back what was typed."""
        view, screen = self.active, self._screen
        self._show_rest()
        self._rest()
        if view is None:
            return
        question = view.turn.question
        asked_before = any(screen.conversation.answers(question))
        await screen.save(screen.recorder.withdraw, question)
        await view.end(Turn(question, None))
        await screen.show_turns(screen.conversation.turns())
        screen.status.change(timing=self._timing_before)
        if not asked_before:
            screen.give_back(question)

    def _show_rest(self) -> None:
        """Say that nothing is under way, which holds when the answer is saved and not before."""
        session = self._screen.session
        if not session.loading and not session.answering:
            self._screen.enter(State.NO_MODEL if session.runtime is None else State.READY)

    def _rest(self) -> None:
        self.active, self._waiting = None, False
        self._idle.set()

    def stop(self) -> None:
        """Stop the answer, or take back a question that waits for the model."""
        screen = self._screen
        if screen.session.answering:
            screen.enter(State.STOPPING)
            screen.session.stop()
        elif self.active is not None:
            screen.run_worker(self.withdraw(), group="withdraw")

    async def stopped(self) -> None:
        """Stop the answer if there is one, and return when it has ended.

        Not to be called where the screen's messages are handled: it waits for them.
        """
        self.stop()
        await self._idle.wait()
