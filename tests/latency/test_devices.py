"""One body over every device: `pytest -m device` (two to five minutes).

On the machine that is the device, the artifact is measured and held to the budget. Elsewhere it
is run under the device's memory, processors and speed, and judged by ratios of one run that
other programs on the machine do not spoil. The report goes to the folder that the variable
EDGEKIT_LATENCY_REPORT names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.import_gguf import import_gguf
from converters.recipe import Recipe
from devices.detect import Machine, describe
from devices.profile import THIS, load_profile, names
from edgekit.artifact import Artifact
from edgekit.progress import NoProgress
from edgekit.workflows.bench import Workload, enforce
from edgekit.workflows.latency import picture, report
from edgekit.workflows.latency.grid import Cell, Grid, fill, free_ratios, misses
from edgekit.workflows.latency.judge import MEASURED_HERE, PREDICTED, Verdict
from edgekit.workflows.latency.measure import Measured, free

from ..real_model import real_gguf

pytestmark = pytest.mark.device

DEVICES = [THIS, *names()]
SCHEMES = [("gguf", "q4_k_m"), ("onnx", "int4")]
WORKLOAD = Workload(prompt_tokens=64, answer_tokens=24, rounds=2)


load = cache(load_profile)  # `this` is measured once


@pytest.fixture(scope="module")
def artifacts() -> Iterator[dict[str, Artifact]]:
    """Return the real model for each engine, removed at the end: pytest would keep it."""
    with tempfile.TemporaryDirectory(prefix="edgekit-device-") as folder:
        source = Path(folder) / "SmolLM2-135M-Instruct"
        source.mkdir()
        import_gguf(real_gguf(), source)
        checkpoint = Checkpoint.open(source)
        yield {
            form: convert(
                checkpoint,
                Recipe(name=f"{form}-{scheme}", format=form, scheme=scheme),
                Path(folder) / form,
                progress=NoProgress(),
            )
            for form, scheme in SCHEMES
        }


@pytest.fixture(scope="module")
def machine() -> Machine:
    return describe()


@pytest.fixture(scope="module")
def unlimited(artifacts: dict[str, Artifact]) -> dict[str, Measured]:
    """Return what this machine does without limits, the base of the ratios."""
    return {form: free(artifact) for form, artifact in artifacts.items()}


@pytest.fixture(scope="module")
def cells(
    artifacts: dict[str, Artifact], unlimited: dict[str, Measured], machine: Machine
) -> Iterator[list[Cell]]:
    """Collect the cells; at the end the report of those that were run is written."""
    found: list[Cell] = []
    yield found
    folder = os.environ.get("EDGEKIT_LATENCY_REPORT")
    if not folder:
        return
    profiles = {cell.profile.name: cell.profile for cell in found}
    run = [
        artifact for artifact in artifacts.values() if any(c.artifact == artifact for c in found)
    ]
    complete = len(found) == len(profiles) * len(run)
    if complete:
        base = {artifacts[form].path: measured for form, measured in unlimited.items()}
        ratios = {a.path: free_ratios(a, base[a.path], machine) for a in run}
        grid = Grid(
            tuple(profiles.values()), tuple(run), WORKLOAD, machine, tuple(found), base, ratios
        )
        picture.write(grid, Path(folder))
        report.write(grid, Path(folder))


@pytest.mark.parametrize("form", [form for form, _ in SCHEMES])
def test_the_engine_does_its_work_well(
    form: str, artifacts: dict[str, Artifact], unlimited: dict[str, Measured], machine: Machine
) -> None:
    """Roofline share, peak memory against the plan, bytes touched against the manifest."""
    ratios = free_ratios(artifacts[form], unlimited[form], machine)
    assert [ratio.name for ratio in ratios][:2] == ["roofline share", "peak against plan"]
    assert [str(ratio) for ratio in ratios if not ratio.holds] == []


@pytest.mark.parametrize("form", [form for form, _ in SCHEMES])
@pytest.mark.parametrize("device", DEVICES)
def test_latency(
    device: str,
    form: str,
    artifacts: dict[str, Artifact],
    unlimited: dict[str, Measured],
    machine: Machine,
    cells: list[Cell],
) -> None:
    profile = load(device)
    cell = fill(artifacts[form], profile, machine, WORKLOAD, unlimited[form], NoProgress())
    cells.append(cell)
    if cell.verdict is Verdict.IMPOSSIBLE:
        pytest.skip(cell.why)
    if cell.here is not None:
        assert cell.source == MEASURED_HERE
        enforce(cell.here, profile)
        return
    assert cell.source == PREDICTED
    if cell.limited is None:
        # Too large for the device: said before the model was loaded, with both numbers.
        assert cell.verdicts["memory"] is Verdict.MISSED
        assert "of memory" in cell.why
        return
    limits, found = cell.limited.limits, cell.limited
    assert limits.memory_bytes == profile.usable_memory_bytes
    assert {"memory", "processors"} <= {*found.enforced, *found.not_enforced}
    if "control group" in found.enforced.get("memory", ""):
        weights = artifacts[form].manifest.total_bytes
        assert 0.5 * weights < found.charged_bytes <= limits.memory_bytes
    assert [str(ratio) for ratio in cell.ratios if not ratio.holds] == []
    for line in misses(cell):
        print(f"missed: {line}")
