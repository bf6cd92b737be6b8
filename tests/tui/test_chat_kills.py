"""kill -9 while chatting: what was shown as finished is there, and the store always opens.

`EDGEKIT_KILLS=200 pytest tests/tui/test_chat_kills.py` kills 200 times instead of 6: one half of
them the line mode, the other the screen. The store is private; its key derivation is cheap.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pty")

from tui.conversation import Answer, Question

from .real_program import SLOW_PROGRAM, Machine, Output, Terminal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the lock needs Linux")

KILLS = max(1, int(os.environ.get("EDGEKIT_KILLS", "6")) // 2)
SUMMARY = re.compile(r"^\[\d+ tokens?, first token .*\]$", re.MULTILINE)
MARK = "interrupted: this is not the whole answer"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.make_cheap_store()
    return made


@pytest.fixture
def words(machine: Machine) -> list[str]:
    chat = ["chat", "--echo", "--private", "--passphrase-file", str(machine.passphrase_file)]
    return [*chat, "--max-tokens", "2000"]


class Record:
    """What the programs that were killed had asked and shown, to be compared with the store."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine = machine
        self.chance = random.Random(seed)
        self.finished: set[str] = set()  # questions; the echo's answers are the same words
        self.interrupted = 0
        self.typed = ""  # the last question
        self._number = 0

    def question(self, most_words: int) -> str:
        """Return words that were never asked before."""
        self._number += 1
        count = self.chance.randint(1, most_words)
        self.typed = " ".join(["q", *(f"w{self._number}x{i}" for i in range(count)), "end."])
        return self.typed

    def check(self, begun: str = "") -> None:
        """Compare with what is stored. `begun` was seen to be asked, but not to be finished."""
        asked: dict[str, str] = {}
        answers: dict[str, Answer] = {}
        with self.machine.store() as store:
            for chat in store.chats():
                _, entries, sentences = store.load(chat.id)
                assert sentences == []
                asked |= {e.text: e.id for e in entries if isinstance(e, Question)}
                answers |= {e.parent: e for e in entries if isinstance(e, Answer)}
            # A question that was cut off while it was typed is a draft; one that was asked is not.
            draft = store.note("draft") or ""
            assert not draft or (self.typed.startswith(draft) and self.typed not in asked)
            store.set_note("draft", None)
        for question in self.finished:
            answer = answers[asked[question]]
            assert (answer.text, answer.ending) == (question, "stop")
        assert not begun or begun in asked
        for question, question_id in asked.items():
            answer = answers.get(question_id)
            if answer is not None and answer.text != question:
                assert answer.ending == "interrupted", answer
                assert question.startswith(answer.text)
        self.interrupted = sum(a.ending == "interrupted" for a in answers.values())


def test_a_killed_line_mode_loses_nothing(machine: Machine, words: list[str]) -> None:
    record = Record(machine, seed=1)
    for number in range(KILLS):
        slow = number % 3 == 1  # so that some answers are stored before they are finished
        machine.environment["ECHO_DELAY_S"] = "0.1" if slow else "0.003"
        seconds = record.chance.uniform(2.5, 3.5) if slow else record.chance.uniform(0.0, 1.2)
        answers = number % 3 == 2  # count from the first answer on: a busy machine starts slowly
        more = ["--continue"] if record.chance.random() < 0.5 else []
        most_words = 80 if slow else 30
        finished, begun = chat_in_lines(record, [*words, *more], most_words, seconds, answers)
        record.finished |= finished
        record.check(begun)
    assert len(record.finished) >= KILLS // 3
    assert KILLS < 2 or record.interrupted


def chat_in_lines(
    record: Record, words: list[str], most_words: int, seconds: float, answers: bool
) -> tuple[set[str], str]:
    """Chat and kill; return the questions that were reported as finished, and the one begun."""
    asked: list[str] = []
    with record.machine.start(*words, program=SLOW_PROGRAM) as chat:
        output = Output(chat)
        deadline = time.monotonic() + seconds
        if most_words > 30:  # count from the first words on
            asked.append(record.question(most_words) + " more" * 40)
            output.send(asked[-1] + "\n")
            output.until(lambda: output.answered)
            deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or (answers and not SUMMARY.search(output.told)):
            if len(SUMMARY.findall(output.told)) == len(asked):
                asked.append(record.question(most_words))
                output.send(asked[-1] + "\n")
            time.sleep(0.001)
        chat.kill()
        output.end()
    assert chat.returncode == -signal.SIGKILL
    reported = len(SUMMARY.findall(output.told))
    rest = asked[reported:]
    begun = rest[0] if rest and len(output.answered.splitlines()) > reported else ""
    return set(asked[:reported]), begun


@pytest.mark.slow  # kills by the clock: other tests beside it would take its time
def test_a_killed_screen_loses_nothing(machine: Machine, words: list[str]) -> None:
    record = Record(machine, seed=2)
    for number in range(KILLS):
        machine.environment["ECHO_DELAY_S"] = record.chance.choice(["0.0", "0.003", "0.03"])
        # Every second kill comes when an answer has just been shown as finished, on a slow disk.
        machine.environment["DISK_DELAY_S"] = "0.1" if number % 2 else "0"
        seconds = None if number % 2 else record.chance.uniform(0.0, 2.5)
        mode = record.chance.choice(["low", "full"])
        with Terminal(machine, *words, "--bandwidth", mode, program=SLOW_PROGRAM) as terminal:
            finished, begun = chat_on_screen(record, terminal, seconds)
        record.finished |= finished
        record.check(begun)
    assert len(record.finished) >= KILLS // 3


def chat_on_screen(
    record: Record, terminal: Terminal, seconds: float | None
) -> tuple[set[str], str]:
    """Chat and kill; return the questions that were shown as finished, and the one begun."""
    finished: set[str] = set()
    question = ""
    answers_left = record.chance.randint(1, 3) if seconds is None else 1_000
    deadline = time.monotonic() + (15 if seconds is None else seconds)
    while time.monotonic() < deadline and answers_left:
        terminal.read(0.01)
        if question and is_finished(terminal, question):
            while terminal.read(0.01):  # else one half is of this picture and one of the last
                pass
            if is_finished(terminal, question):
                finished.add(question)
                question = ""
                answers_left -= 1
        if not question and terminal.is_ready and answers_left:
            question = record.question(12)
            terminal.press(f"{question}\r")
    terminal.kill()
    assert terminal.process.returncode == -signal.SIGKILL
    answering = "thinking" in terminal.status or "writing" in terminal.status
    return finished, question if answering else ""


def is_finished(terminal: Terminal, question: str) -> bool:
    """Return whether the screen shows the whole answer to `question`, and that it is ready."""
    return terminal.is_ready and terminal.conversation.count(question) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["low", "full"])
def test_the_screen_goes_on_where_it_was_killed(
    machine: Machine, words: list[str], mode: str
) -> None:
    machine.environment["ECHO_DELAY_S"] = "0.1"
    words += ["--bandwidth", mode]
    long_question = " ".join(f"step{i}" for i in range(60))
    with Terminal(machine, *words, program=SLOW_PROGRAM) as terminal:
        terminal.ready()
        terminal.press("a finished one\r")
        terminal.until(lambda shown: is_finished(shown, "a finished one"))
        terminal.press(f"{long_question}\r")
        terminal.until(lambda shown: shown.text.count("step12") == 2)
        assert "writing" in terminal.status
        terminal.press("an unsent thought")
        terminal.until("an unsent thought")
        # Both are stored every two seconds.
        terminal.until(lambda shown: shown.text.count("step45") == 2)
        terminal.kill()
    machine.environment["ECHO_DELAY_S"] = "0"
    with Terminal(machine, *words, program=SLOW_PROGRAM) as terminal:
        terminal.ready()
        assert terminal.conversation.count("a finished one") == 2
        assert terminal.text.count(MARK) == 1
        assert terminal.text.count("step10") == 2
        assert terminal.text.count("step59") == 1  # the question; the answer broke off
        assert "> an unsent thought" in "\n".join(terminal.lines[-5:])
        terminal.press("\x12")  # Ctrl+R
        terminal.until(lambda shown: shown.text.count("step59") == 2 and shown.is_ready)
        terminal.until("version 2 of 2")
        assert terminal.quit() == 0
    with machine.store() as store:
        assert len(store.chats()) == 1
        assert store.note("draft") in (None, "an unsent thought")
