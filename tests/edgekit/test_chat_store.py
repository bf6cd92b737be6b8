"""Which store a chat opens, what is said of one that is damaged, and the demo in privacy mode."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from edgekit import store
from edgekit.errors import PrivacyError
from edgekit.workflows.chat import Wish, _setup, _store_in_use, chat
from runtimes.base import Sampling
from tui.conversation import Chat, Question
from tui.store.chats import ChatStore
from tui.store.vault import Cost

ECHO = [sys.executable, "-m", "edgekit", "chat", "--echo", "--plain"]
CHEAP = Cost(memory_kib=64, passes=1, lanes=1)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the lock is Linux's")


def lines(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ECHO, *words], input="hello\n", capture_output=True, text=True, check=False, timeout=60
    )


def test_a_store_that_is_damaged_in_part_is_opened_and_says_so(edgekit_home: Path) -> None:
    path = edgekit_home / "chats" / "chats.db"
    with closing(ChatStore.open(path)) as chats:
        chats.save_entry("one", Question("q", None, "kept"))
        chats._database.connection.execute("UPDATE records SET box=zeroblob(9) WHERE id=0")
    done = lines()
    assert (done.returncode, "hello" in done.stdout) == (0, True), done.stderr
    assert "damaged: the list of chats is damaged" in done.stderr
    assert "edgekit privacy rescue" in done.stderr


def test_a_damaged_store_names_the_rescue(edgekit_home: Path) -> None:
    path = edgekit_home / "chats" / "chats.db"
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + os.urandom(9000))
    done = lines()
    assert done.returncode == 3
    assert "hint: leave the file as it is, and save what can be read: edgekit privacy rescue" in (
        done.stderr
    )


@linux_only
def test_a_first_private_chat_explains_the_passphrase(edgekit_home: Path) -> None:
    shown = typed([*ECHO, "--private"], "sesame", "sesame", "/quit")
    assert "Nothing can reset it" in shown
    assert (edgekit_home / "chats" / "private.db").exists()
    shown = typed([*ECHO, "--private"], "wrong", "worse", "sesame", "/quit")
    assert "Nothing can reset it" not in shown
    assert shown.count("the passphrase is wrong: try again") == 2
    assert "You:" in shown


def typed(words: list[str], *answers: str) -> str:
    """Return what a terminal shows while each question is answered."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(words[0], words)
    shown, left = b"", list(answers)
    while True:
        try:
            piece = os.read(terminal, 1024)
        except OSError:  # the child has ended
            break
        shown += piece
        if left and shown.rstrip(b" ").endswith(b":"):
            os.write(terminal, left.pop(0).encode() + b"\n")
    os.waitpid(pid, 0)
    os.close(terminal)
    return shown.decode()


def test_a_private_chat_is_never_stored_in_the_clear(edgekit_home: Path) -> None:
    wish = Wish(Sampling(), echo=True, plain=True, lock=object())  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match="needs a passphrase"):
        chat(None, wish)
    assert not (edgekit_home / "chats").exists()


@linux_only
def test_the_demo_opens_no_chat_in_privacy_mode(edgekit_home: Path) -> None:
    code = """
from types import SimpleNamespace
from pathlib import Path
from edgekit.privacy.lock import lock
from edgekit.cli.demo import _chat
lock(writable=())
manifest, certificate = SimpleNamespace(total_bytes=1), SimpleNamespace(kld_mean=0.0)
artifact = SimpleNamespace(path=Path("/x/tiny-gguf"), manifest=manifest)
_chat([SimpleNamespace(artifact=artifact, certificate=certificate)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "privacy mode is on: for a private chat, run edgekit chat tiny-gguf\n"
    assert not (edgekit_home / "chats").exists()


def test_what_another_window_has_open_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    wish = Wish(Sampling(), echo=True)
    first = ChatStore.open(store.chats() / "chats.db")
    first.save_chat(Chat("c", "a title"))
    first.set_note("open", "c")
    first.set_note("draft", "half a tho")
    assert _store_in_use(wish)
    setup = _setup("echo", wish, first, alone=False)
    assert (setup.resume, setup.draft) == (None, "")
    first.close()  # as a kill does: the notes are still there

    assert not _store_in_use(wish)
    again = ChatStore.open(store.chats() / "chats.db")
    setup = _setup("echo", wish, again, alone=True)
    assert (setup.resume, setup.draft) == ("c", "half a tho")
    again.close()
