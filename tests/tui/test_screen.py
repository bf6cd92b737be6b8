"""The chat, driven by its keys: what the user sees, and what the model is sent."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from textual import events
from textual.widgets import Markdown

from edgekit.errors import EngineFailure, InputError
from runtimes.base import Message, Sampling
from runtimes.echo import EchoRuntime
from tui.help import HelpScreen
from tui.status import State
from tui.transcript import Notice, TurnView, Welcome


def ready(app: Any) -> bool:
    return app.screen_stack[0].status.status.state is State.READY


def answered(app: Any, turns: int) -> bool:
    chat = app.screen_stack[0]
    answers = [turn.answer for turn in chat.conversation.turns() if turn.answer]
    return ready(app) and chat.asking.active is None and len(answers) == turns


def shown(app: Any) -> str:
    """Return every character on the screen, row by row."""
    size = app.screen.size
    lines = app.screen._compositor.render_strips(size)
    return "\n".join(strip.text for strip in lines)


async def test_a_question_is_sent_and_the_answer_streams(chat_with, scripted, until) -> None:
    gate = threading.Event()
    runtime = scripted(["Hel", "lo **world**", gate, "!"])
    app = chat_with(runtime, system="be brief")
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "Hello world" in shown(app))
        assert app.screen.status.status.state is State.WRITING
        gate.set()
        await until(pilot, lambda: answered(app, 1))
        assert "Hello world!" in shown(app)
        assert "> hi" in shown(app)
        assert app.screen.prompt.text == ""
    assert runtime.asked == [[Message("system", "be brief"), Message("user", "hi")]]
    assert runtime.closed


async def test_the_second_question_brings_the_first_turn_along(chat_with, scripted, until) -> None:
    runtime = scripted(["one"], ["two"])
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        for number, question in enumerate("ab", 1):
            await pilot.press(question, "enter")
            await until(pilot, lambda number=number: answered(app, number))
    assert [m.content for m in runtime.asked[1]] == ["a", "one", "b"]
    assert [m.role for m in runtime.asked[1]] == ["user", "assistant", "user"]


@pytest.mark.parametrize("key", ["ctrl+j", "shift+enter", "alt+enter"])
async def test_a_question_may_have_lines(chat_with, scripted, until, key) -> None:
    runtime = scripted(["ok"])
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        await pilot.press("a", key, "b")
        assert app.screen.prompt.text == "a\nb"
        assert app.screen.prompt.size.height == 2
        await pilot.press("enter")
        await until(pilot, lambda: answered(app, 1))
    assert runtime.asked[0][-1].content == "a\nb"


async def test_keys_in_a_burst_stay_in_order(chat_with, scripted, until) -> None:
    runtime = scripted(["ok"])
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        await until(pilot, lambda: ready(app))
        for key in [*"why?", "enter", *"next"]:
            name = "question_mark" if key == "?" else key
            app.post_message(events.Key(name, "\r" if key == "enter" else key))
        await until(pilot, lambda: answered(app, 1))
        assert app.screen.prompt.text == "next"
    assert runtime.asked[0][-1].content == "why?"


async def test_a_paste_keeps_its_lines_and_loses_its_escapes(chat_with, scripted) -> None:
    app = chat_with(scripted())
    async with app.run_test() as pilot:
        app.post_message(events.Paste("one\rtwo\r\nthr\x1b[31mee\x9b2J\x07"))
        await pilot.pause()
        assert app.screen.prompt.text == "one\ntwo\nthr[31mee2J"


async def test_escape_stops_and_keeps_what_was_written(chat_with, scripted, until) -> None:
    runtime = scripted(["half ", threading.Event(), "never"], ["ok"])
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: "half" in shown(app))
        await pilot.press("escape")
        await until(pilot, lambda: answered(app, 1))
        assert "[stopped]" in shown(app)
        await pilot.press("b", "enter")
        await until(pilot, lambda: answered(app, 2))
    assert [m.content for m in runtime.asked[1]] == ["a", "half ", "b"]


async def test_escape_before_the_first_word_takes_the_question_back(
    chat_with, scripted, until
) -> None:
    app = chat_with(scripted([threading.Event(), "never"]))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: app.screen.status.status.state is State.THINKING)
        await pilot.press("escape")
        await until(pilot, lambda: ready(app))
        assert app.screen.prompt.text == "a"
        assert not app.screen.query(TurnView)


async def test_typing_goes_on_while_the_model_is_stuck(chat_with, scripted, until) -> None:
    app = chat_with(scripted([threading.Event(), "never"]))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: app.screen.status.status.state is State.THINKING)
        await pilot.press(*"next")
        assert app.screen.prompt.text == "next"
        await pilot.press("enter")  # one at a time: nothing is sent, nothing is lost
        await pilot.pause()
        assert app.screen.prompt.text == "next"
        assert "one answer at a time" in shown(app)


async def test_up_and_down_walk_through_the_questions(chat_with, scripted, until) -> None:
    app = chat_with(scripted(["1"], ["2"]))
    async with app.run_test() as pilot:
        prompt = app.screen.prompt
        await pilot.press("x", "ctrl+j", "y", "enter")
        await until(pilot, lambda: answered(app, 1))
        await pilot.press("z", "enter")
        await until(pilot, lambda: answered(app, 2))
        await pilot.press("d", "up")
        assert prompt.text == "z"
        await pilot.press("up")
        assert prompt.text == "x\ny"
        await pilot.press("up")  # moves within the text first
        assert prompt.cursor_location[0] == 0
        await pilot.press("up")  # the oldest stays
        assert prompt.text == "x\ny"
        await pilot.press("down", "down", "down")
        assert prompt.text == "d"


async def test_a_second_answer_stands_beside_the_first_and_moves_the_seed(
    chat_with, scripted, until
) -> None:
    runtime = scripted(["alpha"], ["omega"])
    app = chat_with(runtime, sampling=Sampling(temperature=0.5, seed=7))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: answered(app, 1))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "omega" in shown(app))
        assert "alpha" not in shown(app)
        assert len(app.screen.query(TurnView)) == 1
    assert runtime.asked[0] == runtime.asked[1]
    assert [s.seed for s in runtime.samplings] == [7, 8]


async def test_a_regeneration_that_fails_at_once_shows_the_answer_again(
    chat_with, scripted, until
) -> None:
    app = chat_with(scripted(["alpha"], [InputError("it broke")]))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: answered(app, 1))
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "it broke" in shown(app))
        assert "alpha" in shown(app)
        assert app.screen.prompt.text == ""
        assert [t.answer.text for t in app.screen.conversation.turns()] == ["alpha"]


async def test_a_new_chat_forgets_the_turns_and_keeps_the_system_prompt(
    chat_with, scripted, until
) -> None:
    runtime = scripted(["one", threading.Event()], ["two"])
    app = chat_with(runtime, system="s")
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: "one" in shown(app))
        await pilot.press("ctrl+n")  # also while an answer is being written
        await until(pilot, lambda: ready(app))
        assert app.screen.query(Welcome)
        assert not app.screen.query(TurnView)
        await pilot.press("b", "enter")
        await until(pilot, lambda: answered(app, 1))
    assert [m.content for m in runtime.asked[1]] == ["s", "b"]


async def test_an_error_is_explained_and_the_question_comes_back(
    chat_with, scripted, until
) -> None:
    error = InputError("5000 tokens do not fit 4096", hint="shorten [it]")
    runtime = scripted([error], ["fine"])
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        await pilot.press(*"long", "enter")
        await until(pilot, lambda: "5000 tokens do not fit 4096" in shown(app))
        assert "shorten [it]" in shown(app)
        assert app.screen.prompt.text == "long"
        await pilot.press("enter")
        await until(pilot, lambda: answered(app, 1))
        assert "fine" in shown(app)
    assert len(runtime.asked[1]) == 1
    assert app.bug is None


async def test_an_error_in_mid_answer_keeps_what_was_written(chat_with, scripted, until) -> None:
    runtime = scripted(["part", InputError("the worker died")], ["whole"])
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: "the worker died" in shown(app))
        assert "part" in shown(app)
        assert "[interrupted: this is not the whole answer]" in shown(app)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "whole" in shown(app))
        await until(pilot, lambda: "version 2 of 2" in shown(app))
    assert runtime.asked[0] == runtime.asked[1]


async def test_a_model_that_died_is_loaded_again_for_the_next_question(
    chat_with, scripted, until
) -> None:
    dead = scripted([EngineFailure("the worker died", hint="send again")])
    runtimes = [dead, scripted(["alive"])]
    app = chat_with(dead, opener=lambda name: runtimes.pop(0))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: "the worker died" in shown(app))
        assert "no model" in shown(app)
        await pilot.press("enter")
        await until(pilot, lambda: answered(app, 1))
        assert "alive" in shown(app)
        assert dead.closed


async def test_the_echo_runtime_answers_and_stops(chat_with, scripted, until) -> None:
    app = chat_with(scripted(), opener=lambda name: EchoRuntime(delay_s=0.01))
    async with app.run_test() as pilot:
        await pilot.press(*"echo", "enter")
        await until(pilot, lambda: answered(app, 1))
        answer = app.screen.conversation.turns()[0].answer
        assert (answer.text, answer.ending) == ("echo", "stop")
        app.post_message(events.Paste("word " * 200))
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.status.status.state is State.WRITING)
        await pilot.press("escape")
        await until(pilot, lambda: answered(app, 2))
        answer = app.screen.conversation.turns()[1].answer
        assert answer.ending == "stopped"
        assert 0 < len(answer.text) < 1000


async def test_what_was_typed_meanwhile_is_kept_below_the_returned_question(
    chat_with, scripted, until
) -> None:
    gate = threading.Event()
    app = chat_with(scripted([gate, InputError("no")]))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter", "b")
        gate.set()
        await until(pilot, lambda: app.screen.query(Notice))
        assert app.screen.prompt.text == "a\n\nb"


async def test_a_bug_is_shown_and_kept_for_the_caller(chat_with, scripted, until) -> None:
    bug = KeyError("oops")
    app = chat_with(scripted([bug]))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: "KeyError: 'oops'" in shown(app))
        assert app.screen.prompt.text == "a"
    assert app.bug is bug


async def test_a_question_asked_while_the_model_loads_is_answered_then(
    chat_with, scripted, until
) -> None:
    gate, runtime = threading.Event(), scripted(["ok"])

    def slow(name):
        gate.wait(5)
        return runtime

    app = chat_with(runtime, opener=slow)
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await pilot.pause()
        assert "loading" in shown(app)
        gate.set()
        await until(pilot, lambda: answered(app, 1))


async def test_a_model_that_cannot_be_loaded_is_tried_again(chat_with, scripted, until) -> None:
    runtime = scripted(["ok"])
    outcomes = [InputError("the file is cut short", hint="convert again"), runtime]

    def flaky(name):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    app = chat_with(runtime, opener=flaky)
    async with app.run_test() as pilot:
        await until(pilot, lambda: "the file is cut short" in shown(app))
        assert "no model" in shown(app)
        await pilot.press("a", "enter")
        await until(pilot, lambda: answered(app, 1))


async def test_quitting_does_not_wait_for_a_model_that_loads(chat_with, scripted, until) -> None:
    gate, runtime = threading.Event(), scripted()

    def stuck(name):
        gate.wait(30)
        return runtime

    app = chat_with(runtime, opener=stuck)
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.screen.session.loading)
        await pilot.press("ctrl+q")
    assert not gate.is_set()
    gate.set()
    for _ in range(200):
        if runtime.closed:
            return
        threading.Event().wait(0.01)
    raise AssertionError("a model that arrives after the end must be closed")


async def test_the_question_mark_opens_help_only_on_an_empty_prompt(chat_with, scripted) -> None:
    app = chat_with(scripted())
    async with app.run_test() as pilot:
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        assert "Ctrl+R" in shown(app)
        await pilot.press("escape")
        await pilot.press("a", "question_mark")
        assert app.screen.prompt.text == "a?"
        await pilot.press("f1")
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("f1")
        assert not isinstance(app.screen, HelpScreen)


async def test_ctrl_c_stops_an_answer_and_never_quits(chat_with, scripted, until) -> None:
    app = chat_with(scripted(["half", threading.Event()]))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: "half" in shown(app))
        await pilot.press("ctrl+c")
        await until(pilot, lambda: answered(app, 1))
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert "Ctrl+Q quits" in shown(app)


async def test_ctrl_y_copies_the_markdown(chat_with, scripted, until) -> None:
    app = chat_with(scripted(["**bold**"]))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: answered(app, 1))
        await pilot.press("ctrl+y")
        assert app.clipboard == "**bold**"


async def test_scrolling_up_is_not_undone_by_new_text(chat_with, scripted, until) -> None:
    gate = threading.Event()
    lines = [f"line {number}\n\n" for number in range(40)]
    app = chat_with(scripted([*lines, gate, *lines, "end"]))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: "line 39" in shown(app))
        await pilot.press("pageup", "pageup")
        await pilot.pause()
        before = app.screen.transcript.scroll_y
        gate.set()
        await until(pilot, lambda: answered(app, 1))
        assert app.screen.transcript.scroll_y == before
        await until(pilot, lambda: "Ctrl+End: more below" in shown(app))
        await pilot.press("ctrl+end")
        await until(pilot, lambda: "end" in shown(app))


async def test_hostile_text_cannot_reach_the_terminal(chat_with, scripted, until) -> None:
    attack = "\x1b]0;owned\x07\x1b[2J\x9b31mred\r`\x1b[5m`\n\n```\x1b[x\nco\x1bde\n```\n"
    app = chat_with(scripted([attack, "done"]))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: answered(app, 1))
        await until(pilot, lambda: "done" in shown(app))
        screen = shown(app)
    assert not {c for c in screen if ord(c) < 32 or 127 <= ord(c) < 160} - {"\n"}
    assert "red" in screen


async def test_tags_are_shown_and_links_are_not_opened(chat_with, scripted, until) -> None:
    app = chat_with(scripted(["<think>hm</think> ", "[x](https://example.org) ![i](http://e/i)"]))
    opened: list[str] = []
    app.open_url = opened.append
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: answered(app, 1))
        await until(pilot, lambda: "<think>hm</think>" in shown(app))
        markdown = app.screen.query_one(Markdown)
        markdown.post_message(Markdown.LinkClicked(markdown, "https://example.org"))
        await until(pilot, lambda: "not opened: https://example.org" in shown(app))
    assert opened == []


async def test_a_cut_answer_says_why(chat_with, scripted, finish, until) -> None:
    app = chat_with(scripted(["x", finish("length")]), sampling=Sampling(max_tokens=1))
    async with app.run_test() as pilot:
        await pilot.press("a", "enter")
        await until(pilot, lambda: "[cut off after 1 tokens, the limit of this chat]" in shown(app))
