"""The proof: it holds under the lock, and it fails where there is none.

Every lock is in a process that the workflow starts; nothing here locks pytest itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.artifact import Artifact
from edgekit.errors import PrivacyError
from edgekit.progress import NoProgress
from edgekit.workflows.privacy import proof as proving
from edgekit.workflows.privacy.channels import token
from edgekit.workflows.privacy.listeners import Listeners
from edgekit.workflows.privacy.processes import Attempt, Examined, names, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the lock is Linux's")


@pytest.fixture(scope="module")
def control() -> Examined:
    return run("control", "control", names())


def test_the_control_gets_out(loopback: None, control: Examined) -> None:
    """Without a lock the attempts succeed: a proof that cannot fail proves nothing."""
    assert control.failure == ""
    out = {attempt.name: attempt for attempt in control.attempts}
    must = {
        "tcp4", "udp4", "dns_packet", "unix_path", "unix_datagram", "netlink", "direct_syscall",
        "older_thread", "newer_thread", "child_process", "earlier_tcp", "earlier_udp",
        "af_unspec_reconnect", "asyncio", "urllib", "tcp_fastopen",
    }  # fmt: skip
    assert {name for name in must if out[name].refused} == set()
    assert all(out[name].heard for name in must - {"netlink"})
    assert control.strangers == 0
    assert control.report is None
    assert control.status["Seccomp"] == 0 or control.status["Seccomp_filters"] >= 1


@pytest.mark.slow
def test_the_lock_holds_in_the_chat_and_in_every_engine(
    artifacts_of_each_engine: Path, edgekit_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_HOME", str(artifacts_of_each_engine))
    proof = proving.prove("", NoProgress())
    proof.enforce()
    assert proof.faults == ()
    assert len(names()) >= 28
    for process in ("chat", "gguf engine", "onnx engine", "torch engine"):
        rows = {row.name: row for row in proof.channels if row.process == process}
        assert set(rows) == set(names())
        assert all(row.refused and row.heard == 0 for row in rows.values())
        # the filter's own errno, not that of a network that happens to be down
        for name in ("tcp4", "tcp6", "udp4", "udp6", "netlink", "vsock", "unix_path"):
            assert rows[name].evidence.startswith("EACCES from socket(")
        assert rows["io_uring"].evidence == "EACCES from io_uring_setup"
        shown = proof.lock["processes"][process]
        assert (shown["seccomp"], shown["no_new_privs"]) == (2, 1)
        assert shown["seccomp_filters"] >= 1
    for engine in ("gguf", "onnx", "torch"):
        assert proof.engines[engine] == {"state": "answered", "answer_tokens": 8, "detail": ""}
    assert proof.lock["strength"] == "kernel"
    assert any("AF_INET" in closed for closed in proof.lock["closed"])


def test_a_process_that_does_not_lock_itself_is_found_out(
    loopback: None, control: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole proof, with the control in the chat's place."""
    unlocked = replace(control, name="chat")
    monkeypatch.setattr(proving, "run", lambda *words: control)
    monkeypatch.setattr(proving, "_locked", lambda weaker, engines: iter([unlocked]))
    proof = proving.prove("", NoProgress())
    assert any("tcp4 got through in the chat" in fault for fault in proof.faults)
    assert any("did not lock itself" in fault for fault in proof.faults)
    with pytest.raises(PrivacyError, match="does not hold here"):
        proof.enforce()


def test_the_weakest_lock_is_shown_to_be_weak(loopback: None) -> None:
    """Only an audit hook: the calls that go round Python get out, and the proof sees them."""
    code = """
import sys
from edgekit.privacy import audit
audit.install()
from edgekit.workflows.privacy import probe
probe._lock = lambda request: None
import json
probe.chat(json.loads(sys.argv[1]))
"""
    with Listeners() as listeners:
        out, into = os.pipe()
        request = {
            "nonce": "n", "targets": listeners.targets, "control": False, "weaker": "",
            "channels": ["tcp4", "direct_syscall"], "writable": [],
            "findings_handle": into,
        }  # fmt: skip
        words = [sys.executable, "-c", code, json.dumps(request)]
        subprocess.run(words, pass_fds=(into,), check=False, timeout=30)
        os.close(into)
        with os.fdopen(out, "rb") as stream:
            found = json.loads(stream.read()[4:])
        listeners.settle()
        heard = listeners.heard(token("n", "direct_syscall"))
    evidence = {a["name"]: a["evidence"] for a in found["attempts"]}
    assert "EACCES" in evidence["tcp4"]
    assert (evidence["direct_syscall"], heard) == (None, 1)


@pytest.mark.parametrize(
    ("attempt", "refused"),
    [
        (Attempt("tcp4", "EACCES from socket", 0), True),
        (Attempt("tcp4", None, 0), False),
        (Attempt("tcp4", None, 1), False),
        (Attempt("tcp4", "EPIPE from send", 1), False),
    ],
)
def test_refused_means_failed_and_unheard(attempt: Attempt, refused: bool) -> None:
    assert attempt.refused is refused


def test_a_process_that_crashes_is_a_fault_not_a_pass(
    control: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "run", lambda *words: control)
    crashed = run("nothing_of_this_name", "chat", names())
    assert "nothing_of_this_name" in crashed.failure
    monkeypatch.setattr(proving, "_locked", lambda weaker, engines: iter([crashed]))
    proof = proving.prove("", NoProgress())
    assert any("could not be tested" in fault for fault in proof.faults)


def test_a_lock_that_cannot_be_had_is_a_fault(
    control: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "run", lambda *words: control)

    def refuse(weaker: str, engines: object) -> Any:
        raise PrivacyError("privacy mode does not start: no filter")

    monkeypatch.setattr(proving, "_locked", refuse)
    proof = proving.prove("", NoProgress())
    assert proof.lock["strength"] is None
    assert "does not start" in proof.faults[0]


def test_a_damaged_artifact_does_not_hide_the_engine(
    artifacts_of_each_engine: Path, edgekit_home: Path
) -> None:
    broken = edgekit_home / "artifacts" / "broken"
    shutil.copytree(artifacts_of_each_engine / "artifacts" / "gguf", broken)
    entry = Artifact.open(broken).entry
    with entry.open("r+b") as stream:
        stream.write(b"JUNK")
    tested = run("engine", "gguf engine", ["tcp4"], engine="gguf", artifact=str(broken))
    assert tested.failure == ""
    assert tested.engine["state"] == "imported"
    assert "GGUF" in tested.engine["detail"]
    assert tested.attempts[0].refused
