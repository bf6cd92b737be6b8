"""`this`: what is measured here is plausible, and agrees with what the system says."""

from __future__ import annotations

import platform
import sys

from devices.profile import FIGURES, load_profile
from devices.this import compute_gflops, glibc, platform_tags


def test_this_machine_is_a_profile_with_sources() -> None:
    profile = load_profile("this")
    assert profile.name == "this"
    assert profile.machine == platform.machine()
    assert 0.2 < profile.memory_bandwidth_gb_per_s < 5000
    assert 1 < profile.compute_gflops < 1e5
    assert 0 < profile.usable_memory_bytes < profile.memory_bytes
    assert profile.python_tags == (f"cp3{sys.version_info.minor}",)
    given = [key for key in FIGURES if getattr(profile, key) not in ((), 0, 0.0)]
    assert set(given) <= profile.sources.keys()


def test_the_rate_counts_the_cores() -> None:
    one, four = compute_gflops(1, seconds=0.1), compute_gflops(4, seconds=0.1)
    assert 2 < four / one < 8


def test_the_library_and_the_tags_are_those_of_the_system() -> None:
    name, version = platform.libc_ver()
    expected = tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else (0, 0)
    assert glibc() == expected
    if sys.platform == "linux":
        assert f"manylinux2014_{platform.machine()}" in platform_tags()
        assert not any("_9_" in tag for tag in platform_tags())
