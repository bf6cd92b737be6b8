"""The real program, in a real terminal, with the real model: a private chat from end to end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("pty")

from edgekit.artifact import Artifact
from tui.conversation import Answer, Question

from ..real_model import real_gguf
from .real_program import PASSPHRASE, Machine, Terminal

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(sys.platform != "linux", reason="the lock needs Linux"),
]

NAME = "SmolLM2-135M-Instruct-gguf-q8_0"
BOIL = "How do I boil an egg?"
STORY = "Write a long story about a lighthouse keeper and a storm."
SHOPPING = "Kalamata olives, 3 jars\nfour lemons\na kilo of rice\n"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from converters.checkpoint import Checkpoint
    from converters.convert import convert
    from converters.import_gguf import import_gguf
    from converters.recipe import Recipe
    from edgekit.progress import NoProgress

    checkpoint = tmp_path_factory.mktemp("real") / "SmolLM2-135M-Instruct"
    checkpoint.mkdir()
    import_gguf(real_gguf(), checkpoint)
    out = tmp_path_factory.mktemp("artifacts") / NAME
    opened = Checkpoint.open(checkpoint)
    return convert(opened, Recipe.of("gguf", "q8_0"), out, progress=NoProgress())


@pytest.fixture
def machine(tmp_path: Path, artifact: Artifact) -> Machine:
    made = Machine(tmp_path)
    (made.edgekit_home / "artifacts").mkdir()
    (made.edgekit_home / "artifacts" / NAME).symlink_to(artifact.path)
    (made.documents / "shopping.txt").write_text(SHOPPING)
    return made


def converse(terminal: Terminal, machine: Machine) -> None:
    """Ask, stop, attach, reword: what a user does in a first chat."""
    terminal.ready()
    assert terminal.status.startswith("private")
    ask(terminal, BOIL)
    assert "water" in terminal.conversation
    assert "tok" in terminal.status

    terminal.press(f"{STORY}\r")
    terminal.until(lambda shown: "writing" in shown.status)
    pictures = set()
    typed = "typed meanwhile"
    for end, letter in enumerate(typed, 1):
        terminal.press(letter)
        terminal.until(f"> {typed[:end].rstrip()}", 5)
        pictures.add(terminal.conversation)
        terminal.pause(0.05)
    assert "writing" in terminal.status
    assert len(pictures) > 2  # it streamed while the keys were echoed
    terminal.press("\x1b")  # Esc
    terminal.until("[stopped]")
    terminal.ready()
    terminal.press("\x15")  # Ctrl+U
    terminal.until(lambda shown: "typed meanwhile" not in shown.text)

    terminal.press(f"/attach {machine.documents / 'shopping.txt'}\r")
    terminal.until("with shopping.txt")
    ask(terminal, "What shall I buy?")

    terminal.press("/edit How many lemons shall I buy?\r")
    terminal.until("> How many lemons shall I buy?")
    terminal.until(lambda shown: shown.is_ready and "version 2 of 2" in shown.text, 120)


def ask(terminal: Terminal, question: str) -> None:
    terminal.press(f"{question}\r")
    terminal.until(lambda shown: "writing" in shown.status, 60)
    terminal.ready(120)


def find_it_again(terminal: Terminal) -> None:
    """Type the passphrase, find the chat in the list and by its words, and open it."""
    terminal.until("Passphrase:")
    terminal.press(f"{PASSPHRASE}\r")
    terminal.ready()
    assert PASSPHRASE.encode() not in terminal.raw
    terminal.press("\x0f")  # Ctrl+O
    terminal.until(BOIL)
    terminal.until("1 chat")
    for words, found in (
        ("lighthouse", " found"),
        ("kalamata olives", " found"),
        ("zz9", "nothing"),
    ):
        terminal.press(words)
        terminal.until(found)
        terminal.press("\x15")
        terminal.until("1 chat")
    terminal.press("lemons")
    terminal.until("found")
    terminal.press("\r")
    terminal.until(lambda shown: "lemons" in shown.conversation and shown.is_ready)


@pytest.mark.parametrize("term", ["xterm-256color", "xterm"])
@pytest.mark.parametrize("mode", ["low", "full"])
def test_a_private_chat_from_end_to_end(machine: Machine, mode: str, term: str) -> None:
    words = ["chat", NAME, "--private", "--bandwidth", mode, "--threads", "1"]
    options = ["--temperature", "0", "--max-tokens", "300"]
    given, kept = os.pipe()
    os.write(kept, f"{PASSPHRASE}\n".encode())
    os.close(kept)
    file = ["--passphrase-file", f"/dev/fd/{given}"]
    with Terminal(machine, *words, *options, *file, pass_fds=[given], TERM=term) as terminal:
        os.close(given)
        converse(terminal, machine)
        assert terminal.quit() == 0
    assert b"Traceback" not in terminal.raw
    with Terminal(machine, *words, *options, TERM=term) as terminal:
        find_it_again(terminal)
        assert terminal.quit() == 0
    assert b"Traceback" not in terminal.raw
    with machine.store() as store:
        (chat,) = store.chats()
        _, entries, damage = store.load(chat.id)
    assert damage == []
    asked = {entry.text: entry for entry in entries if isinstance(entry, Question)}
    endings = {entry.parent: entry.ending for entry in entries if isinstance(entry, Answer)}
    assert list(asked) == [BOIL, STORY, "What shall I buy?", "How many lemons shall I buy?"]
    assert endings[asked[STORY].id] == "stopped"
    assert len(endings) == 4
    for question in list(asked.values())[2:]:
        assert [a.text for a in question.attachments] == [SHOPPING]
    assert not [name for name, content in machine.files() if b"lighthouse" in content]
