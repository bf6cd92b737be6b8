"""The worker under the lock: each engine answers as it does without, and writes no file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.artifact import Artifact
from edgekit.errors import EdgekitError, InputError, UsageError
from runtimes.base import Message, Sampling
from runtimes.client import WorkerRuntime
from runtimes.load import load

from .conftest import REPOSITORY, linux_only
from .test_weaker import LACKING

pytestmark = linux_only
GREEDY = Sampling(temperature=0.0, max_tokens=8)


@pytest.fixture(
    scope="module", params=["gguf", "onnx", pytest.param("torch", marks=pytest.mark.slow)]
)
def artifact(request: pytest.FixtureRequest, artifacts_of_each_engine: Path) -> Artifact:
    return Artifact.open(artifacts_of_each_engine / "artifacts" / request.param)


def facts(artifact: Artifact) -> tuple[str, np.ndarray, str]:
    """Return an answer, logits, and what the kernel says of the worker."""
    runtime = load(artifact, context_length=128, threads=1)
    assert isinstance(runtime, WorkerRuntime)
    try:
        chunks = runtime.generate([Message("user", "hello world")], GREEDY)
        text = "".join(chunk.text for chunk in chunks)
        logits = runtime.score([3, 4, 5, 6]).copy()
        assert runtime.peak_rss_bytes > 1 << 20
        return text, logits, Path(f"/proc/{runtime.worker_pid}/status").read_text()
    finally:
        runtime.close()


def test_each_engine_answers_the_same(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_PRIVATE", "0")
    text, logits, status = facts(artifact)
    assert text
    assert "NoNewPrivs:\t0" in status
    monkeypatch.setenv("EDGEKIT_PRIVATE", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where no library has left a folder before
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    locked_text, locked_logits, locked_status = facts(artifact)
    assert locked_text == text
    np.testing.assert_array_equal(locked_logits, logits)
    assert "Seccomp:\t2\n" in locked_status
    assert "NoNewPrivs:\t1\n" in locked_status


def test_the_worker_can_write_no_file(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_PRIVATE", "1")
    runtime = load(artifact, context_length=128, threads=1)
    try:
        list(runtime.generate([Message("user", "hello")], GREEDY))
        with pytest.raises(InputError, match="cannot be written"):
            runtime.save_state(tmp_path / "state")
        assert list(tmp_path.iterdir()) == []
    finally:
        runtime.close()


def test_the_worker_follows_the_setting(
    artifact: Artifact, edgekit_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEKIT_PRIVATE", raising=False)
    (edgekit_home / "settings.json").write_text('{"private": true}')
    assert "NoNewPrivs:\t1\n" in facts(artifact)[2]


@pytest.mark.parametrize(
    ("value", "kind"), [("maybe", UsageError), ("", UsageError), (None, InputError)]
)
def test_a_worker_that_cannot_tell_does_not_load(
    value: str | None,
    kind: type[EdgekitError],
    edgekit_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (edgekit_home / "settings.json").write_text("{")
    monkeypatch.delenv("EDGEKIT_PRIVATE", raising=False)
    if value is not None:
        monkeypatch.setenv("EDGEKIT_PRIVATE", value)
    with pytest.raises(kind, match=r"settings\.json|EDGEKIT_PRIVATE"):
        WorkerRuntime({"path": "/nowhere"})


def test_a_lock_that_fails_in_the_worker_is_a_privacy_error() -> None:
    code = LACKING + (
        "from runtimes.client import WorkerRuntime\n"
        "lack('seccomp')\n"
        "try: WorkerRuntime({'path': '/nowhere'})\n"
        "except EdgekitError as error:\n"
        "    print(json.dumps([type(error).__name__, error.exit_code, error.message]))"
    )
    environment = os.environ | {"EDGEKIT_PRIVATE": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    name, exit_code, message = json.loads(done.stdout)
    assert (name, exit_code) == ("PrivacyError", 6)
    assert "privacy mode does not start: this system cannot filter system calls" in message
