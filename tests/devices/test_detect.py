"""What is detected here agrees with what the system says."""

from __future__ import annotations

import os

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
