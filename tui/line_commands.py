"""The slash commands of the line mode, one method each, named like its command.

What they show goes to standard error, as numbered lines; only /copy writes an answer. Knows no
widget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgekit.errors import InputError, UsageError
from edgekit.units import format_bytes
from runtimes.base import Sampling
from tui.clean import clean_line
from tui.commands import COMMANDS, Call
from tui.context import describe
from tui.conversation import Chat, Persona, Question, Turn, new_id
from tui.naming import named, pick
from tui.setup import NOT_PRIVATE, ArtifactChoice

if TYPE_CHECKING:
    from tui.plain import PlainChat
    from tui.store.searching import Hit

MOST_LISTED = 30
EXCERPT_CHARACTERS = 60


class LineCommands:
    """The commands of `tui.commands` that have a line mode, for the chat that is given."""

    def __init__(self, chat: PlainChat) -> None:
        self._chat = chat
        self._say = chat.say
        self._recorder = chat.recorder
        self._listed: list[tuple[str, str | None]] = []  # chats, each with an entry or None

    def run(self, call: Call) -> None:
        """Run one command. Raises EdgekitError."""
        if not call.command.line_mode:
            raise UsageError(f"/{call.command.name} is for the screen; this is the line mode")
        method: Callable[[str], None] = getattr(self, call.command.name)
        method(call.argument)

    # Chats

    def new(self, _: str) -> None:
        """Leave this chat for an empty one."""
        self._recorder.start()
        self._chat.forget_context()
        self._say("a new chat; the one before is kept")

    def chats(self, argument: str) -> None:
        """List the chats, search them, or open one of the list shown last."""
        if argument.isdecimal():
            if not self._listed:
                self._listed = [(chat.id, None) for chat in self._chat.setup.store.chats()]
            chat_id, entry_id = pick(argument, self._listed, "chat")
            self._chat.forget_context()
            self._chat.open_chat(chat_id, entry_id)
        elif argument:
            hits = self._chat.setup.store.search(argument)
            self._list([(hit.chat_id, hit.entry_id) for hit in hits], [_hit(hit) for hit in hits])
        else:
            chats = self._chat.setup.store.chats()
            self._list([(chat.id, None) for chat in chats], [self._chat_line(c) for c in chats])

    def _list(self, found: list[tuple[str, str | None]], lines: list[str]) -> None:
        self._listed = found
        if not found:
            self._say("no chat found")
            return
        self._say_numbered(lines[:MOST_LISTED])
        if len(lines) > MOST_LISTED:
            self._say(f"and {len(lines) - MOST_LISTED} more: /chats WORDS searches")
        self._say("/chats NUMBER opens one")

    def _chat_line(self, chat: Chat) -> str:
        here = ", open now" if chat.id == self._recorder.chat.id else ""
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(chat.changed_at))
        return f"{clean_line(chat.title)}, {changed}{here}"

    def rename(self, title: str) -> None:
        """Give this chat a title."""
        if not title:
            raise UsageError("which title?", hint="/rename TITLE")
        self._recorder.rename(title)
        self._say(f"the title is now “{clean_line(title)}”")

    def delete(self, _: str) -> None:
        """Delete this chat; on a terminal, after asking."""
        if not len(self._recorder.conversation):
            raise UsageError("there is nothing to delete: this chat is empty")
        title = clean_line(self._recorder.chat.title)
        if not self._chat.agrees(f"Delete “{title}” for good?"):
            self._say("not deleted")
            return
        self._recorder.delete()
        self._chat.forget_context()
        self._listed = []
        self._say(f"deleted “{title}”; this is a new chat")

    def export(self, argument: str) -> None:
        """Save the chat to a file; with "redact", show and leave out personal data."""
        from tui.export import export_path, export_text, redacted, write_export

        name, _, option = argument.rpartition(" ")
        wants_redaction = option == "redact" and bool(name.strip())
        path = export_path(name if wants_redaction else argument, self._chat.setup.exports)
        chat, conversation = self._recorder.chat, self._recorder.conversation
        if wants_redaction:
            from tui.redaction import BEST_EFFORT

            chat, conversation, findings = redacted(chat, conversation)
            for finding in findings:
                times = "" if finding.count == 1 else f", {finding.count} times"
                self._say(f"{finding.replacement} for {clean_line(finding.text)}{times}")
            self._say(f"{len(findings)} found. {BEST_EFFORT}")
            if not self._chat.agrees("Export it so?"):
                return
        write_export(path, export_text(path, chat, conversation))
        self._say(f"saved to {path}")

    # Answers

    def edit(self, text: str) -> None:
        """Ask the last question in other words, as a new branch."""
        last = self._last().question
        if not text:
            self._say(f"your last question: {last.text}")
            raise UsageError("in which words?", hint="/edit TEXT")
        self._chat.ask(Question(new_id(), last.parent, text, last.attachments))

    def retry(self, _: str) -> None:
        """Answer the last question once more; the answer before is kept."""
        if self._chat.sampling.temperature == 0:
            self._say("temperature is 0: the same answer will come again; see /set")
        self._chat.ask(self._last().question)

    def versions(self, number: str) -> None:
        """List the versions of the last turn, or read one of them."""
        last, conversation = self._last(), self._recorder.conversation
        versions = conversation.turn_versions(last.question)
        if number:
            turn = pick(number, versions, "version")
            conversation.choose(turn.answer or turn.question)
            self._recorder.save_head()
            self._chat.say_turn(conversation.turns()[-1])
            return
        self._say_numbered([_version(turn, is_read=turn == last) for turn in versions])
        self._say("/versions NUMBER goes on from one")

    def copy(self, number: str) -> None:
        """Write the last answer, or one of its code blocks, to standard output as it is."""
        from tui.fences import code_blocks

        answer = self._last().answer
        if answer is None:
            raise UsageError("there is no answer yet")
        blocks = code_blocks(answer.text)
        text = pick(number, blocks, "code block") if number else answer.text
        self._chat.give(text if text.endswith("\n") else f"{text}\n")

    def attach(self, name: str) -> None:
        """Send a text file along with the next question."""
        from tui.attach import read_attachment

        if not name:
            raise UsageError("which file?", hint="/attach notes.txt")
        runtime = self._chat.runtime()
        attachment = read_attachment(name, lambda text: len(runtime.tokenize(text)))
        self._chat.attachments.append(attachment)
        self._say(
            f"{clean_line(attachment.name)} goes along with the next question: "
            f"{attachment.tokens:,} of {runtime.context_length:,} tokens of context"
        )

    def detach(self, _: str) -> None:
        """Send no file along after all."""
        self._chat.attachments.clear()
        self._say("no file goes along")

    def _last(self) -> Turn:
        turns = self._recorder.conversation.turns()
        if not turns:
            raise UsageError("there is no question yet")
        return turns[-1]

    # The model

    def model(self, name: str) -> None:
        """List the models, or go on with another one."""
        choices = self._chat.setup.list_artifacts()
        if not name:
            self._say_numbered(
                [_artifact(c, self._chat.model in (c.name, c.path)) for c in choices]
            )
            self._say("/model NUMBER or NAME goes on with one")
            return
        choice = named(name, {choice.name: choice for choice in choices}, "artifact")
        if choice.problem:
            raise InputError(f"{clean_line(choice.name)}: {clean_line(choice.problem)}")
        before = self._chat.model
        self._chat.forget_model()
        self._chat.forget_context()
        self._chat.model = choice.name
        try:
            self._chat.runtime()
        except BaseException:
            self._chat.model = before
            raise
        self._recorder.set_model(choice.name)

    def persona(self, name: str) -> None:
        """List the personas, use one, or save or delete one."""
        store = self._chat.setup.store
        personas = {persona.name: persona for persona in store.personas()}
        action, _, rest = name.partition(" ")
        if not name:
            self._say_numbered([f"{p.name}: {_shorten(p.text)}" for p in personas.values()])
            self._say(
                "/persona NAME uses one, /persona none uses none; /persona save NAME keeps the "
                "system prompt of this chat, /persona delete NAME removes one"
            )
        elif action == "save" and rest:
            store.save_persona(Persona(rest, self._recorder.chat.system))
            self._recorder.set_system(self._recorder.chat.system, rest)
            self._say(f"saved as {clean_line(rest)}")
        elif action == "delete" and rest:
            store.delete_persona(named(rest, personas, "persona").name)
            self._say(f"deleted {clean_line(rest)}")
        else:
            none = Persona("", "")
            chosen = none if name == "none" else named(name, personas, "persona")
            self._recorder.set_system(chosen.text, chosen.name)
            self._say(f"persona: {clean_line(chosen.name) or 'none'}")

    def system(self, text: str) -> None:
        """Show or set the system prompt of this chat."""
        if not text:
            self._say(f"system prompt: {self._recorder.chat.system or 'none'}")
            self._say("/system TEXT sets it, /system none removes it")
            return
        self._recorder.set_system("" if text == "none" else text)
        self._say("the system prompt holds from the next question on")

    def set(self, argument: str) -> None:
        """Show or change how this chat chooses its next token."""
        from tui.sampling_settings import FIELDS, changed

        if not argument:
            for field in FIELDS:
                value = getattr(self._chat.sampling, field.name)
                shown = "random" if value is None else value
                self._say(f"{field.name} {shown}: {field.meaning} ({field.allowed})")
            return
        name, _, value = argument.partition(" ")
        sampling: Sampling = changed(self._chat.sampling, name, value.strip())
        self._recorder.set_sampling(sampling)
        self._say("the sampling holds from the next question on")

    def context(self, _: str) -> None:
        """Tell what the context holds, and what happens when it is full."""
        chat = self._chat
        text = describe(
            chat.runtime(),
            self._recorder.conversation,
            self._recorder.chat.system,
            chat.attachments,
            chat.sampling.max_tokens,
            chat.fitter,
        )
        self._say(text)

    # The rest

    def privacy(self, _: str) -> None:
        """Tell what protects this chat, and what does not."""
        self._say(self._chat.setup.privacy or NOT_PRIVATE)

    def help(self, _: str) -> None:
        """List the commands."""
        for command in COMMANDS:
            if command.line_mode:
                self._say(f"/{command.name} {command.arguments}".rstrip() + f": {command.summary}")
        self._say("// at the start makes a question that begins with /; Ctrl+C stops an answer")
        self._say('a line of """ begins a question of several lines; another one sends it')

    def _say_numbered(self, lines: Sequence[str]) -> None:
        for number, line in enumerate(lines, 1):
            self._say(f"{number}. {clean_line(line)}")


def _hit(hit: Hit) -> str:
    return f"{hit.title}: {hit.excerpt}" if hit.entry_id else hit.title


def _version(turn: Turn, *, is_read: bool) -> str:
    answer = _shorten(turn.answer.text) if turn.answer else "not answered"
    here = " (read now)" if is_read else ""
    return f"You: {_shorten(turn.question.text)} / {answer}{here}"


def _artifact(choice: ArtifactChoice, is_used: bool) -> str:
    parts = [choice.name, format_bytes(choice.bytes)]
    if choice.kld_mean is None:
        parts.append("not checked")
    else:
        parts.append(f"KL divergence {choice.kld_mean:.4f}")
    if choice.top1_agreement is not None:
        parts.append(f"top-1 {choice.top1_agreement:.1%}")
    if choice.decode_tokens_per_s is None:
        parts.append("not benched")
    else:
        parts.append(f"{choice.decode_tokens_per_s:.0f} tokens/s")
    if choice.problem:
        parts.append(f"cannot be used: {choice.problem}")
    return ", ".join(parts) + (", used now" if is_used else "")


def _shorten(text: str) -> str:
    line = clean_line(text)
    return line if len(line) <= EXCERPT_CHARACTERS else f"{line[: EXCERPT_CHARACTERS - 1]}…"
