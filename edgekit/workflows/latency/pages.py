"""How much memory an action uses, counted by the kernel in whole pages.

The kernel marks each page that this process reads or writes (proc_pid_clear_refs(5)). So the
count depends on no clock and on no other program. Linux only.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_CLEAR, _SMAPS = Path("/proc/self/clear_refs"), Path("/proc/self/smaps")
_ALL_PAGES = "1"
_FLUSH_BYTES = 8 << 20


def bytes_touched(action: Callable[[], object]) -> int | None:
    """Return the bytes of the pages that this process used during `action`.

    Includes the interpreter's own few megabytes. None where the kernel does not tell.
    """
    try:
        flush = _mapped_pages()
        _CLEAR.write_text(_ALL_PAGES, encoding="ascii")
        flush.close()
    except OSError:
        return None
    action()
    lines = _SMAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Referenced:"))


def _mapped_pages() -> mmap.mmap:
    """Return a mapping whose end makes the kernel flush this process's whole address cache.

    Clearing the marks does not flush it, and a page still in it would not be marked again.
    """
    pages = mmap.mmap(-1, _FLUSH_BYTES)
    with suppress(AttributeError, OSError):
        pages.madvise(mmap.MADV_NOHUGEPAGE)  # one large page would not be enough to flush all
    for offset in range(0, _FLUSH_BYTES, mmap.PAGESIZE):
        pages[offset] = 1
    return pages
