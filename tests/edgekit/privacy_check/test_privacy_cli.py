"""edgekit privacy on the command line: its JSON, its table, its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.privacy import _show
from edgekit.errors import PrivacyError
from edgekit.settings import Settings, load_settings
from edgekit.workflows.privacy.proof import Proof, Row
from edgekit.workflows.privacy.stored import Stored
from tui.conversation import Question
from tui.store.chats import ChatStore

PROGRAM = """
from edgekit.cli import cli, main
from edgekit.cli.privacy import privacy
cli.add_command(privacy)
main()
"""


def privacy(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "privacy", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # no terminal to ask on
    )
    assert "Traceback" not in done.stderr
    return done


def keep(path: Path, passphrase: str | None) -> None:
    chats = ChatStore.open(path, passphrase)
    chats.save_entry("c" * 32, Question("q" * 32, None, "a heron"))
    chats.close()


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what `check --json` writes, in privacy mode, beside a plain store."""
    if sys.platform != "linux":
        pytest.skip("the lock is Linux's")
    home = tmp_path_factory.mktemp("home")
    keep(home / "chats" / "chats.db", None)
    done = privacy("check", "--json", EDGEKIT_HOME=str(home), EDGEKIT_PRIVATE="1")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.slow
def test_check_json_has_its_keys(checked: dict[str, Any]) -> None:
    proof = checked
    assert {"channels", "stored", "lock", "engines", "not_covered", "faults"} <= set(proof)
    for channel in proof["channels"]:
        keys = {"name", "process", "refused", "evidence", "control_reached"}
        assert keys <= set(channel)
    names = {channel["name"] for channel in proof["channels"]}
    assert len(names) >= 28
    (chats,) = [f for f in proof["stored"] if f["path"].endswith("chats.db")]
    assert {"path", "encrypted", "what", "bytes"} == set(chats)
    assert chats["encrypted"] is False


def test_check_fits_eighty_columns_and_says_it_in_words(
    checked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tuple(Row(**row) for row in checked["channels"])
    files = tuple(Stored(**file) for file in checked["stored"])
    _show(Proof(**checked | {"channels": rows, "stored": files}))
    shown = capsys.readouterr().out
    table = shown.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert len(table) >= 28
    assert all("refused" in line for line in table[2:])
    assert "Seccomp: 2, NoNewPrivs: 1" in shown
    assert "Not covered:" in shown
    assert "\x1b" not in shown


def test_wipe_asks_and_wipes(edgekit_home: Path) -> None:
    keep(edgekit_home / "chats" / "chats.db", None)
    asked = privacy("wipe")
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    assert (edgekit_home / "chats" / "chats.db").exists()
    done = privacy("wipe", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    removed = [Path(file["path"]).name for file in document["removed"]]
    assert "chats.db" in removed
    assert document["cannot_promise"]
    assert not (edgekit_home / "chats").exists()
    again = privacy("wipe")
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "nothing is stored")


def test_wipe_refuses_while_a_chat_is_open(edgekit_home: Path) -> None:
    chats = ChatStore.open(edgekit_home / "chats" / "chats.db")
    done = privacy("wipe", "--yes")
    chats.close()
    assert done.returncode == 5
    assert "a chat is open" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("private", ["0", "1"])
def test_the_passphrase_changes(edgekit_home: Path, tmp_path: Path, private: str) -> None:
    if private == "1" and sys.platform != "linux":
        pytest.skip("the lock is Linux's")
    path = edgekit_home / "chats" / "private.db"
    keep(path, "old words")
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old words\n")
    new.write_text("new words\n")
    files = ("--passphrase-file", str(old), "--new-passphrase-file", str(new))
    done = privacy("passphrase", *files, EDGEKIT_PRIVATE=private)
    assert done.returncode == 0, done.stderr
    with pytest.raises(PrivacyError):
        ChatStore.open(path, "old words")
    chats = ChatStore.open(path, "new words")
    assert len(chats.load("c" * 32)[1]) == 1
    chats.close()
    wrong = privacy("passphrase", *files)
    assert wrong.returncode == 6
    assert "passphrase is wrong" in wrong.stderr


def test_no_private_chats_no_passphrase(edgekit_home: Path) -> None:
    done = privacy("passphrase")
    assert done.returncode == 3
    assert "no private chats" in done.stderr
    keep(edgekit_home / "chats" / "private.db", None)
    plain = privacy("passphrase")
    assert plain.returncode == 3
    assert "not an encrypted store" in plain.stderr


def test_the_default_is_kept_with_the_other_settings(edgekit_home: Path) -> None:
    (edgekit_home / "settings.json").write_text('{"theme": "nord"}')
    assert privacy("default", "on").returncode == 0
    assert load_settings() == Settings(private=True, theme="nord")
    assert privacy("default", "off").returncode == 0
    assert load_settings() == Settings(private=False, theme="nord")
    (edgekit_home / "settings.json").write_text("{")
    assert privacy("default", "on").returncode == 3
