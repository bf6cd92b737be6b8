"""The commands of a chat as a whole: start, find, name, delete, export."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError, UsageError
from tui.store.database import RESCUE_HINT
from tui.transcript import Notice

if TYPE_CHECKING:
    from tui.redaction import Finding
    from tui.screen import ChatScreen
    from tui.store.chats import ChatStore


async def new(screen: ChatScreen, _: str) -> None:
    """Leave this chat for an empty one; what is typed stays."""
    await screen.asking.stopped()
    await screen.save(screen.recorder.start)
    await screen.show_chat()


async def chats(screen: ChatScreen, words: str) -> None:
    """Open, rename or delete a stored chat; `words` are searched for at once."""
    from tui.dialogs.chats import ChatListScreen

    recorder = screen.recorder
    current = recorder.chat.id
    dialog = ChatListScreen(
        screen.setup.store,
        current,
        words,
        rename=recorder.rename_chat,
        delete=recorder.delete_chat,
    )
    picked = await screen.app.push_screen_wait(dialog)
    if recorder.chat.id != current:  # it was deleted there, perhaps in mid-answer
        await screen.asking.stopped()
        await screen.show_chat()
    if picked is None:
        return
    if picked.kind == "new" or picked.chat_id is None:
        await new(screen, "")
    else:
        await screen.asking.stopped()
        await screen.open_chat(picked.chat_id, picked.entry_id)


async def rename(screen: ChatScreen, title: str) -> None:
    """Give this chat a title."""
    from tui.dialogs.ask import AskScreen

    if not title:
        ask = AskScreen("Title of this chat", screen.recorder.chat.title)
        typed = await screen.app.push_screen_wait(ask)
        title = typed or ""
    if title and await screen.save(screen.recorder.rename, title):
        screen.bar.remark("renamed")


async def delete(screen: ChatScreen, _: str) -> None:
    """Delete this chat, after asking."""
    from tui.dialogs.ask import ConfirmScreen

    if not screen.conversation.turns():
        raise UsageError("there is nothing to delete: this chat is empty")
    question = f"Delete “{screen.recorder.chat.title}” for good?"
    if await screen.app.push_screen_wait(ConfirmScreen(question)):
        await screen.asking.stopped()
        if await screen.save(screen.recorder.delete):
            await screen.show_chat()


async def export(screen: ChatScreen, argument: str) -> None:
    """Save the chat to a file, on request without personal data."""
    from tui.export import export_path, export_text, redacted, write_export

    without_data = argument.endswith(" redact")
    path = export_path(argument.removesuffix(" redact"), screen.setup.exports)
    chat, conversation = screen.recorder.chat, screen.conversation
    if without_data:
        chat, conversation, findings = await asyncio.to_thread(redacted, chat, conversation)
        if not await _may_redact(screen, findings, path):
            return
    text = export_text(path, chat, conversation)
    if path.exists() and not await _may_replace(screen, path):
        return
    await asyncio.to_thread(write_export, path, text, replace=True)
    screen.bar.remark(f"saved to {path}")


async def _may_redact(screen: ChatScreen, findings: Sequence[Finding], path: Path) -> bool:
    from tui.dialogs.redaction import RedactionScreen

    wanted = await screen.app.push_screen_wait(RedactionScreen(findings, path))
    return bool(wanted)


async def _may_replace(screen: ChatScreen, path: Path) -> bool:
    from tui.dialogs.ask import ConfirmScreen

    confirm = ConfirmScreen(f"{path} is there already. Replace it?", yes="Replace")
    wanted = await screen.app.push_screen_wait(confirm)
    return bool(wanted)


async def look_through(store: ChatStore, tell: Callable[[Notice], Awaitable[None]]) -> None:
    """Tell what in the store is damaged, and index it for searching while nobody waits for that."""
    with contextlib.suppress(EdgekitError):  # a search will say it
        for sentence in await asyncio.to_thread(lambda: store.damage):
            await tell(Notice(sentence, RESCUE_HINT, title="Damaged"))
        await asyncio.to_thread(store.warm)
