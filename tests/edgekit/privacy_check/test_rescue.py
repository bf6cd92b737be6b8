"""edgekit privacy rescue: a damaged store becomes a new one with what could be read of it."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import GateError, InputError, PrivacyError
from edgekit.workflows.privacy import rescue as rescuing
from edgekit.workflows.privacy.rescue import save
from edgekit.workflows.privacy.stored import stored
from edgekit.workflows.privacy.wipe import wipe
from tui.conversation import Chat, Question
from tui.store.chats import ChatStore
from tui.store.database import DamagedStoreError
from tui.store.vault import Cost

WORDS = "open sesame"
CHEAP = Cost(memory_kib=64, passes=1, lanes=1)
MESSAGES = 60


@pytest.fixture(params=["chats", "private"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(edgekit_home: Path, name: str) -> Path:
    """Return a store of two chats with `MESSAGES` each."""
    path = edgekit_home / "chats" / f"{name}.db"
    with closing(ChatStore.open(path, passphrase_of(path), cost=CHEAP)) as chats:
        for chat_id in ("one", "two"):
            text = f"the heron of {chat_id} eats at nine. " * 9
            entries = [Question(f"q{n}", None, text, at=float(n)) for n in range(MESSAGES)]
            chats.save_all(Chat(chat_id, f"chat {chat_id}", head="q3"), entries)
    return path


def passphrase_of(path: Path) -> str | None:
    return WORDS if "private" in path.name else None


def cut(path: Path) -> bytes:
    """Cut a store in two thirds, in the middle of a page; return what is left."""
    os.truncate(path, path.stat().st_size * 2 // 3 - 1000)
    return path.read_bytes()


def flip(path: Path, *places: int) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 0x20
    path.write_bytes(data)


def flip_all_over(path: Path) -> None:
    flip(path, *range(5 * 4096 + 2000, path.stat().st_size - 4096, 4096 * 3))


def held(path: Path) -> int:
    """Return how many messages a store has; it must be whole."""
    with closing(ChatStore.open(path, passphrase_of(path))) as chats:
        assert chats.damage == []
        loaded = [chats.load(chat.id) for chat in chats.chats()]
    assert not any(sentences for _, _, sentences in loaded)
    return sum(len(entries) for _, entries, _ in loaded)


def rescue(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "privacy", "rescue", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # no terminal to ask on
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("private", ["0", "1"])
def test_a_store_that_was_cut_short(
    path: Path, name: str, tmp_path: Path, edgekit_home: Path, private: str
) -> None:
    if private == "1" and sys.platform != "linux":
        pytest.skip("the lock is Linux's")
    damaged = cut(path)
    with pytest.raises(InputError) as caught:
        ChatStore.open(path, passphrase_of(path))
    assert "edgekit privacy rescue" in caught.value.hint
    file = tmp_path / "passphrase"
    file.write_text(f"{WORDS}\n")
    done = rescue("--json", "--passphrase-file", str(file), EDGEKIT_PRIVATE=private)
    assert done.returncode == 0, done.stderr
    (saved,) = json.loads(done.stdout)["stores"]
    assert saved["path"] == str(path)
    assert 20 < saved["messages"] == held(path) < 2 * MESSAGES
    assert saved["lost"] > 0
    kept = Path(saved["kept"])
    assert kept.parent == path.parent
    assert kept.read_bytes() == damaged
    assert not list(path.parent.glob(".*"))
    listed = {Path(found.path).name: found for found in stored()}
    assert listed[kept.name].what == "a damaged store, kept by rescue"
    assert listed[kept.name].encrypted is (name == "private")
    assert str(kept) in {found.path for found in wipe().removed}
    assert not path.parent.exists()


def test_every_message_is_saved_or_counted(path: Path) -> None:
    """Bits flipped all over the records: what is lost is told, to the record."""
    flip_all_over(path)
    saved = save(path, passphrase_of(path))
    assert saved.faults
    assert saved.lost > 0
    records_of_chats_and_root = 3
    all_told = saved.messages + saved.lost
    assert 2 * MESSAGES <= all_told <= 2 * MESSAGES + records_of_chats_and_root
    assert held(path) == saved.messages


def test_a_header_that_sqlite_cannot_reach_is_no_loss(path: Path) -> None:
    for table in ("header", "header_copy"):
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT rootpage FROM sqlite_master WHERE name=?"
            (page,) = connection.execute(query, (table,)).fetchone()
        flip(path, (page - 1) * 4096 + 3)  # the number of rows on the page
    with pytest.raises(DamagedStoreError) as caught:
        ChatStore.open(path, passphrase_of(path))
    assert "edgekit privacy rescue" in caught.value.hint
    saved = save(path, passphrase_of(path))
    assert (saved.messages, saved.lost) == (held(path), 0)
    assert saved.messages == 2 * MESSAGES


def test_a_whole_store_is_left_alone(path: Path, name: str) -> None:
    before = path.read_bytes()
    saved = save(path, passphrase_of(path), always=True)
    assert (saved.faults, saved.kept) == ((), "")
    assert path.read_bytes() == before
    if name == "chats":
        done = rescue()
        assert (done.returncode, done.stdout) == (0, f"{path} is not damaged\n")


def test_only_a_named_store_is_rescued_from_a_newer_edgekit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60:64] = (7).to_bytes(4, "big")  # user_version: sqlite.org/fileformat2.html, 1.3
    path.write_bytes(data)
    with pytest.raises(InputError, match="has format 7"):
        save(path, passphrase_of(path))
    assert save(path, passphrase_of(path), always=True).messages == held(path) == 2 * MESSAGES


def test_a_failure_changes_nothing(path: Path, name: str, tmp_path: Path) -> None:
    damaged = cut(path)
    before = sorted(path.parent.iterdir())
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(GateError, match="a chat is open"):
            save(path, passphrase_of(path))
    if name == "private":
        with pytest.raises(PrivacyError, match="passphrase is wrong"):
            save(path, "wrong")
        refused = rescue()
        assert (refused.returncode, "no terminal" in refused.stderr) == (6, True)
    assert path.read_bytes() == damaged
    assert sorted(path.parent.iterdir()) == before


def test_rubbish_has_nothing_to_rescue(edgekit_home: Path) -> None:
    nothing = rescue()
    assert (nothing.returncode, "nothing to rescue" in nothing.stderr) == (3, True)
    path = edgekit_home / "chats" / "private.db"
    path.parent.mkdir()
    path.write_bytes(os.urandom(20_000))
    done = rescue("--json")
    assert done.returncode == 3
    assert "no undamaged header" in done.stderr
    assert json.loads(done.stdout) == {"stores": []}
    assert [file.name for file in path.parent.iterdir()] == ["private.db"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("step", ["_second_name", "_swap", "replace"])
def test_a_rescue_that_was_killed_is_done_again(
    path: Path, step: str, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the log alone must survive a kill that comes when the log is gone."""
    leave_a_log(path)

    class Killed(BaseException):
        pass

    def kill(*words: Any) -> None:
        raise Killed

    def no_links(*words: Any) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        if not links:
            patch.setattr(os, "link", no_links)
        patch.setattr(*((os, step) if step == "replace" else (rescuing, step)), kill)
        patch.setattr(rescuing, "_remove", lambda path: None)  # a kill tidies nothing
        with pytest.raises(Killed):
            save(path, passphrase_of(path))
    if step == "replace" and not links:
        pytest.skip("the copy has all of it, and rescuing the file again cannot know")
    assert save(path, passphrase_of(path)).messages == held(path)
    with closing(ChatStore.open(path, passphrase_of(path))) as chats:
        assert "q-last" in {entry.id for entry in chats.load("one")[1]}


def leave_a_log(path: Path) -> None:
    """Leave a damaged store with a message that is in its log alone."""
    with closing(ChatStore.open(path, passphrase_of(path))) as chats:
        chats.save_entry("one", Question("q-last", None, "and last"))
        copies = {file: file.read_bytes() for file in (path, path.with_name(f"{path.name}-wal"))}
    for file, data in copies.items():
        file.write_bytes(data)
    flip_all_over(path)
