"""The commands of a turn: ask it otherwise, answer it again, look at it, copy it, attach to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgekit.errors import UsageError
from tui.conversation import Question, Turn, new_id
from tui.fences import code_blocks

if TYPE_CHECKING:
    from tui.screen import ChatScreen
    from tui.turn_view import TurnView


async def edit(screen: ChatScreen, text: str) -> None:
    """Ask the last question in other words."""
    await reword(screen, _last(screen).question, text)


async def reword(screen: ChatScreen, question: Question, text: str) -> None:
    from tui.dialogs.editor import EditScreen

    if screen.asking.busy():
        return
    if not text:
        dialog = EditScreen("Ask in other words", question.text)
        text = (await screen.app.push_screen_wait(dialog) or "").strip()
    if text:
        await screen.asking.ask(Question(new_id(), question.parent, text, question.attachments))


async def retry(screen: ChatScreen, _: str) -> None:
    """Answer the last question once more."""
    await answer_again(screen, _last(screen).question)


async def answer_again(screen: ChatScreen, question: Question) -> None:
    if screen.asking.busy():
        return
    if screen.sampling.temperature == 0:
        screen.bar.remark("temperature is 0: the same answer will come again (/set)")
    await screen.asking.ask(question)


async def versions(screen: ChatScreen, number: str) -> None:
    """Show the next version of the last turn, or the one with this number."""
    turn = _last(screen)
    versions = screen.conversation.turn_versions(turn.question)
    if len(versions) == 1:
        raise UsageError("the last turn has one version", hint="Ctrl+E and Ctrl+R make more")
    if not number:
        await _show_version(screen, versions[(versions.index(turn) + 1) % len(versions)])
        return
    if not number.isdecimal() or not 1 <= int(number) <= len(versions):
        raise UsageError(f"there are versions 1 to {len(versions)}, not '{number}'")
    await _show_version(screen, versions[int(number) - 1])


async def step(screen: ChatScreen, view: TurnView, step: int) -> None:
    versions = screen.conversation.turn_versions(view.turn.question)
    position = versions.index(view.turn) + step if view.turn in versions else -1
    if not 0 <= position < len(versions):
        screen.bar.remark("there is no other version in that direction")
        return
    await _show_version(screen, versions[position], focus=True)


async def _show_version(screen: ChatScreen, turn: Turn, focus: bool = False) -> None:
    if screen.asking.busy():
        return
    screen.conversation.choose(turn.answer or turn.question)
    await screen.save(screen.recorder.save_head)
    await screen.show_chat()
    view = screen.transcript.view_of(turn.question.id)
    if focus and view is not None:
        view.focus()


async def copy(screen: ChatScreen, number: str) -> None:
    """Copy the last answer as Markdown, or one of its code blocks."""
    if number and not number.isdecimal():
        raise UsageError(f"'{number}' is not the number of a code block")
    await copy_turn(screen, _last(screen), int(number or 0))


async def copy_turn(screen: ChatScreen, turn: Turn, number: int) -> None:
    text = turn.answer.text if turn.answer else ""
    if not text:
        raise UsageError("there is no answer to copy yet")
    if number:
        blocks = code_blocks(text)
        if not 1 <= number <= len(blocks):
            raise UsageError(f"code block {number} of {len(blocks)} does not exist")
        text = blocks[number - 1]
    screen.copy(text)


async def attach(screen: ChatScreen, name: str) -> None:
    """Send a text file along with the next question."""
    from tui.attach import read_attachment

    if not name:
        raise UsageError("which file?", hint="/attach notes.txt")
    attachment = await asyncio.to_thread(
        screen.session.use,
        lambda runtime: read_attachment(name, lambda text: len(runtime.tokenize(text))),
    )
    screen.attachments.append(attachment)
    screen.show_attachments()


async def detach(screen: ChatScreen, _: str) -> None:
    """Send no file along after all."""
    screen.attachments.clear()
    screen.show_attachments()


def _last(screen: ChatScreen) -> Turn:
    turns = screen.conversation.turns()
    if not turns:
        raise UsageError("there is no question yet")
    return turns[-1]
