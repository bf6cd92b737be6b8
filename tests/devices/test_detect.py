"""What is detected here agrees with what the system says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devices.detect import describe, physical_cores, read_bandwidth_bytes_per_s


def test_cores_and_memory_are_those_of_this_machine() -> None:
    machine = describe()
    assert 1 <= machine.cores <= machine.threads <= (os.cpu_count() or 1)
    assert machine.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.memory_bytes > 100e6


def test_fewer_usable_processors_mean_fewer_cores() -> None:
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})
        assert physical_cores() == 1
    finally:
        os.sched_setaffinity(0, usable)


def test_bandwidth_is_plausible() -> None:
    assert 2e8 < read_bandwidth_bytes_per_s(megabytes=64, seconds=0.05) < 5e12


def test_the_limit_of_a_control_group_counts() -> None:
    """In a memory control group of our own, as root: psutil and sysconf would not notice."""
    root = Path("/sys/fs/cgroup/memory")
    limit = "memory.limit_in_bytes"
    if not (root / limit).exists():
        root, limit = Path("/sys/fs/cgroup"), "memory.max"
    group = root / f"edgekit-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if not (group / limit).exists():
            pytest.skip(f"{group} has no memory controller")
        (group / limit).write_text(str(512 << 20))
        join = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
        program = join + "from devices.detect import memory_bytes\nprint(memory_bytes())"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.stdout.strip() == str(512 << 20), done.stderr
    finally:
        group.rmdir()
