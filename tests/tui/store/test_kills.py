"""kill -9 at random moments: what a save returned from is there, and the store always opens.

`EDGEKIT_KILLS=200 pytest tests/tui/store/test_kills.py` kills 200 times a kind instead of 5.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.errors import PrivacyError
from tui.store.chats import ChatStore
from tui.store.vault import Cost

PASSPHRASE = "correct horse battery staple"
CHEAP = Cost(memory_kib=8, passes=1, lanes=1)
KILLS = int(os.environ.get("EDGEKIT_KILLS", "5"))

WRITER = """
import sys
from pathlib import Path
from tui.store.chats import ChatStore
from tui.store.vault import Cost
from tui.conversation import *
passphrase = sys.argv[2] or None
store = ChatStore.open(Path(sys.argv[1]), passphrase, cost=Cost(8, 1, 1))
print("ready", flush=True)
number = 0
while True:
    number += 1
    chat_id = f"chat {number % 5}"
    if number % 7 == 0:
        store.save_chat(Chat(chat_id, f"title {number}"))
    if number % 31 == 0:
        store.delete_chat("nothing")
        store.save_entry("doomed", Question(new_id(), None, "x" * 9000))
        store.delete_chat("doomed")
    question = Question(new_id(), None, f"text {number} " * (number % 200))
    store.save_entry(chat_id, question)
    print(chat_id, question.id, flush=True)
"""

CHANGER = """
import sys
from pathlib import Path
from tui.store.chats import ChatStore
from tui.store.vault import Cost
store = ChatStore.open(Path(sys.argv[1]), sys.argv[2], cost=Cost(8, 1, 1))
print("ready", flush=True)
number = 0
while True:
    number += 1
    print("changing", number, flush=True)
    store.change_passphrase(f"passphrase {number}", cost=Cost(8, 1, 1))
    print("changed", number, flush=True)
"""


def killed(program: str, path: Path, passphrase: str | None, seconds: float) -> list[list[str]]:
    """Run `program`, kill it `seconds` after it is ready; return the lines it wrote, in words."""
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path), passphrase or ""],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(seconds)
    child.kill()
    written, _ = child.communicate()
    assert child.returncode == -signal.SIGKILL
    return [line.split(" ") for line in written.splitlines(keepends=True) if line.endswith("\n")]


def test_nothing_saved_is_lost(path: Path, passphrase: str | None) -> None:
    chance = random.Random(3)
    saved: dict[str, set[str]] = {}
    for _ in range(KILLS):
        for chat, number, entry_id in killed(WRITER, path, passphrase, chance.random() * 0.12):
            saved.setdefault(f"{chat} {number}", set()).add(entry_id.strip())
        store = ChatStore.open(path, passphrase, cost=CHEAP)
        assert store.damage == []
        for chat_id, entry_ids in saved.items():
            _, entries, sentences = store.load(chat_id)
            assert not sentences
            assert entry_ids <= {entry.id for entry in entries}
        if chance.random() < 0.5:  # else the next writer finds what the kill left
            store.close()
    assert sum(map(len, saved.values())) > 5 * KILLS


@pytest.mark.slow
def test_a_kill_while_the_passphrase_changes(path: Path) -> None:
    chance = random.Random(4)
    current = PASSPHRASE
    store = ChatStore.open(path, current, cost=CHEAP)
    from tui.conversation import Question

    for number in range(150):
        store.save_entry(f"chat {number % 3}", Question(f"q{number}", None, "text " * number))
    store.close()
    changes = kills = 0
    while kills < KILLS or (changes <= KILLS / 2 and kills < 20 * KILLS):
        kills += 1  # on a busy machine a process may be killed before it has changed anything
        lines = killed(CHANGER, path, current, chance.random() * 0.2)
        changed = [int(number) for word, number in lines if word == "changed"]
        possible = [f"passphrase {changed[-1]}" if changed else current]
        if lines and lines[-1][0] == "changing":
            possible.append(f"passphrase {int(lines[-1][1])}")
        changes += len(changed)
        current, store = opened(path, possible)
        assert store.damage == []
        loaded = [store.load(f"chat {number}") for number in range(3)]
        assert [len(entries) for _, entries, _ in loaded] == [50] * 3
        assert not any(sentences for _, _, sentences in loaded)
        store.close()
    assert changes > KILLS / 2


def opened(path: Path, passphrases: list[str]) -> tuple[str, ChatStore]:
    """Return the one passphrase that works, and the store."""
    for passphrase in passphrases:
        try:
            return passphrase, ChatStore.open(path, passphrase, cost=CHEAP)
        except PrivacyError:
            continue
    pytest.fail(f"none of {passphrases} opens the store")


def test_a_kill_while_the_store_is_made(tmp_path: Path, passphrase: str | None) -> None:
    chance = random.Random(5)
    for number in range(KILLS):
        path = tmp_path / f"{number}" / "chats.db"
        words = [sys.executable, "-c", WRITER, str(path), passphrase or ""]
        with subprocess.Popen(
            words, cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL
        ) as child:
            deadline = time.monotonic() + 20
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.0005)
            time.sleep(chance.random() * 0.01)
            child.kill()
        store = ChatStore.open(path, passphrase, cost=CHEAP)
        assert store.damage == []
        assert store.encrypted == (passphrase is not None)
        store.close()
