"""Runs a command, and the keys that stand for one. What goes wrong is explained in the chat.

Everything here runs beside the interface (as a Textual worker), so that it may open a dialog and
wait for what the user chooses there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError, UsageError
from tui.actions import answers, chats, display, models
from tui.commands import COMMANDS, Call

if TYPE_CHECKING:
    from tui.messages import TurnKey
    from tui.screen import ChatScreen
    from tui.turn_view import TurnView

Handler = Callable[["ChatScreen", str], Awaitable[None]]

HANDLERS: dict[str, Handler] = {
    "new": chats.new,
    "chats": chats.chats,
    "rename": chats.rename,
    "delete": chats.delete,
    "export": chats.export,
    "edit": answers.edit,
    "retry": answers.retry,
    "versions": answers.versions,
    "copy": answers.copy,
    "attach": answers.attach,
    "detach": answers.detach,
    "model": models.model,
    "persona": models.persona,
    "system": models.system,
    "set": models.set_sampling,
    "context": models.context,
    "theme": display.theme,
    "bandwidth": display.bandwidth,
    "privacy": display.privacy,
    "help": display.show_help,
    "quit": display.leave,
}


async def run(screen: ChatScreen, call: Call) -> None:
    """Run one command; what goes wrong is explained in the conversation."""
    await _guarded(screen, HANDLERS[call.command.name](screen, call.argument))


async def palette(screen: ChatScreen) -> None:
    """Let the user find a command; one that needs words is put into the prompt."""
    from tui.dialogs.palette import PaletteScreen

    command = await screen.app.push_screen_wait(PaletteScreen(COMMANDS))
    if command is None:
        return
    if command.arguments and not command.arguments.startswith("["):
        screen.prompt.give_back(f"/{command.name} ")
    else:
        await run(screen, Call(command, ""))


async def on_turn(screen: ChatScreen, event: TurnKey) -> None:
    """Do what a key on a turn asks for."""
    view = screen.transcript.view_of(event.question.id)
    if view is None:
        return
    match event.action:
        case "edit":
            await _guarded(screen, answers.reword(screen, view.turn.question, ""))
        case "retry":
            await _guarded(screen, answers.answer_again(screen, view.turn.question))
        case "older" | "newer":
            await answers.step(screen, view, -1 if event.action == "older" else 1)
        case "copy":
            await _guarded(screen, answers.copy_turn(screen, view.turn, event.number))
        case "up" | "down" | "leave":
            await _move(screen, view, event.action)


def sentences(error: EdgekitError) -> str:
    """Return an error and its hint as one remark."""
    hint = error.hint or ""
    return f"{error.message}. {hint[:1].upper()}{hint[1:]}" if hint else error.message


async def _guarded(screen: ChatScreen, work: Awaitable[None]) -> None:
    try:
        await work
    except UsageError as error:
        screen.bar.remark(sentences(error))
    except Exception as error:
        await screen.explain(error)


async def _move(screen: ChatScreen, view: TurnView, action: str) -> None:
    views = screen.transcript.views
    position = views.index(view) + {"up": -1, "down": 1, "leave": len(views)}[action]
    if position >= len(views):
        if action == "down" and await screen.transcript.show_later():
            await _move(screen, view, action)
            return
        screen.prompt.focus()
        await screen.action_follow()
    elif position >= 0:
        views[position].focus()
    elif await screen.transcript.show_earlier():
        await _move(screen, view, action)
