"""Cells of the grid: what is this machine, what is predicted, what is run, what is missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devices.detect import Machine, describe
from devices.profile import names
from edgekit.errors import GateError, UsageError
from edgekit.progress import NoProgress
from edgekit.workflows.bench import Bench, Workload
from edgekit.workflows.device_limits import Limits
from edgekit.workflows.latency import grid, judge
from edgekit.workflows.latency.here import is_here
from edgekit.workflows.latency.judge import MEASURED_HERE, PREDICTED, Verdict
from edgekit.workflows.latency.measure import Measured, Work, free, under

from .made_up import opened, profile

PI_5 = Machine("aarch64", "Raspberry Pi 5 Model B Rev 1.0", 4, 4, 8_440_000_000, ("asimd",))
SMALL = Workload(prompt_tokens=32, answer_tokens=4, rounds=1)


def a_bench(**changes: object) -> Bench:
    bench = Bench(
        load_s=1.0,
        ttft_s=2.0,
        prefill_tokens_per_s=250.0,
        decode_tokens_per_s=10.0,
        decode_tokens_per_s_range=(9.0, 11.0),
        peak_rss_bytes=300_000_000,
        roofline_share=0.5,
        bandwidth_bytes_per_s=1e10,
        prompt_tokens=512,
        answer_tokens=64,
        rounds=3,
        threads=4,
    )
    return replace(bench, **changes)


@pytest.mark.parametrize(
    ("name", "memory_bytes", "machine", "board", "expected"),
    [
        ("raspberry-pi-5-8gb", 8 << 30, PI_5, "", True),
        ("raspberry-pi-5-16gb", 16 << 30, PI_5, "", False),
        ("raspberry-pi-4", 8 << 30, PI_5, "", False),
        ("raspberry-pi-5-8gb", 8 << 30, replace(PI_5, architecture="x86_64"), "", False),
        ("raspberry-pi-5-8gb", 8 << 30, replace(PI_5, processor="Cortex-A76"), "", False),
        (
            "jetson-orin-nano",
            8 << 30,
            replace(PI_5, processor="ARMv8 Processor rev 1"),
            "NVIDIA Jetson Orin Nano Developer Kit\0",
            True,
        ),
        # Alike in everything but the name: a server with four cores and 8 GB.
        ("laptop-x86", 8 << 30, replace(PI_5, processor="AMD EPYC"), "", False),
    ],
)
def test_a_device_is_known_by_name_and_memory(
    name: str, memory_bytes: int, machine: Machine, board: str, expected: bool
) -> None:
    device = profile(name, memory_bytes=memory_bytes, usable_memory_bytes=memory_bytes // 2)
    assert is_here(device, machine, board) is expected


def test_this_is_always_here() -> None:
    assert is_here(profile("this"), describe())


def test_all_devices_are_chosen_the_fastest_first() -> None:
    chosen = grid.choose(())
    assert {device.name for device in chosen} == {"this", *names()}
    speeds = [device.memory_bandwidth_gb_per_s for device in chosen]
    assert speeds == sorted(speeds, reverse=True)


@pytest.mark.slow
def test_what_is_predicted_is_not_run_without_a_rehearsal(tiny_home: Path) -> None:
    artifacts = opened(tiny_home)
    found = grid.measure_grid(artifacts, [profile()], NoProgress(), workload=SMALL, rehearse=False)
    assert len(found.cells) == 2
    for cell in found.cells:
        assert cell.source == PREDICTED
        assert cell.here is None
        assert cell.limited is None
        assert cell.verdict is Verdict.HOLDS
        assert cell.predicted.ttft_s.low < cell.predicted.ttft_s.high


def test_a_device_without_the_engine_is_impossible_and_says_why(tiny_home: Path) -> None:
    device = profile(engines=("gguf",))
    found = grid.measure_grid(
        opened(tiny_home), [device], NoProgress(), workload=SMALL, rehearse=False
    )
    gguf, onnx = found.cells
    assert gguf.verdict is Verdict.HOLDS
    assert onnx.verdict is Verdict.IMPOSSIBLE
    assert grid.misses(onnx) == ["there is no onnx engine for a-board"]


def test_a_tiny_model_is_run_under_the_limits_of_a_board(tiny_home: Path) -> None:
    artifact = opened(tiny_home)[0]
    device = profile(memory_bandwidth_gb_per_s=8.0)
    found = grid.measure_grid([artifact], [device], NoProgress(), workload=SMALL)
    unlimited = found.free[artifact.path]
    assert unlimited.limits == Limits()
    assert unlimited.bandwidth_bytes_per_cpu_s > 1e9
    (cell,) = found.cells
    assert cell.limited is not None
    assert cell.limited.limits.memory_bytes == device.usable_memory_bytes
    assert cell.limited.peak_rss_bytes < 200e6
    assert {"memory", "processors"} <= {*cell.limited.enforced, *cell.limited.not_enforced}
    assert cell.source == PREDICTED  # the rehearsal is never the verdict


def test_a_limit_below_the_model_is_refused_before_it_is_loaded(tiny_home: Path) -> None:
    device = profile(memory_bytes=60_000_000, usable_memory_bytes=30_000_000)
    found = grid.measure_grid([opened(tiny_home)[0]], [device], NoProgress(), workload=SMALL)
    (cell,) = found.cells
    assert cell.limited is None
    assert "30.0 MB" in cell.why
    assert cell.verdicts["memory"] is Verdict.MISSED


def test_a_limit_that_kills_is_a_sentence_with_both_numbers(tiny_home: Path) -> None:
    artifact = opened(tiny_home)[0]
    with pytest.raises(GateError, match=r"memory"):
        under(artifact, Limits(memory_bytes=12_000_000), Work(8, 4, 1))


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"ttft_s": 4.0, "decode_tokens_per_s_range": (10.0, 10.0)}, ["4.00 s", "3 s"]),
        ({"decode_tokens_per_s": 5.0, "decode_tokens_per_s_range": (5.0, 5.0)}, ["5.0", "8"]),
        ({"peak_rss_bytes": 2_500_000_000}, ["2.50 GB", "2.00 GB"]),
    ],
)
def test_a_missed_budget_is_said_with_both_numbers(
    changes: dict[str, float], missed: list[str], tiny_home: Path
) -> None:
    device, artifact = profile(), opened(tiny_home)[0]
    figures = grid.as_figures(a_bench(**changes))
    predicted = grid.predict(artifact, device, prompt_tokens=32, answer_tokens=4)
    cell = grid.Cell(
        artifact, device, predicted, MEASURED_HERE, grid.verdicts(figures, device),
        here=a_bench(**changes),
    )  # fmt: skip
    lines = grid.misses(cell)
    assert len(lines) == bool(missed)
    for number in missed:
        assert number in lines[0]
        assert MEASURED_HERE in lines[0]


def test_a_slow_round_is_the_doubt_of_a_measurement() -> None:
    figures = grid.as_figures(a_bench(ttft_s=2.9, decode_tokens_per_s_range=(8.0, 11.0)))
    assert judge.at_most(figures.ttft_s, 3.0) is Verdict.UNSURE


def test_the_share_of_a_processor_is_that_of_its_bandwidth() -> None:
    base = Measured(1, 1, 1, 1, 1, 1, 1, 1, Work(), bandwidth_bytes_per_cpu_s=25e9)
    assert grid.share_of(profile(memory_bandwidth_gb_per_s=10.0), base) == pytest.approx(0.4)
    assert grid.share_of(profile(memory_bandwidth_gb_per_s=1.0), base) == grid.LEAST_SHARE
    assert grid.share_of(profile(memory_bandwidth_gb_per_s=80.0), base) == 0.0


def test_bytes_touched_grow_with_the_model_and_nothing_is_counted_twice(
    tiny_home: Path,
) -> None:
    """Tiny weights are lost in the pages of the interpreter, which are a few megabytes."""
    found = free(opened(tiny_home)[0], Work(32, 4, 1))
    if not found.touched_bytes_per_token:
        pytest.skip("this kernel does not tell which pages were used")
    assert 1e6 < found.touched_bytes_per_token < 30e6


def test_names_have_to_differ(tiny_home: Path) -> None:
    artifact = opened(tiny_home)[0]
    with pytest.raises(UsageError, match="two of the artifacts"):
        grid.measure_grid([artifact, artifact], [profile()], NoProgress(), rehearse=False)
    with pytest.raises(UsageError, match="two of the devices"):
        grid.measure_grid([artifact], [profile(), profile()], NoProgress(), rehearse=False)
