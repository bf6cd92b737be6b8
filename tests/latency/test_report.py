"""The report and the picture: columns never mixed, a sign in every cell, readable ink."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from devices.detect import describe
from edgekit.artifact import Artifact
from edgekit.workflows.bench import Bench, Workload
from edgekit.workflows.device_limits import Limits
from edgekit.workflows.latency import grid as grids
from edgekit.workflows.latency import judge, picture, report
from edgekit.workflows.latency.grid import Cell, Grid
from edgekit.workflows.latency.judge import MEASURED_HERE, PREDICTED, Verdict
from edgekit.workflows.latency.measure import Measured, Work

from .made_up import opened, profile

# Figures that cannot be mistaken for each other when they are found in the text.
HERE = Bench(
    load_s=1.0, ttft_s=0.7117, prefill_tokens_per_s=250.0, decode_tokens_per_s=41.7,
    decode_tokens_per_s_range=(41.0, 42.0), peak_rss_bytes=411_000_000, roofline_share=0.5,
    bandwidth_bytes_per_s=1e10, prompt_tokens=512, answer_tokens=64, rounds=3, threads=2,
)  # fmt: skip
FREE = Measured(1, 0.5, 0.4, 61.7, 0.0161, 0.02, 0.9, 611_000_000, Work(), 0, 27e9, 600_000_000)
LIMITED = replace(
    FREE, decode_tokens_per_s=81.7, decode_cpu_s_per_token=0.0181, peak_rss_bytes=811_000_000,
    limits=Limits(900_000_000, 2, 0.25), enforced={"memory": "x", "share": "x"},
    not_enforced={"processors": "no"},
)  # fmt: skip


def made(artifacts: list[Artifact]) -> Grid:
    """Return a grid with a cell of each kind: holds, unsure, missed, impossible, measured."""
    devices = [
        profile("fast", title="Fast | board $x$"),
        profile("slow", budget_ttft_s=1e-4, budget_tokens_per_s=1e6),
        profile("gguf-only", engines=("gguf",)),
        profile("this"),
    ]
    cells = []
    for artifact in artifacts:
        for device in devices:
            predicted = grids.predict(artifact, device, prompt_tokens=64, answer_tokens=8)
            cell = Cell(
                artifact, device, predicted, PREDICTED, grids.verdicts(predicted, device),
                limited=LIMITED, ratios=(judge.same_work(0.0181, 0.0161),),
            )  # fmt: skip
            if device.name == "this":
                figures = grids.verdicts(grids.as_figures(HERE), device)
                cell = replace(
                    cell, here=HERE, source=MEASURED_HERE, verdicts=figures, limited=None, ratios=()
                )
            if artifact.manifest.format not in device.engines:
                verdicts = {"engine": Verdict.IMPOSSIBLE}
                cell = replace(cell, verdicts=verdicts, limited=None, why="there is no engine")
            cells.append(cell)
    bad = judge.roofline_share(1e8, 1.0, 27e9)
    return Grid(
        tuple(devices), tuple(artifacts), Workload(), describe(), tuple(cells),
        {artifact.path: FREE for artifact in artifacts},
        {artifact.path: (bad,) for artifact in artifacts},
    )  # fmt: skip


@pytest.fixture(scope="module")
def grid(tiny_home: Path) -> Grid:
    return made(opened(tiny_home))


def sections(text: str) -> dict[str, str]:
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def test_each_kind_of_figure_stands_in_its_own_table(grid: Grid) -> None:
    found = sections(report.markdown(grid))
    places = {
        "41.7/s": "Measured here",
        "16.1 ms": "Measured here, without limits, one thread",
        "18.1 ms": "Measured under limits",
    }
    for figure, place in places.items():
        assert [name for name, text in found.items() if figure in text] == [place]
    assert "411.0 MB" not in found["Predicted"]
    # Wall time under limits is this machine's, slowed down: it is not shown as a speed at all.
    assert "81.7" not in report.markdown(grid)


def test_the_report_says_what_was_not_enforced_and_what_is_out_of_band(grid: Grid) -> None:
    found = sections(report.markdown(grid))
    assert "memory 900.0 MB, 25% of one, NOT 2 processors" in found["Measured under limits"]
    assert "roofline share 0.004 is not in 0.15 to 1.20" in found["Outside their bands"]


def test_every_table_has_rows_of_one_length(grid: Grid) -> None:
    """Also with a bar in a device's title."""
    for text in sections(report.markdown(grid)).values():
        counts = {line.count("|") for line in text.splitlines() if line.startswith("|")}
        assert len(counts) <= 1


def test_the_document_is_json_and_labels_its_figures(grid: Grid) -> None:
    document = json.loads(json.dumps(report.document(grid), allow_nan=False))
    assert {"schema", "machine", "workload", "artifacts", "cells"} <= set(document)
    assert len(document["cells"]) == 8
    for cell in document["cells"]:
        assert {"predicted", "measured_here", "measured_under_limits"} <= set(cell)
        measured = cell["measured_here"] is not None
        assert cell["verdict_source"] == ("measured here" if measured else "predicted")
        assert cell["verdict"] in {str(verdict) for verdict in Verdict}
    here = [cell for cell in document["cells"] if cell["measured_here"]]
    assert {cell["device"] for cell in here} == {"this"}


def test_bold_is_what_was_measured(grid: Grid) -> None:
    for cell in grid.cells:
        assert report.label(cell).startswith("**") == (cell.profile.name == "this")


def test_every_verdict_has_a_sign_of_its_own(grid: Grid) -> None:
    assert len({report.SIGNS[verdict] for verdict in Verdict}) == len(Verdict)
    seen = {cell.verdict for cell in grid.cells}
    assert {Verdict.HOLDS, Verdict.MISSED, Verdict.IMPOSSIBLE} <= seen


def luminance(colour: str) -> float:
    """Return the relative luminance of "#RRGGBB" (WCAG 2.1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [picture.LIGHT, picture.DARK], ids=["light", "dark"])
def test_all_ink_can_be_read(theme: picture.Theme) -> None:
    assert contrast(theme.page, theme.ink) > 7
    assert contrast(theme.page, theme.faint) > 4.5
    for fill, ink in theme.cells.values():
        assert contrast(fill, ink) > 4.5


def test_the_pictures_show_each_cell_in_its_colour(grid: Grid, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    paths = picture.write(grid, tmp_path)
    assert [path.name for path in paths] == ["latency.png", "latency-dark.png"]
    for path, theme in zip(paths, (picture.LIGHT, picture.DARK), strict=True):
        pixels = (image.imread(path)[:, :, :3] * 255).round().astype(int)
        height, width = pixels.shape[:2]
        assert width > 1000
        assert height > 500
        for cell in grid.cells:
            row, column = grid.profiles.index(cell.profile), grid.artifacts.index(cell.artifact)
            left = picture.cells_left(grid) + column * picture.CELL_WIDTH
            top = picture.HEAD + row * picture.CELL_HEIGHT
            # A free corner of the cell, below the sign.
            spot = pixels[int((top + 0.47) * 160), int((left + 0.25) * 160)]
            expected = theme.cells[cell.verdict][0]
            assert "#{:02X}{:02X}{:02X}".format(*spot) == expected


def test_a_report_that_cannot_be_written_leaves_nothing(grid: Grid, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(Exception, match="cannot be a folder"):
        report.write(grid, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
