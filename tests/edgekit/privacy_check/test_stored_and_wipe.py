"""What is stored and how it goes: judged by content, keys first, links never followed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.errors import GateError, InputError, PrivacyError
from edgekit.workflows.privacy import wipe as wiping
from edgekit.workflows.privacy.stored import stored
from edgekit.workflows.privacy.wipe import planned, wipe
from tui.conversation import Answer, Question
from tui.store.chats import ChatStore
from tui.store.vault import Cost

SECRET = "the heron eats at nine by the old lighthouse"
CHEAP = Cost(memory_kib=64, passes=1, lanes=1)


def fill(path: Path, passphrase: str | None) -> None:
    chats = ChatStore.open(path, passphrase, cost=CHEAP)
    question = Question("q" * 32, None, SECRET)
    chats.save_entry("c" * 32, question)
    chats.save_entry("c" * 32, Answer("a" * 32, question.id, SECRET * 20))
    chats.close()


@pytest.fixture
def home(edgekit_home: Path) -> Path:
    fill(edgekit_home / "chats" / "chats.db", None)
    fill(edgekit_home / "chats" / "private.db", "open sesame")
    exports = edgekit_home / "exports"
    exports.mkdir()
    (exports / "chat.md").write_text(SECRET)
    (edgekit_home / "settings.json").write_text("{}")
    (edgekit_home / "artifacts" / "m").mkdir(parents=True)
    (edgekit_home / "artifacts" / "m" / "model.gguf").write_bytes(b"GGUF")
    return edgekit_home


def traces(folder: Path) -> list[Path]:
    """Return the files that hold the secret; grep is the independent judge."""
    found = subprocess.run(
        ["grep", "-rlaF", SECRET, str(folder)], capture_output=True, text=True, check=False
    )
    return [Path(line) for line in found.stdout.splitlines()]


def by_name(home: Path) -> dict[str, tuple[bool, str]]:
    files = {str(Path(f.path).relative_to(home)): (f.encrypted, f.what) for f in stored()}
    return {name: found for name, found in files.items() if not name.endswith("-shm")}


def test_every_file_is_listed_with_the_truth(home: Path) -> None:
    found = by_name(home)
    assert found["chats/chats.db"] == (False, "chats, personas and drafts")
    assert found["chats/private.db"] == (True, "chats, personas and drafts")
    assert found["exports/chat.md"] == (False, "an exported chat")
    assert found["settings.json"][0] is False
    assert not any(name.startswith("artifacts") for name in found)
    readable = {str(path.relative_to(home)) for path in traces(home)}
    assert readable == {"chats/chats.db", "exports/chat.md"}
    assert all(not found[name][0] for name in readable)


def test_the_name_is_not_trusted(home: Path) -> None:
    chats = home / "chats"
    shutil.copy(chats / "chats.db", chats / "holiday.jpg")
    (chats / "chats.db").unlink()
    shutil.move(chats / "private.db", chats / "chats.db")
    shutil.move(chats / "holiday.jpg", chats / "private.db")
    (chats / "notes.txt").write_text("mine")
    (home / "stray.bin").write_bytes(b"x")
    found = by_name(home)
    assert found["chats/chats.db"][0] is True
    assert found["chats/private.db"][0] is False
    assert found["chats/notes.txt"] == (False, "unknown")
    assert found["stray.bin"] == (False, "unknown")


def test_text_in_an_encrypted_store_is_not_called_encrypted(home: Path) -> None:
    with (home / "chats" / "private.db").open("ab") as stream:
        stream.write(SECRET.encode())
    assert by_name(home)["chats/private.db"][0] is False


def test_the_log_of_an_open_store_is_judged_too(home: Path) -> None:
    plain = ChatStore.open(home / "chats" / "chats.db")
    private = ChatStore.open(home / "chats" / "private.db", "open sesame")
    for chats in (plain, private):
        chats.save_entry("c" * 32, Question("n" * 32, None, SECRET))
    found = by_name(home)
    plain.close()
    private.close()
    assert found["chats/chats.db-wal"] == (False, "log of the chats")
    assert found["chats/private.db-wal"] == (True, "log of the chats")


def test_wipe_removes_all_text_and_nothing_else(home: Path) -> None:
    expected = {file.path for file in planned()}
    done = wipe()
    assert {file.path for file in done.removed} == expected
    assert done.left == ()
    assert traces(home) == []
    assert sorted(path.name for path in home.iterdir()) == ["artifacts", "settings.json"]
    assert (home / "artifacts" / "m" / "model.gguf").read_bytes() == b"GGUF"
    assert wipe().removed == ()


def test_a_file_held_open_shows_that_its_content_was_overwritten(home: Path) -> None:
    files = [home / "chats" / "chats.db", home / "exports" / "chat.md"]
    handles = [path.open("rb") for path in files]
    wipe()
    for handle in handles:
        with handle:
            content = handle.read()
        assert content
        assert SECRET.encode() not in content


def test_an_open_chat_is_not_pulled_from_under_its_user(home: Path) -> None:
    chats = ChatStore.open(home / "chats" / "chats.db")
    with pytest.raises(GateError, match="a chat is open"):
        wipe()
    chats.close()
    assert (home / "chats" / "private.db").exists()
    wipe()
    assert not (home / "chats").exists()


def test_keys_go_before_anything_else(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed right after the keys, an encrypted store opens no more, with any passphrase."""

    class Killed(BaseException):
        pass

    def kill(path: Path, **options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(wiping, "_remove", kill)
        with pytest.raises(Killed):
            wipe()
    private = home / "chats" / "private.db"
    assert private.exists()
    with pytest.raises((InputError, PrivacyError)):
        ChatStore.open(private, "open sesame", cost=CHEAP)
    wipe()
    assert not (home / "chats").exists()


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_killed_wipe_is_finished_by_the_next(home: Path, after: int) -> None:
    code = f"""
import os
from edgekit.workflows.privacy import wipe as wiping
remove, left = wiping._remove, [{after}]
def killed(path, **options):
    if not left[0]:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    return remove(path, **options)
wiping._remove = killed
wiping.wipe()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    wipe()
    assert traces(home) == []
    assert not (home / "chats").exists()


def test_links_lead_nowhere(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "diary.txt").write_text("keep me")
    (outside / "hard.txt").write_text("keep me too")
    (home / "chats" / "folder").symlink_to(outside)
    (home / "chats" / "file").symlink_to(outside / "diary.txt")
    os.link(outside / "hard.txt", home / "chats" / "hard.txt")
    assert by_name(home)["chats/file"][1].startswith("a link to ")
    left = {Path(each.path).name: each.why for each in wipe().left}
    assert set(left) == {"folder", "file", "hard.txt"}
    assert (outside / "diary.txt").read_text() == "keep me"
    assert (outside / "hard.txt").read_text() == "keep me too"
    assert not (home / "chats").exists()


def test_what_a_killed_export_left_goes_too(home: Path) -> None:
    """It was killed before the temporary file got its name, and before that lost its own."""
    (home / "exports" / ".export.ab12").write_text(SECRET)
    os.link(home / "exports" / "chat.md", home / "exports" / ".export.cd34")
    handle = (home / "exports" / "chat.md").open("rb")
    done = wipe()
    assert {".export.ab12", ".export.cd34"} < {Path(file.path).name for file in done.removed}
    assert done.left == ()
    assert not (home / "exports").exists()
    with handle:
        assert SECRET.encode() not in handle.read()  # overwritten under both of its names


def test_a_whole_folder_that_is_a_link_is_named_not_emptied(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(home / "exports", elsewhere)
    (home / "exports").symlink_to(elsewhere)
    assert str(elsewhere) in wipe().left[0].why
    assert (elsewhere / "chat.md").read_text() == SECRET


def test_an_empty_home_has_nothing(edgekit_home: Path) -> None:
    assert stored() == planned() == []
    assert wipe().removed == ()
