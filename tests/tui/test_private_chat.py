"""A private chat leaves no word of the user's on the disk: not after quitting, not after a kill.

The real program, on a machine with fresh folders. Each word that is looked for was typed, or came
from a file that was attached, and is looked for byte for byte, in three encodings, in everything
that was written anywhere.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("pty")

from edgekit.artifact import Artifact
from edgekit.privacy import landlock
from tui.conversation import Answer, Question

from .real_program import (
    PASSPHRASE,
    SLOW_PROGRAM,
    Machine,
    Output,
    Terminal,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the lock needs Linux")

# Words that stand nowhere else, one for each way into the program.
QUESTION, ANSWERED, DRAFT, TITLE = "Zebrafinkquery", "Marzipanquery", "Quokkadraft", "Narwhaltitle"
SYSTEM, PERSONA, PERSONA_TEXT = "Axolotlprompt", "Pangolinname", "Pangolintext"
ATTACHED, FILE_NAME, SEARCHED = "Capybaracontent", "Ocelotfile.txt", "Wombatsearch"
SECRETS = [QUESTION, ANSWERED, DRAFT, TITLE, SYSTEM, PERSONA, PERSONA_TEXT, ATTACHED, FILE_NAME]
SECRETS += [SEARCHED, PASSPHRASE]
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    (made.documents / FILE_NAME).write_text(f"{ATTACHED}, line by line\n" * 9)
    return made


@pytest.fixture
def words(machine: Machine) -> list[str]:
    """Return the command line of a private chat; its store is there, and cheap to open."""
    machine.make_cheap_store()
    chat = ["chat", "--echo", "--private", "--passphrase-file", str(machine.passphrase_file)]
    return [*chat, "--continue"]


def spilled(machine: Machine, secrets: list[str] = SECRETS) -> list[str]:
    """Return which secret stands in which file, or in the name of one, of all that was written."""
    return [
        f"{secret} in {name}, {encoding}" for secret, name, encoding in _found(machine, secrets)
    ]


def _found(machine: Machine, secrets: list[str]) -> Iterator[tuple[str, str, str]]:
    for name, content in machine.files():
        lowered = name.encode().lower() + b"\n" + content.lower()
        for secret in secrets:
            for encoding in ENCODINGS:
                if secret.lower().encode(encoding) in lowered:
                    yield secret, name, encoding


def answers(machine: Machine) -> dict[str, tuple[str, str]]:
    """Return for each question in the store its last answer's text and ending."""
    with machine.store() as store:
        found = {}
        for chat in store.chats():
            _, entries, damage = store.load(chat.id)
            assert damage == []
            asked = {e.id: e.text for e in entries if isinstance(e, Question)}
            found |= {asked[e.parent]: (e.text, e.ending) for e in entries if isinstance(e, Answer)}
        return found


def test_the_judge_finds_what_is_not_encrypted(machine: Machine) -> None:
    """The same search on a chat that is not private finds it in the store."""
    lines = f"/system {SYSTEM}\n{QUESTION}\n/rename {TITLE}\n"
    assert machine.run("chat", "--echo", "--no-private", input=lines).returncode == 0
    found = spilled(machine)
    assert {line.split(" in ")[0] for line in found} == {QUESTION, TITLE, SYSTEM}
    (machine.written / "tmp" / f"{DRAFT}.log").write_text(PERSONA, encoding="utf-16-le")
    found = {line.split(" in ")[0] for line in spilled(machine)}
    assert found == {QUESTION, TITLE, SYSTEM, DRAFT, PERSONA}


# The line mode


def in_lines(machine: Machine) -> str:
    path = machine.documents / FILE_NAME
    return (
        f"/system {SYSTEM} {PERSONA_TEXT}\n/persona save {PERSONA}\n{ANSWERED} please\n"
        f"/rename {TITLE}\n/attach {path}\n{QUESTION} and a file\n/chats {SEARCHED}\n"
    )


def test_the_line_mode_quits(machine: Machine, words: list[str]) -> None:
    done = machine.run(*words, "--system", f"{SYSTEM} at first", input=in_lines(machine))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(ATTACHED) == 9  # it was attached: the echo repeats all of it
    assert spilled(machine) == []
    assert answers(machine)[f"{ANSWERED} please"] == (f"{ANSWERED} please", "stop")


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_the_line_mode_is_killed(machine: Machine, words: list[str], number: int) -> None:
    machine.environment["ECHO_DELAY_S"] = "0.05"
    long_question = " ".join([QUESTION] * 70)
    words += ["--max-tokens", "2000"]
    with machine.start(*words, program=SLOW_PROGRAM) as chat:
        output = Output(chat)
        output.send(in_lines(machine) + f"{long_question}\n")
        # It is written to the store every two seconds.
        output.until(lambda: output.answered.count(QUESTION) > 45)
        assert spilled(machine) == []
        chat.send_signal(number)
        chat.wait(timeout=20)
        assert chat.returncode in (-number, 128 + number)
    assert spilled(machine) == []
    stored = answers(machine)
    assert stored[f"{ANSWERED} please"] == (f"{ANSWERED} please", "stop")
    unfinished, ending = stored[long_question]
    assert ending in ("interrupted", "stopped")
    assert unfinished.startswith(QUESTION)


# The screen


def type_everything(terminal: Terminal, machine: Machine) -> None:
    """Bring each secret into the program, by keys, commands and dialogs."""
    terminal.ready()
    terminal.press(f"/system {SYSTEM}\r")
    terminal.until("the system prompt holds")
    ask(terminal, f"{ANSWERED} please")
    terminal.press(f"/rename {TITLE}\r")
    terminal.until("renamed")
    terminal.press(f"/attach {machine.documents / FILE_NAME}\r")
    terminal.until("(/detach)")
    ask(terminal, f"{QUESTION} about this file")
    terminal.press("\x1bOR")  # F3
    terminal.until("Personas")
    terminal.press("\x0e")  # Ctrl+N
    terminal.until("New persona")
    terminal.press(PERSONA)
    terminal.until(PERSONA)
    terminal.press("\t")
    terminal.settle(0.1)
    terminal.press(PERSONA_TEXT)
    terminal.until(PERSONA_TEXT)
    terminal.press("\r")
    terminal.until(lambda shown: PERSONA in shown.text and "New persona" not in shown.text)
    terminal.press("\r")
    terminal.until(f"persona: {PERSONA}")
    terminal.press(f"/chats {SEARCHED}\r")
    terminal.until("nothing found")
    terminal.press("\x1b")
    terminal.until(lambda shown: "nothing found" not in shown.text)


def ask(terminal: Terminal, question: str) -> None:
    """Ask the echo, and wait until it has repeated the question."""
    terminal.press(f"{question}\r")
    terminal.until(lambda shown: shown.conversation.count(question) >= 2)
    terminal.ready()


def type_a_draft(terminal: Terminal, machine: Machine) -> None:
    """Type what is never sent, and wait until it is on the disk."""
    before = machine.private_store.with_name("private.db-wal").stat().st_size
    terminal.press(f"{DRAFT} not sent")
    terminal.until(f"{DRAFT} not sent")
    wal = machine.private_store.with_name("private.db-wal")
    terminal.until(lambda _: wal.stat().st_size != before, 6)


def test_the_screen_quits(machine: Machine, words: list[str]) -> None:
    with Terminal(machine, *words, "--system", f"{SYSTEM} at first") as terminal:
        type_everything(terminal, machine)
        assert spilled(machine) == []
        terminal.press(f"{DRAFT} not sent")
        terminal.until(f"{DRAFT} not sent")
        assert terminal.quit() == 0
    assert spilled(machine) == []
    assert_no_title(terminal)
    assert_no_traceback(terminal)
    assert answers(machine)[f"{ANSWERED} please"] == (f"{ANSWERED} please", "stop")
    with machine.store() as store:
        assert [chat.title for chat in store.chats()] == [TITLE]
        assert [(p.name, p.text) for p in store.personas()] == [(PERSONA, PERSONA_TEXT)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_the_screen_is_killed_with_a_draft(machine: Machine, words: list[str], number: int) -> None:
    with Terminal(machine, *words) as terminal:
        type_everything(terminal, machine)
        type_a_draft(terminal, machine)
        terminal.kill(number)
    assert spilled(machine) == []
    assert_no_title(terminal)
    assert answers(machine)[f"{ANSWERED} please"] == (f"{ANSWERED} please", "stop")
    with machine.store() as store:
        assert store.note("draft") == f"{DRAFT} not sent"


MOMENTS: dict[str, Callable[[Terminal], None]] = {
    "while it starts": lambda terminal: terminal.until("loading"),
    "before it is sent": lambda terminal: (
        terminal.ready(), terminal.press(QUESTION), terminal.until(QUESTION),
    ),
    "when it is sent": lambda terminal: (
        terminal.ready(), terminal.press(QUESTION + "\r"), terminal.until("thinking"),
    ),
    "while it is answered": lambda terminal: (
        terminal.ready(),
        terminal.press(" ".join([QUESTION] * 30) + "\r"),
        terminal.until("writing"),
    ),
    "in a search": lambda terminal: (
        terminal.ready(),
        terminal.press("\x0f"),
        terminal.until("Type to search"),
        terminal.press(SEARCHED),
        terminal.until("nothing found"),
    ),
}  # fmt: skip


@pytest.mark.slow
def test_the_screen_is_killed_at_other_moments(machine: Machine, words: list[str]) -> None:
    """Kill after kill on one store; each program finds what the one before left."""
    machine.environment["ECHO_DELAY_S"] = "0.2"
    assert machine.run(*words, input=f"{ANSWERED}\n").returncode == 0
    for moment, go_there in MOMENTS.items():
        with Terminal(machine, *words, program=SLOW_PROGRAM) as terminal:
            go_there(terminal)
            terminal.kill()
        assert spilled(machine) == [], moment
        assert_no_title(terminal)
    assert answers(machine)[ANSWERED] == (ANSWERED, "stop")


def assert_no_title(terminal: Terminal) -> None:
    """The title of the window may name the program, not what is said in it."""
    assert not any(secret.encode() in terminal.titles() for secret in SECRETS)


def assert_no_traceback(terminal: Terminal) -> None:
    assert b"Traceback" not in terminal.raw


def test_the_judge_sees_a_title(machine: Machine) -> None:
    code = f"print('\\x1b]0;{TITLE}\\x07 \\x1b]2;{SYSTEM}\\x1b\\\\ \\x1b]12;default\\x07')"
    with Terminal(machine, "-c", code, program=[sys.executable]) as terminal:
        terminal.leave()
    assert terminal.titles() == f"{TITLE}\n{SYSTEM}".encode()


# One answer


@pytest.fixture(scope="module")
def artifact(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from converters.checkpoint import Checkpoint
    from converters.convert import convert
    from converters.recipe import Recipe
    from edgekit.progress import NoProgress

    out = tmp_path_factory.mktemp("private") / "gguf"
    recipe = Recipe(name="tiny", format="gguf", scheme="q8_0")
    return convert(Checkpoint.open(tiny_checkpoint), recipe, out, progress=NoProgress())


def run_words(artifact: Artifact) -> list[str]:
    return ["run", str(artifact.path), "--context", "256", "--threads", "1", "--system", SYSTEM]


@pytest.mark.parametrize("json", [[], ["--json"]])
def test_one_answer_in_private(machine: Machine, artifact: Artifact, json: list[str]) -> None:
    machine.environment["EDGEKIT_PRIVATE"] = "1"
    words = [*run_words(artifact), "--max-tokens", "4", *json]
    done = machine.run(*words, input=f"{QUESTION} in a pipe")
    assert done.returncode == 0, done.stderr
    assert spilled(machine) == []


def test_one_answer_in_private_is_killed(machine: Machine, artifact: Artifact) -> None:
    machine.environment["EDGEKIT_PRIVATE"] = "1"
    with machine.start(*run_words(artifact), "--max-tokens", "250") as child:
        output = Output(child)
        output.send(f"{QUESTION} in a pipe", last=True)
        output.until(lambda: output.answered)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert spilled(machine) == []


def test_a_crash_writes_no_text(machine: Machine, words: list[str]) -> None:
    """A bug of ours: what is printed goes to the terminal, and nothing to the disk."""
    crash = SLOW_PROGRAM[-1].replace(
        "    return report",
        "    def fail(*_): raise KeyError('a bug')\n"
        "    EchoRuntime.render = fail\n    return report",
    )
    done = machine.run(*words, program=[sys.executable, "-c", crash], input=f"{QUESTION}\n")
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    assert spilled(machine) == []


def test_nothing_can_be_written_elsewhere(machine: Machine, words: list[str]) -> None:
    """An export goes to EDGEKIT_HOME, as its user asks; the work folder is closed."""
    if not landlock.version():
        pytest.skip("this kernel has no Landlock")
    path = machine.written / "work" / "chat.md"
    done = machine.run(*words, input=f"{QUESTION}\n/export {path}\n")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not path.exists()
    assert spilled(machine) == []


def test_the_passphrase_is_no_argument(machine: Machine, words: list[str]) -> None:
    """Neither the command line nor the environment, which others can read, ever holds it."""
    with Terminal(machine, *words) as terminal:
        terminal.ready()
        for name in ("cmdline", "environ"):
            assert (
                PASSPHRASE.encode() not in Path(f"/proc/{terminal.process.pid}/{name}").read_bytes()
            )
        assert terminal.quit() == 0
