"""The grid of devices and artifacts: each cell predicted, rehearsed or measured, then judged.

A device that is this machine is measured for real; any other is predicted, and the artifact is
run here under its limits to see that it keeps within them and does no more work than it should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from devices.detect import Machine, describe
from devices.estimate import require_memory
from devices.model_facts import ModelFacts
from devices.profile import THIS, DeviceProfile, load_profile, names
from edgekit.artifact import Artifact
from edgekit.errors import GateError, UsageError
from edgekit.progress import Progress
from edgekit.units import format_bytes
from edgekit.workflows.bench import Bench, Workload, bench, weight_bytes_per_token
from edgekit.workflows.device_limits import limits_of
from edgekit.workflows.latency import judge
from edgekit.workflows.latency.here import is_here
from edgekit.workflows.latency.judge import MEASURED_HERE, PREDICTED, Figure, Ratio, Verdict
from edgekit.workflows.latency.measure import REHEARSAL, Measured, Work, free, under
from edgekit.workflows.latency.predict import Figures, planned_peak, predict

# Less of a processor makes a run long and shows nothing more.
LEAST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Cell:
    """One artifact on one device.

    Either `here` (this machine is the device) or `limited` (a rehearsal) or neither is set, and
    `source` says which figures `verdicts` judges: "measured here" or "predicted". `ratios` come
    from the rehearsal. `why` explains what could not be done.
    """

    artifact: Artifact
    profile: DeviceProfile
    predicted: Figures
    source: str
    verdicts: dict[str, Verdict]
    here: Bench | None = None
    limited: Measured | None = None
    ratios: tuple[Ratio, ...] = ()
    why: str = ""

    @property
    def verdict(self) -> Verdict:
        """Return the worst verdict of the cell."""
        return judge.worst(self.verdicts.values())


@dataclass(frozen=True, slots=True)
class Grid:
    """All cells, artifact by artifact; `free` has what this machine does without limits."""

    profiles: tuple[DeviceProfile, ...]
    artifacts: tuple[Artifact, ...]
    workload: Workload
    machine: Machine
    cells: tuple[Cell, ...]
    free: dict[Path, Measured] = field(default_factory=dict)
    ratios: dict[Path, tuple[Ratio, ...]] = field(default_factory=dict)

    def cell(self, profile: DeviceProfile, artifact: Artifact) -> Cell:
        """Return the cell of a device and an artifact."""
        wanted = (profile.name, artifact.path)
        return next(c for c in self.cells if (c.profile.name, c.artifact.path) == wanted)

    @property
    def failed_ratios(self) -> list[str]:
        """Return a sentence for each ratio outside its band."""
        found = [
            (artifact.manifest.name, ratio)
            for artifact in self.artifacts
            for ratio in self.ratios.get(artifact.path, ())
        ]
        found += [
            (f"{cell.artifact.manifest.name} under the limits of {cell.profile.name}", ratio)
            for cell in self.cells
            for ratio in cell.ratios
        ]
        return [f"{name}: {ratio}" for name, ratio in found if not ratio.holds]


def choose(names_or_paths: Sequence[str]) -> list[DeviceProfile]:
    """Return the profiles of these names or files; without any all, the fastest first."""
    if names_or_paths:
        return [load_profile(name) for name in names_or_paths]
    known = [load_profile(name) for name in [THIS, *names()]]
    return sorted(known, key=lambda profile: -profile.memory_bandwidth_gb_per_s)


def measure_grid(
    artifacts: Sequence[Artifact],
    profiles: Sequence[DeviceProfile],
    progress: Progress,
    *,
    workload: Workload | None = None,
    rehearse: bool = True,
) -> Grid:
    """Fill the grid. Without `rehearse` nothing is run but on devices that are this machine.

    Raises UsageError where two artifacts or two devices have one name.
    """
    _require_different("artifacts", [str(artifact.path) for artifact in artifacts])
    _require_different("devices", [profile.name for profile in profiles])
    workload, machine = workload or Workload(), describe()
    cells: list[Cell] = []
    measured: dict[Path, Measured] = {}
    ratios: dict[Path, tuple[Ratio, ...]] = {}
    total = len(artifacts) * (len(profiles) + rehearse)
    with progress.task("measuring latency", total, unit="cells") as advance:
        for artifact in artifacts:
            path = artifact.path
            if rehearse:
                measured[path] = free(artifact)
                ratios[path] = free_ratios(artifact, measured[path], machine)
                advance(1)
            for profile in profiles:
                cells.append(
                    fill(artifact, profile, machine, workload, measured.get(path), progress)
                )
                advance(1)
    return Grid(
        tuple(profiles), tuple(artifacts), workload, machine, tuple(cells), measured, ratios
    )


def fill(
    artifact: Artifact,
    profile: DeviceProfile,
    machine: Machine,
    workload: Workload,
    unlimited: Measured | None,
    progress: Progress,
) -> Cell:
    """Return the cell of `artifact` on `profile`; `unlimited` None means no rehearsal."""
    predicted = predict(
        artifact,
        profile,
        prompt_tokens=workload.prompt_tokens,
        answer_tokens=workload.answer_tokens,
    )
    cell = Cell(artifact, profile, predicted, PREDICTED, verdicts(predicted, profile))
    if artifact.manifest.format not in profile.engines:
        why = f"there is no {artifact.manifest.format} engine for {profile.name}"
        return replace(cell, verdicts={"engine": Verdict.IMPOSSIBLE}, why=why)
    if is_here(profile, machine):
        result = bench(artifact, workload, progress)
        return replace(
            cell, here=result, source=MEASURED_HERE, verdicts=verdicts(as_figures(result), profile)
        )
    return cell if unlimited is None else rehearsed(cell, unlimited, machine)


def rehearsed(cell: Cell, unlimited: Measured, machine: Machine) -> Cell:
    """Return the cell with the artifact run here under the device's limits."""
    profile = cell.profile
    limits = limits_of(profile, share_of(profile, unlimited))
    try:
        context_length = REHEARSAL.prompt_tokens + REHEARSAL.answer_tokens
        require_memory(ModelFacts.of(cell.artifact), context_length, limits.memory_bytes)
        found = under(cell.artifact, limits)
    except GateError as error:
        return replace(cell, why=error.message)
    ratios = limited_ratios(cell.artifact, found, unlimited, machine)
    return replace(cell, limited=found, ratios=ratios)


def share_of(profile: DeviceProfile, unlimited: Measured) -> float:
    """Return the share of one processor here that reads memory as fast as the device does.

    0, no limit, where the device is the faster one.
    """
    share = profile.memory_bandwidth_gb_per_s * 1e9 / unlimited.bandwidth_bytes_per_cpu_s
    return 0.0 if share >= 1 else max(LEAST_SHARE, share)


def free_ratios(artifact: Artifact, found: Measured, machine: Machine) -> tuple[Ratio, ...]:
    """Return what the run without limits says about the engine."""
    token_bytes = token_bytes_of(artifact, found.work)
    share = judge.roofline_share(
        token_bytes, found.decode_cpu_s_per_token, found.bandwidth_bytes_per_cpu_s
    )
    planned = _planned(artifact, found.work, machine)
    peak = judge.peak_against_plan(found.peak_rss_bytes, planned)
    if not found.touched_bytes_per_token:
        return share, peak
    return share, peak, judge.bytes_touched(found.touched_bytes_per_token, token_bytes)


def limited_ratios(
    artifact: Artifact, found: Measured, unlimited: Measured, machine: Machine
) -> tuple[Ratio, ...]:
    """Return what the rehearsal says: it did the same work, and the limits were in force."""
    same = judge.same_work(found.decode_cpu_s_per_token, unlimited.decode_cpu_s_per_token)
    planned = _planned(artifact, found.work, machine)
    peak = judge.peak_against_plan(found.peak_rss_bytes, planned, at_most=True)
    if "share" not in found.enforced:
        return same, peak
    return same, peak, judge.within_share(found.processor_share, found.limits.share)


def _planned(artifact: Artifact, work: Work, machine: Machine) -> Figure:
    return planned_peak(
        artifact,
        machine.features,
        prompt_tokens=work.prompt_tokens,
        answer_tokens=work.answer_tokens,
    )


def token_bytes_of(artifact: Artifact, work: Work) -> float:
    """Return the bytes that a token of the middle of the answer reads, by the manifest."""
    position = work.prompt_tokens + work.answer_tokens / 2
    return weight_bytes_per_token(artifact.manifest) + (
        artifact.manifest.kv_bytes_per_token * position
    )


def as_figures(found: Bench) -> Figures:
    """Return a measurement as figures; the slowest round is the doubt about its times."""
    slowest, _ = found.decode_tokens_per_s_range
    doubt = max(0.0, 1 - slowest / found.decode_tokens_per_s)
    peak = Figure(found.peak_rss_bytes, 0.0, MEASURED_HERE)
    return Figures(
        peak,
        peak,
        Figure(found.ttft_s, doubt, MEASURED_HERE),
        Figure(found.decode_tokens_per_s, doubt, MEASURED_HERE),
    )


def verdicts(figures: Figures, profile: DeviceProfile) -> dict[str, Verdict]:
    """Judge figures by the budgets of `profile`; memory also by what the device has."""
    return {
        "ttft": judge.at_most(figures.ttft_s, profile.budget_ttft_s),
        "decode": judge.at_least(figures.decode_tokens_per_s, profile.budget_tokens_per_s),
        "memory": judge.worst(
            (
                judge.at_most(figures.peak_memory_bytes, profile.budget_peak_memory_bytes),
                judge.at_most(figures.needed_memory_bytes, profile.usable_memory_bytes),
            )
        ),
    }


def memory_budget(profile: DeviceProfile) -> int:
    """Return the bytes that a model may take: the budget, and never more than there is."""
    return min(profile.budget_peak_memory_bytes or (1 << 63), profile.usable_memory_bytes)


def figures_of(cell: Cell) -> Figures:
    """Return the figures that the verdicts judge: measured where they were, else predicted."""
    return cell.predicted if cell.here is None else as_figures(cell.here)


def misses(cell: Cell) -> list[str]:
    """Return a sentence with both numbers for each budget of the cell that is missed."""
    figures = figures_of(cell)
    profile, source = cell.profile, cell.source
    what = f"{cell.artifact.manifest.name} on {profile.name}"
    lines = {
        "engine": cell.why,
        "ttft": f"{what}: first token {figures.ttft_s.value:.2f} s ({source}), "
        f"budget {profile.budget_ttft_s:g} s",
        "decode": f"{what}: decode {figures.decode_tokens_per_s.value:.1f} tokens/s ({source}), "
        f"budget {profile.budget_tokens_per_s:g}",
        "memory": f"{what}: memory {format_bytes(figures.peak_memory_bytes.value)} ({source}), "
        f"budget {format_bytes(memory_budget(profile))}",
    }
    bad = (Verdict.MISSED, Verdict.IMPOSSIBLE)
    return [lines[name] for name, verdict in cell.verdicts.items() if verdict in bad]


def _require_different(what: str, found: Sequence[str]) -> None:
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise UsageError(f"two of the {what} are {twice[0]}", hint="name each of them once")
