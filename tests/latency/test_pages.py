"""The count of touched memory, against mappings of known size."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

MIB = 1 << 20


@pytest.mark.parametrize("kind", ["private", "file"])
def test_what_is_read_is_counted_once_and_the_rest_is_not(kind: str) -> None:
    """Read 48 of 64 MiB that were all in use before, three times over."""
    program = textwrap.dedent(
        f"""
        import mmap, tempfile
        from edgekit.workflows.latency.pages import bytes_touched
        size, part = {64 * MIB}, {48 * MIB}
        if {kind!r} == "private":
            block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for offset in range(0, size, 4096):
                block[offset] = 1
        else:
            file = tempfile.TemporaryFile(dir="/var/tmp")
            file.write(bytes(size))
            file.flush()
            block = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
        def read(end):
            return sum(block[offset] for offset in range(0, end, 4096))
        read(size)
        print(bytes_touched(lambda: None), bytes_touched(lambda: [read(part) for _ in range(3)]))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    nothing, part = done.stdout.split()
    if nothing == "None":
        pytest.skip("this kernel does not tell which pages were used")
    assert int(nothing) < 8 * MIB
    # The kernel may read a file by more than a page at a time, and mark them together.
    assert int(part) - int(nothing) == pytest.approx(48 * MIB, rel=0.05)
