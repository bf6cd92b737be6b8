"""Limits on foreign Python-level code in this process: processor time and memory.

Made for chat templates, which come with the model file. A loop that emits nothing is stopped
between two lines; a value that grows without end fails to get its memory. What a single call
into C does with its time is for the parent process to end, by ending the worker.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_STATM = Path("/proc/self/statm")
_address_space = threading.Lock()


class TimeUp(BaseException):
    """The code inside `cpu_limit` used up its processor time. No `except Exception` stops it."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUp in the block once this thread has computed for `seconds` in it.

    Looks at the thread's own processor time before every line of Python, so a busy machine
    cuts nothing short.
    """
    deadline = time.thread_time() + seconds

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if time.thread_time() > deadline:
            raise TimeUp
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def memory_limit(extra_bytes: int) -> Iterator[None]:
    """Make allocations in the block fail with MemoryError beyond `extra_bytes` more than now.

    Holds for the whole process while the block runs. Does nothing where /proc does not tell how
    much that is.
    """
    if not _STATM.exists():
        yield
        return
    import resource

    with _address_space:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = _address_space_bytes() + extra_bytes
        already = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *already]), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space_bytes() -> int:
    import resource

    return int(_STATM.read_text().split()[0]) * resource.getpagesize()
