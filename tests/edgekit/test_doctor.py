"""doctor says whether privacy mode can be enforced here, and stays free itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from edgekit.privacy import landlock, lock
from edgekit.workflows import doctor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the lock is Linux's")


def test_the_lock_that_a_private_chat_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_WEAKER_LOCK", "python")  # what is asked is what the kernel can do
    finding = doctor._privacy()
    assert finding.works, finding
    assert "the kernel refuses every socket" in finding.detail
    assert ("Landlock" in finding.detail) == (landlock.version() > 0)
    assert lock.current() is None


def test_a_kernel_without_filters_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = (
        "from edgekit.privacy import seccomp\n"
        "def refuse(*words): raise OSError(22, 'Invalid argument')\n"
        "seccomp.install = refuse\n"
    )
    monkeypatch.setattr(doctor, "LOCK", lacking + doctor.LOCK)
    finding = doctor._privacy()
    assert not finding.works
    assert "cannot filter system calls" in finding.detail
    assert "--weaker-lock" in finding.hint


def test_the_engines_are_tried_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXTUAL", "devtools")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    seen = json.loads(doctor._run(code))
    assert (seen["HF_HUB_OFFLINE"], seen["ORT_DISABLE_TELEMETRY"]) == ("1", "1")
    assert seen["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"


def test_apply_silences_and_applied_only_for_a_while() -> None:
    code = (
        "import os\n"
        "from edgekit.privacy import quiet\n"
        "names = ('TEXTUAL', 'TEXTUAL_LOG', 'HF_HUB_OFFLINE')\n"
        "show = lambda: print([os.environ.get(name) for name in names])\n"
        "with quiet.applied(): show()\n"
        "show()\n"
        "quiet.apply()\n"
        "show()\n"
    )
    environment = os.environ | {"TEXTUAL": "debug", "TEXTUAL_LOG": "/tmp/log"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    quiet, loud = "[None, None, '1']", "['debug', '/tmp/log', None]"
    assert done.stdout.splitlines() == [quiet, loud, quiet]
