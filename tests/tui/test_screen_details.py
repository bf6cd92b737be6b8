"""What a demanding user looks for on the screen: names, places, warnings, and keys that help."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.widgets import Static

from edgekit.errors import UsageError
from edgekit.settings import load_settings
from tui.code_block import CodeBlock
from tui.conversation import Answer, Chat, Persona, Question
from tui.dialogs.themes import ThemeScreen
from tui.fences import code_blocks
from tui.help import HelpScreen
from tui.naming import model_name
from tui.status import State
from tui.store.chats import ChatStore
from tui.transcript import TURNS_AT_ONCE
from tui.turn_view import MOST_DRAWN_LINES, TurnView


def chat_of(app: Any) -> Any:
    return app.screen_stack[0]


def ready(app: Any) -> bool:
    return chat_of(app).status.status.state is State.READY


def answered(app: Any, turns: int) -> bool:
    chat = chat_of(app)
    answers = [turn.answer for turn in chat.conversation.turns() if turn.answer]
    return ready(app) and chat.asking.active is None and len(answers) == turns


def shown(app: Any) -> str:
    lines = app.screen._compositor.render_strips(app.screen.size)
    return "\n".join(strip.text for strip in lines)


async def send(pilot: Any, text: str) -> None:
    pilot.app.post_message(events.Paste(text))
    await pilot.press("enter")


def stored(store: ChatStore, count: int) -> None:
    """Put one chat of `count` turns into `store`."""
    parent, entries = None, []
    for number in range(count):
        at = 1000.0 + 2 * number
        question = Question(f"q{number}", parent, f"question {number}", at=at)
        answer = Answer(f"a{number}", question.id, f"reply {number}", "stop", at=at + 1)
        entries += [question, answer]
        parent = answer.id
    store.save_all(Chat("c", "An old chat", head=parent, model="m"), entries)


def test_a_model_given_by_its_path_goes_by_its_folder() -> None:
    assert model_name("/home/me/artifacts/tiny-q8/") == "tiny-q8"
    assert model_name("tiny q4_k_m") == "tiny q4_k_m"
    assert model_name("/") == "/"


async def test_the_context_of_a_stored_chat_is_counted_as_it_opens(
    chat_with, scripted, until
) -> None:
    store, runtime = ChatStore.open(None), scripted()
    stored(store, 3)
    app = chat_with(runtime, store=store, resume="c")
    async with app.run_test() as pilot:
        await until(pilot, lambda: chat_of(app).status.status.timing.context_tokens > 0)
        turns = "".join(f"user: question {n}\nassistant: reply {n}\n" for n in range(3))
        assert f"context {len(turns) + len('user: ') + 1} of 4096" in shown(app)


async def test_a_question_waits_for_a_count_that_is_under_way(chat_with, scripted, until) -> None:
    gate, counting, runtime = threading.Event(), threading.Event(), scripted(["ok"])
    together: list[str] = []

    class Slow(type(runtime)):  # type: ignore[misc]
        def tokenize(self, text: str, *, special: bool = False) -> list[int]:
            counting.set()
            gate.wait(5)
            return super().tokenize(text, special=special)

        def generate(self, messages: Any, sampling: Any) -> Any:
            together.append("counted" if gate.is_set() else "collided")
            return super().generate(messages, sampling)

    store, slow = ChatStore.open(None), Slow(["ok"])
    stored(store, 2)
    app = chat_with(slow, store=store, resume="c")
    async with app.run_test() as pilot:
        await until(pilot, counting.is_set)
        await send(pilot, "next")
        threading.Timer(0.05, gate.set).start()
        with pytest.raises(UsageError):
            chat_of(app).session.use(lambda runtime: 0)  # an answer is asked for: it comes first
        await until(pilot, lambda: answered(app, 3))
    assert together == ["counted"]


async def test_the_bar_names_the_chat_and_what_is_special(chat_with, scripted, until) -> None:
    store = ChatStore.open(None)
    store.save_persona(Persona("teacher", "Explain."))
    runtime = scripted(["ok"])
    app = chat_with(runtime, store=store)
    async with app.run_test() as pilot:
        await send(pilot, "An egg?")
        await until(pilot, lambda: answered(app, 1))
        await send(pilot, "/persona teacher")
        await send(pilot, "/set top_k 40")
        title = "An egg? · persona teacher · top_k 40"
        await until(pilot, lambda: "holds from the next question" in shown(app))
        runtime.clock.now += 20  # the remark goes, the title has its room
        await until(pilot, lambda: title in shown(app))
        await pilot.resize_terminal(30, 12)  # the title goes first
        await until(pilot, lambda: "F1: keys" in shown(app) and "top_k" not in shown(app))


async def test_a_long_remark_is_wrapped_and_goes_away(chat_with, scripted, until) -> None:
    runtime = scripted()
    app = chat_with(runtime)
    async with app.run_test(size=(80, 24)) as pilot:
        await send(pilot, "/c")
        await until(pilot, lambda: "text: //c" in shown(app))
        assert "Did you mean /chats or /copy or /context" in shown(app).replace("\n", "")
        runtime.clock.now += 20
        await until(pilot, lambda: "text: //c" not in shown(app))


async def test_escape_drops_a_command_but_no_question(chat_with, scripted, until) -> None:
    app = chat_with(scripted())
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press("slash", "c", "escape")
        assert chat_of(app).prompt.text == ""
        await pilot.press("ctrl+z")
        assert chat_of(app).prompt.text.startswith("/")
        await pilot.press("escape", "w", "h", "y", "escape")
        assert chat_of(app).prompt.text == "why"


async def test_code_blocks_wrap_and_have_the_numbers_that_copy_them(
    chat_with, scripted, until
) -> None:
    text = (
        "```python\nx = '"
        + "long " * 30
        + "end'\n```\n\n- item\n\n  ```\n  two\n  ```\n\n    three\n"
    )
    app = chat_with(scripted(["see\n\n" + text]))
    async with app.run_test(size=(80, 24)) as pilot:
        await send(pilot, "code")
        await until(pilot, lambda: answered(app, 1))
        await until(pilot, lambda: "end'" in shown(app))
        assert "[code 1: python]" in shown(app)
        assert "[code 2]" in shown(app)
        answer = chat_of(app).conversation.turns()[0].answer.text
        drawn = [block.code for block in app.screen.query(CodeBlock)]
        assert drawn == [code.rstrip() for code in code_blocks(answer)]
        await pilot.press("shift+tab", "2")
        await until(pilot, lambda: app.clipboard == code_blocks(answer)[1])


async def test_a_found_message_is_in_sight_and_marked(chat_with, scripted, until) -> None:
    store = ChatStore.open(None)
    stored(store, 100)
    app = chat_with(scripted(), store=store)
    async with app.run_test(size=(80, 24)) as pilot:
        await send(pilot, '/chats "reply 41"')
        await until(pilot, lambda: "1 found" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "> question 41" in shown(app))
        assert isinstance(app.focused, TurnView)
        assert app.focused.turn.question.id == "q41"
        assert len(chat_of(app).transcript.views) == TURNS_AT_ONCE
        for _ in range(TURNS_AT_ONCE):  # on and on, past what was drawn
            await pilot.press("down")
        await until(pilot, lambda: app.focused.turn.question.id != "q41")
        await pilot.press("escape")
        await until(pilot, lambda: "reply 99" in shown(app))


@pytest.mark.slow
async def test_a_found_message_can_be_read_on_from(chat_with, scripted, until) -> None:
    store = ChatStore.open(None)
    stored(store, 40)
    app = chat_with(scripted(["new"]), store=store)
    async with app.run_test(size=(80, 24)) as pilot:
        chat = chat_of(app)
        await until(pilot, lambda: ready(app))
        await chat.open_chat("c", "a5")
        await until(pilot, lambda: "> question 5" in shown(app))
        assert "3 earlier turns" not in shown(app)
        for _ in range(12):
            await pilot.press("pagedown")
        await until(pilot, lambda: "reply 39" in shown(app))
        await chat.open_chat("c", "a5")
        chat.prompt.focus()
        await send(pilot, "on")
        await until(pilot, lambda: answered(app, 41))
        await until(pilot, lambda: "> on" in shown(app) and "new" in shown(app))
        assert [v.turn.question.text for v in chat.transcript.views][-2:] == ["question 39", "on"]


async def test_a_theme_is_tried_kept_and_taken_back(
    chat_with, scripted, until, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    app = chat_with(scripted())
    async with app.run_test() as pilot:
        before = app.theme
        await send(pilot, "/theme")
        await until(pilot, lambda: isinstance(app.screen, ThemeScreen))
        await pilot.press("home", "down", "down")
        tried = app.theme
        assert tried != before
        await pilot.press("escape")
        assert app.theme == before
        await send(pilot, "/theme")
        await until(pilot, lambda: isinstance(app.screen, ThemeScreen))
        await pilot.press("home", "down", "down", "enter")
        await until(pilot, lambda: load_settings().theme == tried)


async def test_a_terminal_of_few_colours_is_told_why_a_theme_does_nothing(
    chat_with, scripted, until, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = chat_with(scripted())
    monkeypatch.setenv("NO_COLOR", "1")
    app = type(app)(app._setup, clock=app._clock)
    async with app.run_test() as pilot:
        await send(pilot, "/theme")
        await until(pilot, lambda: "16 colours" in shown(app))


async def test_a_book_is_drawn_in_part_and_sent_whole(chat_with, scripted, until) -> None:
    runtime = scripted(["ok"])
    book = "\n".join(f"line {number}\n/quit" for number in range(20_000))
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        start = time.monotonic()
        runtime.context_length = 1 << 20
        await send(pilot, book)
        await until(pilot, lambda: answered(app, 1))
        assert time.monotonic() - start < 8
        text = app.screen.query_one(".question > .text", Static)
        assert text.size.height == MOST_DRAWN_LINES + 1
    assert runtime.asked[0][-1].content == book


async def test_help_can_be_scrolled_on_a_small_terminal(chat_with, scripted, until) -> None:
    app = chat_with(scripted())
    async with app.run_test(size=(40, 12)) as pilot:
        await pilot.press("f1")
        assert isinstance(app.screen, HelpScreen)
        for _ in range(20):
            await pilot.press("down")
        await until(pilot, lambda: "copy; 1-9" in shown(app))


async def test_an_empty_chat_says_whether_there_are_others(chat_with, scripted, until) -> None:
    store = ChatStore.open(None)
    app = chat_with(scripted(), store=store)
    async with app.run_test() as pilot:
        await until(pilot, lambda: "Ctrl+Q" in shown(app))
        assert "Ctrl+O" not in shown(app)
    stored(store := ChatStore.open(None), 1)
    app = chat_with(scripted(), store=store)
    async with app.run_test() as pilot:
        await until(pilot, lambda: "opens an earlier chat (1 chat)" in shown(app))


async def test_the_open_chat_can_be_deleted_and_the_model_changed_in_mid_answer(
    chat_with, scripted, until
) -> None:
    store = ChatStore.open(None)
    app = chat_with(scripted(["half", threading.Event()], ["whole"]), store=store)
    async with app.run_test() as pilot:
        await send(pilot, "first")
        await until(pilot, lambda: "half" in shown(app))
        await send(pilot, "/delete")
        await until(pilot, lambda: "for good?" in shown(app))
        await pilot.press("y")
        await until(pilot, lambda: not len(chat_of(app).conversation) and ready(app))
        assert store.chats() == []
        await send(pilot, "second")
        await until(pilot, lambda: answered(app, 1))
    assert [chat.title for chat in store.chats()] == ["second"]
