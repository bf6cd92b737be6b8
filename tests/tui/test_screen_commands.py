"""Slash commands, branches and stored chats, driven by keys on the real screen."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual import events

from runtimes.base import Sampling
from tui.actions.run import HANDLERS
from tui.commands import COMMANDS
from tui.conversation import Answer, Chat, Question
from tui.setup import ArtifactChoice
from tui.status import State
from tui.store.chats import ChatStore
from tui.transcript import TURNS_AT_ONCE, Welcome


def chat_of(app: Any) -> Any:
    return app.screen_stack[0]


def answered(app: Any, turns: int) -> bool:
    chat = chat_of(app)
    answers = [turn.answer for turn in chat.conversation.turns() if turn.answer]
    idle = chat.asking.active is None and chat.status.status.state is State.READY
    return idle and len(answers) == turns


def shown(app: Any) -> str:
    lines = app.screen._compositor.render_strips(app.screen.size)
    return "\n".join(strip.text for strip in lines)


async def send(pilot: Any, text: str) -> None:
    pilot.app.post_message(events.Paste(text))
    await pilot.press("enter")


async def ask(pilot: Any, until: Any, text: str, turns: int) -> None:
    await send(pilot, text)
    await until(pilot, lambda: answered(pilot.app, turns))


def texts(app: Any) -> list[tuple[str, str]]:
    return [(turn.question.text, turn.answer.text) for turn in chat_of(app).conversation.turns()]


def stored(store: ChatStore, count: int) -> None:
    """Put one chat of `count` turns into `store`."""
    parent, at = None, 1000.0
    entries: list[Any] = []
    for number in range(count):
        question = Question(f"q{number}", parent, f"question {number}", at=at)
        answer = Answer(f"a{number}", question.id, f"answer {number}", "stop", at=at + 1)
        entries += [question, answer]
        parent, at = answer.id, at + 2
    store.save_chat(Chat("c", "An old chat", head=parent, model="tiny q4_k_m"))
    for entry in entries:
        store.save_entry("c", entry)


def test_every_command_does_something() -> None:
    assert set(HANDLERS) == {command.name for command in COMMANDS}


async def test_an_edited_question_is_a_branch_and_the_old_one_stays(
    chat_with, scripted, until
) -> None:
    runtime = scripted(["one"], ["two"], ["three"])
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        await ask(pilot, until, "a", 1)
        await ask(pilot, until, "b", 2)
        await send(pilot, "/edit c")
        await until(pilot, lambda: texts(app)[-1:] == [("c", "three")])
        assert "version 2 of 2" in shown(app)
        assert "> b" not in shown(app)
        await send(pilot, "/versions 1")
        await until(pilot, lambda: texts(app) == [("a", "one"), ("b", "two")])
        await until(pilot, lambda: "version 1 of 2" in shown(app))
    assert [m.content for m in runtime.asked[2]] == ["a", "one", "c"]


async def test_an_earlier_turn_is_reworded_in_the_editor(chat_with, scripted, until) -> None:
    runtime = scripted(["one"], ["two"], ["three"])
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        await ask(pilot, until, "a", 1)
        await ask(pilot, until, "b", 2)
        await pilot.press("shift+tab", "up", "e")
        await until(pilot, lambda: len(app.screen_stack) == 2)
        await pilot.press("end", *"xy", "enter")
        await until(pilot, lambda: texts(app) == [("axy", "three")])
        await pilot.press("shift+tab", "left")
        await until(pilot, lambda: texts(app) == [("a", "one"), ("b", "two")])
    assert [m.content for m in runtime.asked[2]] == ["axy"]


async def test_a_turn_in_the_middle_is_answered_again(chat_with, scripted, until) -> None:
    app = chat_with(scripted(["one"], ["two"], ["ONE"]))
    async with app.run_test() as pilot:
        await ask(pilot, until, "a", 1)
        await ask(pilot, until, "b", 2)
        await pilot.press("shift+tab", "up", "r")
        await until(pilot, lambda: texts(app) == [("a", "ONE")])
        await pilot.press("escape", "shift+tab", "left")
        await until(pilot, lambda: texts(app) == [("a", "one"), ("b", "two")])


async def test_a_withdrawn_edit_shows_the_old_branch_again(chat_with, scripted, until) -> None:
    app = chat_with(scripted(["one"], [threading.Event(), "never"]))
    async with app.run_test() as pilot:
        await ask(pilot, until, "a", 1)
        await send(pilot, "/edit b")
        await until(pilot, lambda: chat_of(app).status.status.state is State.THINKING)
        await pilot.press("escape")
        await until(pilot, lambda: answered(app, 1))
        assert texts(app) == [("a", "one")]
        assert chat_of(app).prompt.text == "b"
        assert "version" not in shown(app)


async def test_a_chat_is_there_again_in_the_next_program(chat_with, scripted, until) -> None:
    store = ChatStore.open(None)
    app = chat_with(scripted(["**one**"]), store=store, system="be brief")
    async with app.run_test() as pilot:
        await ask(pilot, until, "what is it?", 1)
        await pilot.press(*"half a tho")
        await until(pilot, lambda: store.note("draft") == "half a tho")
    chat_id = store.chats()[0].id
    assert store.note("open") == chat_id  # the test harness ends the app without its key to quit

    runtime = scripted(["two"])
    again = chat_with(runtime, store=store, resume=chat_id, draft=store.note("draft"))
    async with again.run_test() as pilot:
        await until(pilot, lambda: "> what is it?" in shown(again))
        assert chat_of(again).prompt.text == "half a tho"
        await ask(pilot, until, "!", 2)
        await pilot.press("ctrl+q")
    assert [m.content for m in runtime.asked[0]] == [
        "be brief",
        "what is it?",
        "**one**",
        "half a tho!",
    ]
    assert store.note("open") is None
    assert [chat.title for chat in store.chats()] == ["what is it?"]


async def test_quitting_in_mid_answer_keeps_what_was_written(chat_with, scripted, until) -> None:
    store = ChatStore.open(None)
    app = chat_with(scripted(["half ", threading.Event()]), store=store)
    async with app.run_test() as pilot:
        await send(pilot, "a")
        await until(pilot, lambda: "half" in shown(app))
        await pilot.press("ctrl+q")
    _, entries, _ = store.load(store.chats()[0].id)
    assert [e.text for e in entries] == ["a", "half "]
    assert entries[1].ending == "stopped"


async def test_chats_are_found_opened_and_left(chat_with, scripted, until) -> None:
    store = ChatStore.open(None)
    stored(store, 2)
    app = chat_with(scripted(["x"]), store=store)
    async with app.run_test() as pilot:
        await ask(pilot, until, "another", 1)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "An old chat" in shown(app))
        await pilot.press(*"answer 1")
        await until(pilot, lambda: "another" not in shown(app).split("answer 1", 1)[1])
        await pilot.press("enter")
        await until(pilot, lambda: len(app.screen_stack) == 1 and "> question 1" in shown(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.screen.query(Welcome))
    assert {chat.title for chat in store.chats()} == {"An old chat", "another"}


async def test_a_chat_is_renamed_exported_and_deleted(
    chat_with, scripted, until, tmp_path: Path
) -> None:
    store = ChatStore.open(None)
    app = chat_with(scripted(["mail me at a.b@example.org"]), store=store)
    out = tmp_path / "chat.md"
    async with app.run_test() as pilot:
        await ask(pilot, until, "how?", 1)
        await send(pilot, "/rename Mail")
        await until(pilot, lambda: store.chats()[0].title == "Mail")
        await send(pilot, f"/export {out} redact")
        await until(pilot, lambda: "a.b@example.org" in shown(app) and len(app.screen_stack) == 2)
        await pilot.press("enter")
        await until(pilot, out.exists)
        await send(pilot, "/delete")
        await until(pilot, lambda: len(app.screen_stack) == 2)
        await pilot.press("y")
        await until(pilot, lambda: not store.chats())
        await until(pilot, lambda: app.screen.query(Welcome))
    assert "# Mail" in out.read_text()
    assert "example.org" not in out.read_text()


async def test_only_the_last_turns_of_a_long_chat_are_drawn(chat_with, scripted, until) -> None:
    store = ChatStore.open(None)
    stored(store, 2 * TURNS_AT_ONCE + 3)
    app = chat_with(scripted(), store=store, resume="c")
    async with app.run_test() as pilot:
        await until(pilot, lambda: "question 26" in shown(app))
        assert len(chat_of(app).transcript.views) == TURNS_AT_ONCE
        await pilot.press(*["pageup"] * 12)
        await until(pilot, lambda: len(chat_of(app).transcript.views) == 2 * TURNS_AT_ONCE + 3)
        views = [view.turn.question.text for view in chat_of(app).transcript.views]
        assert views == [f"question {number}" for number in range(27)]


async def test_a_file_goes_along_with_one_question(
    chat_with, scripted, until, tmp_path: Path
) -> None:
    notes = tmp_path / "my notes.txt"
    notes.write_text("the kettle is blue\n")
    runtime = scripted(["blue"], ["?"])
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        await until(pilot, lambda: answered(app, 0))
        await send(pilot, f"/attach {notes}")
        await until(pilot, lambda: "with my notes.txt: 19 tokens, 4096 are left" in shown(app))
        await ask(pilot, until, "which colour?", 1)
        assert "[with my notes.txt (19 tokens)]" in shown(app)
        await ask(pilot, until, "sure?", 2)
    assert "the kettle is blue" in runtime.asked[0][0].content
    assert runtime.asked[0][0].content.endswith("which colour?")
    assert runtime.asked[1][-1].content == "sure?"


async def test_old_turns_are_left_out_aloud_when_the_context_is_full(
    chat_with, scripted, until
) -> None:
    runtime = scripted(["x" * 1500], ["y" * 1500], ["z"])
    app = chat_with(runtime, sampling=Sampling(max_tokens=500))
    async with app.run_test() as pilot:
        for turns, question in enumerate(("a", "b", "c" * 600), 1):
            await ask(pilot, until, question, turns)
        await until(pilot, lambda: "left out" in shown(app))
        assert len(texts(app)) == 3
    assert len(runtime.asked[2]) < 5
    assert runtime.asked[2][-1].content == "c" * 600


async def test_the_model_is_changed_in_mid_chat(chat_with, scripted, until) -> None:
    runtimes = {"tiny q4_k_m": scripted(["one"]), "other": scripted(["two"])}
    choice = ArtifactChoice("other", "/x/other", "gguf", "q8_0", 1000, 512)
    app = chat_with(
        runtimes["other"],
        opener=runtimes.__getitem__,
        list_artifacts=lambda: [replace(choice, name="tiny q4_k_m"), choice],
    )
    app._clock = runtimes["other"].clock
    async with app.run_test() as pilot:
        await ask(pilot, until, "a", 1)
        await send(pilot, "/model other")
        await until(pilot, lambda: runtimes["tiny q4_k_m"].closed)
        await ask(pilot, until, "b", 2)
        await send(pilot, "/model none")
        await until(pilot, lambda: "there is no artifact 'none'" in shown(app))
    assert [m.content for m in runtimes["other"].asked[0]] == ["a", "one", "b"]


async def test_sampling_and_system_prompt_are_of_the_chat(chat_with, scripted, until) -> None:
    runtime = scripted(["one"], ["two"], ["three"])
    app = chat_with(runtime, system="s")
    async with app.run_test() as pilot:
        await ask(pilot, until, "a", 1)
        await send(pilot, "/set temperature 0.2")
        await until(pilot, lambda: chat_of(app).sampling.temperature == 0.2)
        await send(pilot, "/system be a pirate")
        await until(pilot, lambda: chat_of(app).recorder.chat.system == "be a pirate")
        await ask(pilot, until, "b", 2)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.screen.query(Welcome))
        await ask(pilot, until, "c", 1)
    assert [s.temperature for s in runtime.samplings] == [0.7, 0.2, 0.7]
    assert [asked[0].content for asked in runtime.asked] == ["s", "be a pirate", "s"]


@pytest.mark.parametrize("typed", ["/teme dark", "/set heat 3", "/versions", "/attach"])
async def test_a_command_that_cannot_be_done_says_why(chat_with, scripted, until, typed) -> None:
    app = chat_with(scripted(["x"]))
    async with app.run_test() as pilot:
        await ask(pilot, until, "a", 1)
        before = shown(app).splitlines()[-3]
        await send(pilot, typed)
        await until(pilot, lambda: shown(app).splitlines()[-3] != before)
        assert app.bug is None
        assert len(texts(app)) == 1


async def test_a_code_block_is_copied_by_its_number(chat_with, scripted, until) -> None:
    app = chat_with(scripted(["a\n\n```py\none = 1\n```\n\nb\n\n```\ntwo\n```\n"]))
    async with app.run_test() as pilot:
        await ask(pilot, until, "code", 1)
        await pilot.press("shift+tab", "2")
        await until(pilot, lambda: app.clipboard == "two\n")
        await pilot.press("escape")
        await send(pilot, "/copy 1")
        await until(pilot, lambda: app.clipboard == "one = 1\n")


async def test_commands_are_offered_completed_and_escaped(chat_with, scripted, until) -> None:
    runtime = scripted(["ok"])
    app = chat_with(runtime)
    async with app.run_test() as pilot:
        await pilot.press("slash", "v")
        assert "/versions [NUMBER]" in shown(app)
        await pilot.press("tab")
        assert chat_of(app).prompt.text == "/versions "
        await pilot.press("ctrl+u")
        await ask(pilot, until, "//versions of Debian", 1)
    assert runtime.asked[0][0].content == "/versions of Debian"


async def test_damage_is_told_once_however_often_the_model_changes(
    chat_with, scripted, until, tmp_path: Path
) -> None:
    with closing(ChatStore.open(tmp_path / "chats.db")) as store:
        store.save_entry("one", Question("q", None, "kept"))
        store._database.connection.execute("UPDATE records SET box=zeroblob(9) WHERE id=0")
    store = ChatStore.open(tmp_path / "chats.db")
    choice = ArtifactChoice("other", "/x/other", "gguf", "q8_0", 1000, 512)
    app = chat_with(scripted(), store=store, list_artifacts=lambda: [choice])
    async with app.run_test() as pilot:
        await until(pilot, lambda: "Damaged: the list of chats is damaged" in shown(app))
        assert "edgekit privacy rescue" in " ".join(shown(app).replace("█", "").split())
        await until(pilot, lambda: answered(app, 0))
        await send(pilot, "/model other")
        await until(pilot, lambda: chat_of(app).model == "other" and answered(app, 0))
        await pilot.pause(0.2)
        assert shown(app).count("Damaged:") == 1
    store.close()


async def test_a_chat_that_is_deleted_before_the_first_word_leaves_an_empty_one(
    chat_with, scripted, until
) -> None:
    store = ChatStore.open(None)
    app = chat_with(scripted(["one"], [threading.Event(), "never"]), store=store)
    async with app.run_test() as pilot:
        await ask(pilot, until, "a", 1)
        await send(pilot, "b")
        await until(pilot, lambda: chat_of(app).status.status.state is State.THINKING)
        await send(pilot, "/chats")
        await until(pilot, lambda: len(app.screen_stack) == 2 and "(open)" in shown(app))
        await pilot.press("ctrl+d")
        await until(pilot, lambda: len(app.screen_stack) == 3)
        await pilot.press("y")
        await until(pilot, lambda: not store.chats())
        await pilot.press("escape")
        await until(pilot, lambda: app.screen.query(Welcome) and answered(app, 0))
        assert chat_of(app).conversation.head is None
        assert store.chats() == []
