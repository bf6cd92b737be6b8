from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import EngineFailure, InputError
from edgekit.settings import Settings
from runtimes.base import Sampling
from tui.conversation import Answer, Chat, Persona, Question
from tui.plain import run_plain
from tui.setup import ArtifactChoice, ChatSetup
from tui.store.chats import ChatStore

CHOICES = [
    ArtifactChoice("tiny", "/a/tiny", "gguf", "q4_k_m", 105_000_000, 4096, 0.063, 0.851, 91.0, 1.0),
    ArtifactChoice("other", "/a/other", "gguf", "q8_0", 145_000_000, 4096),
    ArtifactChoice("base", "/a/base", "gguf", "q8_0", 1, 1, problem="it has no chat template"),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Lines:
    """A chat in lines over one store; `say` runs it on some input, as one process would."""

    def __init__(self, store: ChatStore) -> None:
        self.store = store
        self.opened: list[str] = []
        self.options: dict[str, Any] = {}

    def say(self, runtime: Any, lines: str, *, terminal: bool = False) -> tuple[int, str, str]:
        def open_runtime(name: str) -> Any:
            self.opened.append(name)
            if name == "broken":
                raise InputError("the model is broken")
            return runtime

        values = {"sampling": Sampling(), "system": "", "settings": Settings(), **self.options}
        setup = ChatSetup(
            open_runtime=open_runtime,
            model="tiny",
            list_artifacts=lambda: CHOICES,
            store=self.store,
            **values,
        )
        out, err = io.StringIO(), io.StringIO()
        stdin = Terminal(lines) if terminal else io.StringIO(lines)
        code = run_plain(setup, stdin=stdin, stdout=out, stderr=err, clock=runtime.clock)
        return code, out.getvalue(), err.getvalue()

    def entries(self) -> list[Any]:
        return [e for chat in self.store.chats() for e in self.store.load(chat.id)[1]]


@pytest.fixture
def lines() -> Lines:
    return Lines(ChatStore.open(None))


def asked(runtime: Any) -> list[list[str]]:
    return [[message.content for message in messages] for messages in runtime.asked]


def test_answers_go_to_stdout_and_everything_else_to_stderr(scripted, lines) -> None:
    runtime = scripted(["Hel", "lo"], ["two\n"])
    lines.options["system"] = "s"
    code, out, err = lines.say(runtime, "a\n\n  \nb\n")
    assert (code, out) == (0, "Hello\ntwo\n")
    assert asked(runtime)[1] == ["s", "a", "Hello", "b"]
    assert "loading tiny ..." in err
    assert "[2 tokens, first token 0.50 s, 20.0 tokens/s]" in err
    assert "\r" not in err
    assert runtime.closed


def test_controls_are_stripped_from_both_sides(scripted, lines) -> None:
    runtime = scripted(["\x1b]0;owned\x07a\x9b2J\rb\tc\n"])
    _, out, _ = lines.say(runtime, "q\x1b[31m\n")
    assert out == "]0;owneda2Jb\tc\n"
    assert asked(runtime) == [["q[31m"]]


def test_an_error_is_told_and_the_chat_goes_on(scripted, lines) -> None:
    runtime = scripted([InputError("too long: 9 and 5", hint="cut")], ["fine"])
    code, out, err = lines.say(runtime, "a\nb\n")
    assert (code, out) == (3, "fine\n")
    assert "error: too long: 9 and 5\nhint: cut\n" in err
    assert asked(runtime)[1] == ["b"]
    assert lines.opened == ["tiny"]


def test_a_model_that_died_is_loaded_again(scripted, lines) -> None:
    runtime = scripted(["half ", EngineFailure("the worker died")], ["whole"])
    code, out, _ = lines.say(runtime, "a\nb\n")
    assert (code, out) == (1, "half \nwhole\n") or out == "half whole\n"
    assert lines.opened == ["tiny", "tiny"]
    half = next(e for e in lines.entries() if isinstance(e, Answer) and e.text == "half ")
    assert half.ending == "interrupted"


def test_a_bug_is_raised_and_the_model_freed(scripted, lines) -> None:
    runtime = scripted([KeyError("oops")])
    with pytest.raises(KeyError):
        lines.say(runtime, "a\n")
    assert runtime.closed


def test_a_reader_that_leaves_stops_the_model(scripted, lines) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    runtime = scripted(["a", threading.Event(), "b"])
    setup = ChatSetup(lambda _: runtime, "tiny", list, Sampling(), "", lines.store, Settings())
    with pytest.raises(BrokenPipeError):
        run_plain(setup, stdin=io.StringIO("q\n"), stdout=Gone(), stderr=io.StringIO())
    assert runtime.closed
    assert [e.ending for e in lines.entries() if isinstance(e, Answer)] == ["interrupted"]


def test_an_unknown_command_in_a_pipe_fails_at_the_end_and_two_slashes_escape(
    scripted, lines
) -> None:
    runtime = scripted(["ok"])
    code, out, err = lines.say(runtime, "/frobnicate\n//help me\n")
    assert (code, out) == (2, "ok\n")
    assert "error: there is no command /frobnicate" in err
    assert asked(runtime) == [["/help me"]]
    assert lines.say(scripted(), "/frobnicate\n", terminal=True)[0] == 0


def test_everything_is_in_the_store_when_the_chat_ends(scripted, lines) -> None:
    lines.say(scripted(["one"], ["two"]), "first question\nsecond\n")
    (chat,) = lines.store.chats()
    assert (chat.title, chat.model) == ("first question", "tiny")
    _, entries, damage = lines.store.load(chat.id)
    assert [e.text for e in entries] == ["first question", "one", "second", "two"]
    assert damage == []
    assert lines.store.note("open") is None
    lines.say(scripted(), "")
    assert len(lines.store.chats()) == 1  # an empty chat is not stored


def test_a_resumed_chat_goes_on_where_it_was(scripted, lines) -> None:
    lines.say(scripted(["one"]), "first\n")
    lines.options["resume"] = lines.store.chats()[0].id
    runtime = scripted(["two"])
    _, out, err = lines.say(runtime, "second\n")
    assert asked(runtime) == [["first", "one", "second"]]
    assert out == "two\n"
    assert "You: first\ntiny: one\n" in err


def test_a_resume_of_a_chat_that_is_gone_is_an_error_and_not_the_end(scripted, lines) -> None:
    lines.options["resume"] = "0" * 32
    code, out, _ = lines.say(scripted(["one"]), "first\n")
    assert (code, out) == (3, "one\n")


def test_chats_are_listed_searched_and_opened_by_number(scripted, lines) -> None:
    lines.say(scripted(["penguins swim"], ["one"]), "about birds\n/new\nabout fish\n")
    runtime = scripted(["more"])
    _, _, err = lines.say(runtime, "/chats\n/chats penguins\n/chats 1\nand?\n")
    assert "1. about fish, " in err
    assert "2. about birds, " in err
    assert "1. about birds: penguins swim\n" in err
    assert asked(runtime) == [["about birds", "penguins swim", "and?"]]
    code, _, err = lines.say(scripted(), "/chats 7\n/chats nowhere\n")
    assert (code, "there are 1 to 2" in err, "no chat found" in err) == (2, True, True)


def test_edit_and_retry_make_branches_and_versions_picks_one(scripted, lines) -> None:
    runtime = scripted(["one"], ["two"], ["three"], ["four"])
    _, out, err = lines.say(
        runtime, "first\n/retry\n/edit other words\n/versions\n/versions 1\nand then?\n"
    )
    assert out == "one\ntwo\nthree\nfour\n"
    assert asked(runtime)[1:] == [["first"], ["other words"], ["first", "one", "and then?"]]
    assert "2. You: first / two\n3. You: other words / three (read now)\n" in err
    assert len(lines.entries()) == 7


def test_a_fixed_seed_moves_on_with_each_answer_to_the_same_question(scripted, lines) -> None:
    runtime = scripted(["one"], ["two"], ["three"])
    lines.say(runtime, "/set seed 5\na\n/retry\nb\n")
    assert [sampling.seed for sampling in runtime.samplings] == [5, 6, 5]


def test_copy_writes_the_code_block_raw(scripted, lines) -> None:
    answer = "See:\n```python\nif x:\n    y\n```\nand\n~~~\nz"
    code, out, _ = lines.say(scripted([answer]), "q\n/copy 1\n/copy 2\n/copy\n")
    assert (code, out) == (0, f"{answer}\nif x:\n    y\nz\n{answer}\n")
    assert lines.say(scripted(), "/copy 3\n")[0] == 2


def test_a_file_goes_along_with_the_next_question_only(scripted, lines, tmp_path: Path) -> None:
    (tmp_path / "my notes.txt").write_text("the text")
    runtime = scripted(["one"], ["two"])
    _, _, err = lines.say(
        runtime, f"/attach '{tmp_path}/my notes.txt'\n/context\nwhat is it?\nand?\n"
    )
    assert "my notes.txt goes along with the next question: 8 of 4,096 tokens" in err
    assert "8 tokens  file my notes.txt" in err
    assert asked(runtime)[0] == ["my notes.txt:\n```\nthe text\n```\n\nwhat is it?"]
    assert asked(runtime)[1][-1] == "and?"
    runtime = scripted(["one"])
    lines.say(runtime, f"/attach {tmp_path}/my\\ notes.txt\n/detach\nq\n")
    assert asked(runtime) == [["q"]]


def test_the_model_changes_and_a_broken_one_leaves_the_old_one(
    scripted, lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ArtifactChoice("broken", "/a/b", "gguf", "q8_0", 1, 1)
    monkeypatch.setattr(sys.modules[__name__], "CHOICES", [*CHOICES, broken])
    code, _, err = lines.say(
        scripted(["one"], ["two"]), "/model\n/model 2\na\n/model base\n/model broken\nb\n"
    )
    assert code == 3
    assert "1. tiny, 105.0 MB, KL divergence 0.0630, top-1 85.1%, 91 tokens/s, used now" in err
    assert "2. other, 145.0 MB, not checked, not benched\n" in err
    assert "error: base: it has no chat template" in err
    assert lines.opened == ["tiny", "other", "broken", "other"]
    assert [e.model for e in lines.entries() if isinstance(e, Answer)] == ["other", "other"]


def test_personas_and_system_prompts(scripted, lines) -> None:
    lines.store.save_persona(Persona("pirate", "Say arr."))
    runtime = scripted(["1"], ["2"], ["3"], ["4"])
    code, _, err = lines.say(
        runtime,
        "/persona\n/persona pirate\na\n/new\n/system Be brief.\n/persona save brief\nb\n"
        "/persona none\n/new\nc\n/persona 1\nd\n/persona nobody\n/persona delete pirate\n",
    )
    assert [messages[0] for messages in asked(runtime)] == [
        "Say arr.",
        "Be brief.",
        "c",
        "Be brief.",
    ]
    assert "1. pirate: Say arr." in err
    assert code == 2
    assert lines.store.personas() == [Persona("brief", "Be brief.")]


def test_sampling_is_of_the_chat(scripted, lines) -> None:
    runtime = scripted(["1"], ["2"])
    code, _, err = lines.say(
        runtime, "/set temperature 0.5\na\n/new\nb\n/set temperature hot\n/set\n"
    )
    assert [sampling.temperature for sampling in runtime.samplings] == [0.5, 0.0]
    assert code == 2
    assert "temperature 0.0: " in err


def test_delete_asks_on_a_terminal_only(scripted, lines) -> None:
    lines.say(scripted(["1"]), "a\n/delete\nn\n", terminal=True)
    assert len(lines.store.chats()) == 1
    lines.options["resume"] = lines.store.chats()[0].id
    _, _, err = lines.say(scripted(), "/delete\ny\n", terminal=True)
    assert "Delete “a” for good? y/n: " in err
    assert lines.store.chats() == []
    lines.options["resume"] = None
    code, _, _ = lines.say(scripted(["1"]), "a\n/delete\n/delete\n")
    assert (code, lines.store.chats()) == (2, [])


def test_rename(scripted, lines) -> None:
    assert lines.say(scripted(["1"]), "a\n/rename My  title\n/rename\n")[0] == 2
    assert lines.store.chats()[0].title == "My title"


def test_export_shows_what_it_would_change(scripted, lines, tmp_path: Path) -> None:
    path = tmp_path / "chat.md"
    code, _, err = lines.say(
        scripted(["to b@example.com"]), f"from a@example.com\n/export {path} redact\n"
    )
    assert code == 0
    assert "[e-mail 1] for a@example.com, 2 times\n[e-mail 2] for b@example.com\n" in err
    assert "Best effort" in err
    assert "example.com" not in path.read_text()
    assert lines.say(scripted(["1"]), f"a\n/export {path}\n")[0] == 3  # is there already
    lines.say(scripted(["1"]), f"x@example.com\n/export {path}2 redact\nn\n", terminal=True)
    assert not Path(f"{path}2").exists()


def test_in_private_mode_exports_stay_in_their_folder(scripted, lines, tmp_path: Path) -> None:
    lines.options.update(exports=tmp_path / "exports", privacy="The kernel refuses.")
    code, _, err = lines.say(
        scripted(["1"]), f"a\n/privacy\n/export chat.json\n/export {tmp_path}/out.md\n"
    )
    assert code == 6
    assert "The kernel refuses." in err
    assert [p.name for p in tmp_path.rglob("*.*")] == ["chat.json"]


def test_the_screens_own_commands_are_refused_and_help_leaves_them_out(scripted, lines) -> None:
    code, _, err = lines.say(scripted(), "/theme dark\n/help\n/privacy\n")
    assert code == 2
    assert "\n/retry: " in err
    assert "/theme [NAME]" not in err
    assert "not private" in err


def test_quit_leaves_at_once(scripted, lines) -> None:
    runtime = scripted(["1"])
    assert lines.say(runtime, "a\n/quit\nb\n")[:2] == (0, "1\n")
    assert len(runtime.asked) == 1


def test_on_a_terminal_each_speaker_is_named(scripted, lines) -> None:
    _, out, err = lines.say(scripted(["hello"]), "hi\n", terminal=True)
    assert out == "hello\n"
    assert "\nYou: tiny: [1 token, " in err
    assert "You: " not in lines.say(scripted(["hello"]), "hi\n")[2]


def test_old_turns_are_left_out_when_the_context_is_full(scripted, lines) -> None:
    runtime = scripted(*([c * 100] for c in "abcdefgh"))
    runtime.context_length = 700
    lines.options["sampling"] = Sampling(max_tokens=120)
    code, _, err = lines.say(runtime, "".join(f"q{n} {'x' * 50}\n" for n in range(8)))
    assert code == 0
    assert "no longer sent" in err
    assert "nearly full" in err
    assert all(len(runtime.render(messages)) + 120 <= 700 for messages in runtime.asked)
    assert len(lines.entries()) == 16


def test_a_question_longer_than_the_context_is_taken_back(scripted, lines) -> None:
    runtime = scripted(["fine"])
    code, out, err = lines.say(runtime, f"{'x' * 5000}\nshort\n")
    assert (code, out) == (3, "fine\n")
    assert "the question has 5,007 tokens" in err
    assert asked(runtime) == [["short"]]


def test_a_full_disk_is_told_and_what_was_not_saved_is_saved_later(scripted, lines) -> None:
    connection = lines.store._database.connection

    class Disk(io.StringIO):
        """Full until the second question is read."""

        def readline(self, *_: Any) -> str:
            line = super().readline()
            if line.startswith("first"):
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
                connection.execute(f"PRAGMA max_page_count={pages}")
            else:
                connection.execute("PRAGMA max_page_count=1000000")
            return line

    first = "first" * 5000
    runtime = scripted(["one"], ["two"])
    runtime.context_length = 100_000
    setup = ChatSetup(lambda _: runtime, "tiny", list, Sampling(), "", lines.store, Settings())
    out, err = io.StringIO(), io.StringIO()
    code = run_plain(setup, stdin=Disk(f"{first}\nsecond\n"), stdout=out, stderr=err)
    assert (code, out.getvalue()) == (5, "one\ntwo\n")
    assert err.getvalue().count("error: ") == 2  # the question, and then the answer
    assert [entry.text for entry in lines.entries()] == [first, "one", "second", "two"]


PROGRAM = """
import time
from edgekit.settings import Settings
from runtimes.base import Chunk, Sampling
from tui.plain import run_plain
from tui.setup import ChatSetup
from tui.store.chats import ChatStore

class Slow:
    context_length, threads = 64, 1
    def render(self, messages):
        return ""
    def tokenize(self, text, *, special=False):
        return []
    def generate(self, messages, sampling):
        if len(messages) > 1:
            yield Chunk(f"before: {messages[1].content!r}", 1, 1, 0, "stop")
        while len(messages) == 1:
            yield Chunk("tick ", 1, 1, 0)
            time.sleep(0.01)
    def close(self):
        pass

store = ChatStore.open(None)
setup = ChatSetup(lambda _: Slow(), "slow", list, Sampling(), "", store, Settings())
raise SystemExit(run_plain(setup))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_stops_the_answer_and_not_the_chat() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"first\n")
        assert process.stdout.read(4) == b"tick"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.stdin.write(b"second\n")
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    first, second = out.decode().splitlines()
    assert first.startswith(" tick")
    assert second.startswith("before: 'tick tick")
    assert b"stopped]" in err


KILLED = PROGRAM.replace("ChatStore.open(None)", "ChatStore.open(__import__('pathlib').Path(DB))")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_a_killed_chat_keeps_the_question_and_marks_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    program = f"import tui.recorder; tui.recorder.SAVE_EVERY_S = 0.05; DB = {str(path)!r}\n{KILLED}"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"what is lost?\n")
        read = b""
        while len(read) < 200:
            read += process.stdout.read(1)
        process.kill()
    store = ChatStore.open(path)
    chat_id = store.note("open")
    assert chat_id is not None
    chat, entries, _ = store.load(chat_id)
    question, answer = entries
    assert isinstance(question, Question)
    assert isinstance(answer, Answer)
    assert (question.text, answer.ending, chat.head) == ("what is lost?", "interrupted", answer.id)
    assert answer.text.startswith("tick tick")
    store.close()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_question_of_several_lines_stands_between_quotation_marks(
    scripted, lines, terminal
) -> None:
    runtime = scripted(["one"], ["two"], ["three"])
    text = '"""\nfirst\n\n/quit\n"""\n"""short"""\n"""left open\nto the end'
    code, out, _ = lines.say(runtime, text, terminal=terminal)
    assert (code, out) == (0, "one\ntwo\nthree\n")
    last = [messages[-1] for messages in asked(runtime)]
    assert last == ["first\n\n/quit", "short", "left open\nto the end"]


def test_nothing_between_quotation_marks_asks_nothing(scripted, lines) -> None:
    runtime = scripted()
    lines.say(runtime, '"""\n\n"""\n""""""\n')
    assert runtime.asked == []


def test_a_model_given_by_its_path_speaks_by_its_folder(scripted, lines) -> None:
    setup_model = "/home/me/artifacts/tiny-q8"
    question = Question("q", None, "hi")
    lines.store.save_all(
        Chat("c", "hi", head="a"), [question, Answer("a", "q", "hello", "stop", setup_model)]
    )
    lines.options["resume"] = "c"
    _, _, err = lines.say(scripted(), "", terminal=True)
    assert "\ntiny-q8: hello" in err
    assert "/home/me" not in err
