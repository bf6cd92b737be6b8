"""The list of chats: searching while typing, opening, renaming, deleting."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from edgekit.errors import InputError
from tui.conversation import Chat
from tui.dialogs.ask import AskScreen, ConfirmScreen
from tui.dialogs.chats import ChatListScreen, ChatPicked
from tui.store.chats import ChatStore


@pytest.fixture
def dialog(store, at_noon) -> ChatListScreen:
    return ChatListScreen(store, "chat1", now=at_noon)


async def test_all_chats_newest_first_and_nothing_hostile(dialog, opened) -> None:
    async with opened(dialog) as (app, pilot, shows):
        await shows("3 chats")
        text = app.text()
        assert text.index("Eggs") < text.index("Tea (open)") < text.index("red")
        assert "1 h ago" in text
        assert "[bold]" in text  # not taken for markup
        assert not {"\x1b", "\u202e", "\x07"} & set(text)
        await pilot.press("enter")
    assert app.results == [ChatPicked("open", "chat2")]


@pytest.mark.parametrize(
    ("keys", "picked"),
    [
        (["down", "enter"], ChatPicked("open", "chat1")),
        (["down", "down", "down", "up", "enter"], ChatPicked("open", "chat1")),
        (["pagedown", "enter"], ChatPicked("open", "chat0")),
        (["pagedown", "pageup", "enter"], ChatPicked("open", "chat2")),
        (["ctrl+n"], ChatPicked("new")),
        (["escape"], None),
        (["ctrl+c"], None),
    ],
)
async def test_keys(dialog, opened, keys, picked) -> None:
    async with opened(dialog) as (app, pilot, shows):
        await shows("3 chats")
        await pilot.press(*keys)
    assert app.results == [picked]


async def test_typing_searches_the_text_and_marks_it(dialog, opened) -> None:
    async with opened(dialog) as (app, pilot, shows):
        await pilot.press(*"MINUTES")
        await shows("2 found")
        marked = [
            segment.text
            for strip in app.screen._compositor.render_strips(app.screen.size)
            for segment in strip
            if segment.style and segment.style.underline
        ]
        assert marked == ["minutes", "minutes"]
        await pilot.press("down", "enter")
    assert app.results == [ChatPicked("open", "chat1", "a1")]


async def test_enter_right_after_the_words_opens_what_they_find(dialog, opened, until) -> None:
    async with opened(dialog) as (app, pilot, shows):
        await shows("3 chats")
        await pilot.press(*"three", "enter")  # within the delay before the search begins
        await until(pilot, lambda: app.results)
    assert app.results == [ChatPicked("open", "chat1", "a1")]


async def test_words_given_at_the_start_are_searched(store, opened) -> None:
    async with opened(ChatListScreen(store, words="colour")) as (app, _, shows):
        await shows("1 found")
        assert "A colour." in app.text()


async def test_nothing_found_opens_nothing(dialog, opened) -> None:
    async with opened(dialog) as (app, pilot, shows):
        await pilot.press(*"quark")
        await shows("nothing found")
        await pilot.press("enter", "f2", "delete", "up", "down")
        assert app.screen is dialog
        await pilot.press("ctrl+u")
        await shows("3 chats")


async def test_a_slow_search_neither_blocks_nor_comes_too_late(store, opened, until) -> None:
    """The first search waits at a gate while more is typed: only the last words are shown."""
    gate, asked = threading.Event(), []

    class SlowStore(ChatStore):
        def search(self, words, limit=50):
            asked.append(words)
            assert gate.wait(10)
            return super().search(words, limit)

    store.__class__ = SlowStore
    async with opened(ChatListScreen(store)) as (app, pilot, shows):
        await shows("3 chats")
        await pilot.press(*"tea")
        await until(pilot, lambda: asked)
        for letter in "xyz":
            await pilot.press("backspace", letter)
        await pilot.press("ctrl+u", *"seven")
        assert "seven" in app.text()
        await pilot.pause(0.2)
        assert asked == ["tea"]
        gate.set()
        await shows("1 found")
        assert "Seven minutes" in app.text()
    assert asked == ["tea", "seven"]


async def test_what_ends_after_the_dialog_is_closed_goes_no_further(store, opened) -> None:
    async with opened(ChatListScreen(store)) as (app, _pilot, shows):
        await shows("3 chats")
        dialog = app.screen
        assert await dialog.in_thread(len, "abc") == 3
        dialog.dismiss(None)
        with pytest.raises(asyncio.CancelledError):
            await dialog.in_thread(len, "abc")
        with pytest.raises(asyncio.CancelledError):  # there is nowhere to show an error either
            await dialog.in_thread(int, "abc")


async def test_rename(store, dialog, opened, until) -> None:
    async with opened(dialog) as (app, pilot, shows):
        await shows("3 chats")
        await pilot.press("down", "f2")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        # An answer ends meanwhile, and moves the head: renaming must not bring the old one back.
        (tea,) = [chat for chat in store.chats() if chat.id == "chat1"]
        store.save_chat(replace(tea, head="a1"))
        await pilot.press(*" time", "enter")
        await shows("Tea time (open)")
    renamed = next(chat for chat in store.chats() if chat.id == "chat1")
    assert (renamed.title, renamed.head, renamed.changed_at) == ("Tea time", "a1", tea.changed_at)


@pytest.mark.parametrize("key", ["delete", "ctrl+d"])
async def test_delete_asks_first(store, dialog, opened, until, key) -> None:
    async with opened(dialog) as (app, pilot, shows):
        await shows("3 chats")
        await pilot.press(key)
        await shows("Delete “Eggs” for good?")
        await pilot.press("enter")  # the safe button has the focus
        await until(pilot, lambda: app.screen is dialog)
        assert len(store.chats()) == 3
        await pilot.press(key)
        await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
        await pilot.press("y")
        await shows("2 chats")
    assert [chat.id for chat in store.chats()] == ["chat1", "chat0"]


async def test_delete_within_the_words_edits_them(dialog, opened) -> None:
    async with opened(dialog) as (app, pilot, shows):
        await pilot.press(*"ttea", "home", "delete")
        await shows("Tea (open)")
        assert app.screen is dialog


async def test_a_store_that_fails_is_explained(dialog, store, opened) -> None:
    class DamagedStore(ChatStore):
        def chats(self):
            raise InputError("the file \x1b[31m is damaged")

    store.__class__ = DamagedStore
    async with opened(dialog) as (app, pilot, shows):
        await shows("the file [31m is damaged")
        await pilot.press("enter", "f2", "delete", "escape")
    assert app.results == [None]


@pytest.mark.slow
async def test_two_thousand_chats_open_at_once(opened, at_noon) -> None:
    store = ChatStore.open(None)
    for number in range(2000):
        store.save_chat(Chat(f"c{number}", f"Chat {number}", changed_at=float(number)))
    start = time.perf_counter()
    async with opened(ChatListScreen(store, now=at_noon)) as (app, pilot, shows):
        await shows("2000 chats")
        seconds = time.perf_counter() - start
        page = app.dialog.rows.size.height
        await pilot.press(*["pagedown"] * 5, "enter")
    assert app.results == [ChatPicked("open", f"c{1999 - 5 * page}")]
    assert seconds < 1.5  # the app included; measured far below
    store.close()
