"""The largest resident memory that a process has had."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path


def peak_rss_bytes() -> int:
    """Return this process's peak resident memory, mapped files included."""
    if (peak := peak_rss_of(os.getpid())) is not None:
        return peak
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_rss_of(pid: int) -> int | None:
    """Return another process's peak, or None where only that process itself can tell.

    Linux's VmHWM starts anew with a program; what getrusage says of a child starts with the
    memory of the parent that forked it.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    match = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None
