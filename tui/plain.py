"""The chat as lines: questions from standard input, answers to standard output, all else to stderr.

For pipes, for screen readers, and for terminals that cannot draw: nothing moves, nothing is drawn
over. Lines that start with / are commands, in a pipe too. Needs no Textual.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from edgekit.errors import EdgekitError, InputError
from tui.clean import clean, clean_line, clean_paste
from tui.commands import parse, unescaped
from tui.context import ContextFitter
from tui.conversation import Attachment, Question, Turn, new_id
from tui.line_answer import LineAnswer
from tui.line_commands import LineCommands
from tui.naming import model_name
from tui.recorder import Recorder
from tui.setup import ChatSetup
from tui.timing import Clock

if TYPE_CHECKING:
    from runtimes.base import Runtime, Sampling

QUOTES = '"""'


def run_plain(
    setup: ChatSetup,
    *,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
    clock: Clock = time.perf_counter,
) -> int:
    """Chat line by line until the input ends or /quit; return the exit code.

    Each line is a question or a command; two slashes begin a question that begins with one, and
    lines between two lines of three quotation marks are one question.
    Ctrl+C stops an answer; between answers it raises KeyboardInterrupt, as usual. The streams
    default to those of the process. The exit code is that of the last EdgekitError, or 0; on a
    terminal, where the user has seen and answered it, always 0. What opening the first model
    raises is raised.
    """
    streams = stdin or sys.stdin, stdout or sys.stdout, stderr or sys.stderr
    return PlainChat(setup, *streams, clock).run()


class PlainChat:
    """The chat that is open, its model, and the three streams."""

    def __init__(
        self, setup: ChatSetup, lines: TextIO, out: TextIO, err: TextIO, clock: Clock
    ) -> None:
        self.setup = setup
        self.model = setup.model
        self.recorder = Recorder(setup.store, model=setup.model, system=setup.system)
        self.fitter = ContextFitter()
        self.attachments: list[Attachment] = []
        self.interactive = lines.isatty()
        self._lines = lines
        self._out = out
        self._err = err
        self._clock = clock
        self._runtime: Runtime | None = None
        self.left_out = 0
        self._exit_code = 0
        self._commands = LineCommands(self)

    def run(self) -> int:
        """Take lines until they end; see `run_plain`."""
        try:
            self.runtime()
            if self.setup.resume is not None:
                self.guarded(lambda: self.open_chat(self.setup.resume or ""))
            if self.interactive:
                self.say("/help lists the commands; the end of the input, or /quit, leaves")
                self.say('a line of """ begins a question of several lines; another one sends it')
            while (line := self.ask_for("\nYou: ")) is not None and self._take(line):
                pass
        finally:
            self.guarded(self.recorder.close)
            self.forget_model()
        return 0 if self.interactive else self._exit_code

    def _take(self, line: str) -> bool:
        """Do what a line asks for; return whether the chat goes on."""
        text = clean_paste(line).strip()
        if text.startswith(QUOTES):
            self.guarded(lambda: self._ask_lines(text.removeprefix(QUOTES)))
            return True
        if not text:
            return True
        leaves = False

        def take() -> None:
            nonlocal leaves
            call = parse(text)
            if call is None:
                self.ask(self._question(unescaped(text)))
            elif call.command.name == "quit":
                leaves = True
            else:
                self._commands.run(call)

        self.guarded(take)
        return not leaves

    def _ask_lines(self, first: str) -> None:
        """Ask what stands before the next three quotation marks, which end a line."""
        lines = [first]
        while not lines[-1].rstrip().endswith(QUOTES):
            line = self.ask_for("more: ")
            if line is None:
                break
            lines.append(clean_paste(line).rstrip("\n"))
        text = "\n".join(lines).rstrip().removesuffix(QUOTES).strip()
        if text:
            self.ask(self._question(text))

    def guarded(self, work: Callable[[], object]) -> None:
        """Do `work`; explain what goes wrong, and keep its exit code for the end."""
        try:
            work()
        except EdgekitError as error:
            self._exit_code = error.exit_code
            self.say(f"error: {clean_line(error.message)}")
            if error.hint:
                self.say(f"hint: {clean_line(error.hint)}")

    # The streams

    def say(self, text: str) -> None:
        """Tell the user something that is not an answer."""
        print(clean(text), file=self._err, flush=True)

    def give(self, text: str) -> None:
        """Write a piece of an answer to standard output, as it is."""
        print(clean(text), end="", file=self._out, flush=True)

    def announce(self, speaker: str) -> None:
        """Say who speaks next, where a person follows along."""
        if self.interactive:
            print(f"{clean_line(speaker)}: ", end="", file=self._err, flush=True)

    def ask_for(self, prompt: str) -> str | None:
        """Return the next line of the input, None at its end; `prompt` is for terminals only."""
        if self.interactive:
            print(prompt, end="", file=self._err, flush=True)
        return self._lines.readline() or None

    def agrees(self, question: str) -> bool:
        """Return whether the user says yes. In a pipe the command itself was the yes."""
        if not self.interactive:
            return True
        answer = self.ask_for(f"{clean_line(question)} y/n: ") or ""
        return answer.strip().lower() in ("y", "yes")

    def say_turn(self, turn: Turn) -> None:
        """Tell a turn that is not new, each line with who speaks."""
        self.say(f"You: {turn.question.text}")
        for attachment in turn.question.attachments:
            self.say(f"[with the file {clean_line(attachment.name)}]")
        if turn.answer is None:
            self.say("[not answered: /retry asks again]")
            return
        speaker = model_name(turn.answer.model) if turn.answer.model else "Model"
        self.say(f"{speaker}: {turn.answer.text}")
        if note := turn.answer.note():
            self.say(f"[{note}]")

    # The model and the chat

    def runtime(self) -> Runtime:
        """Return the model, loaded if it is not. Raises what opening it raises."""
        if self._runtime is None:
            self.say(f"loading {model_name(self.model)} ...")
            start = self._clock()
            self._runtime = self.setup.open_runtime(self.model)
            self.say(f"loaded in {self._clock() - start:.1f} s")
        return self._runtime

    def forget_model(self) -> None:
        """Free the model; the next question loads it, or another one, anew."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            with contextlib.suppress(EdgekitError):
                runtime.close()

    @property
    def sampling(self) -> Sampling:
        """Return how this chat chooses its next token."""
        return self.recorder.chat.sampling or self.setup.sampling

    def open_chat(self, chat_id: str, entry_id: str | None = None) -> None:
        """Go on with a stored chat, on the branch of `entry_id` if given; tell its last turn."""
        self.recorder.open(chat_id)
        conversation, self.left_out = self.recorder.conversation, 0
        if entry_id in {entry.id for entry in conversation.entries()}:
            conversation.choose(conversation.entry(str(entry_id)))
        turns = conversation.turns()
        count = "1 turn" if len(turns) == 1 else f"{len(turns)} turns"
        self.say(f"the chat “{clean_line(self.recorder.chat.title)}” goes on after {count}")
        for sentence in self.recorder.damage:
            self.say(f"damaged: {sentence}")
        if turns:
            self.say_turn(turns[-1])

    def forget_context(self) -> None:
        """Decide anew what fits the context: the chat or the model is another one."""
        self.fitter, self.left_out = ContextFitter(), 0

    # A question

    def _question(self, text: str) -> Question:
        head = self.recorder.conversation.head
        return Question(new_id(), head, text, tuple(self.attachments))

    def ask(self, question: Question) -> None:
        """Ask `question`, which is new or is to be answered once more, and print the answer."""
        taken, self.attachments = self.attachments, []
        answer = LineAnswer(self, self.runtime(), question, self._clock)
        try:
            answer.run()
        except BaseException as error:
            if not answer.text:
                self.attachments = taken
            if not isinstance(error, InputError):  # whatever it was, the engine may be gone
                self.forget_model()
            raise
