"""kill -9, once a command has left a trace on the disk."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def kill_after(words: Sequence[str], folder: Path, trace: str, wait_s: float) -> None:
    """Start `words`, and kill it `wait_s` seconds after `folder` has a file like `trace`."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and not list(folder.glob(trace)):
        time.sleep(0.005)
    time.sleep(wait_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
