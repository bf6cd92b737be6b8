"""The grid as a picture: devices down, schemes across, a sign and a colour in each cell.

The sign says what the colour says, so that colour never carries meaning alone. It draws what it
is given and judges nothing.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.extras import need
from edgekit.files import write_atomically
from edgekit.units import format_bytes
from edgekit.workflows.latency.grid import Cell, Grid, figures_of
from edgekit.workflows.latency.judge import MEASURED_HERE, Verdict
from edgekit.workflows.latency.report import MEANINGS, SIGNS, budget

# Inches, which are also the units of the drawing.
CELL_WIDTH, CELL_HEIGHT, GAP = 1.62, 0.62, 0.08
MARGIN, HEAD, FOOT = 0.35, 1.45, 0.95
LEAST_LABEL, LONGEST_TITLE, CHARACTER_WIDTH = 3.2, 56, 0.083
DOTS_PER_INCH = 160


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a page; `cells` are fill and ink of each verdict, a contrast of 4.5 or more."""

    page: str
    ink: str
    faint: str
    cells: dict[Verdict, tuple[str, str]]


# The hues of Okabe and Ito, green towards blue and red towards orange, so that they stay apart
# for people with any common colour vision; the signs stay apart for everybody.
LIGHT = Theme(
    "#FFFFFF", "#1B1F24", "#5B6570",
    {
        Verdict.HOLDS: ("#CDEBDD", "#064D36"),
        Verdict.UNSURE: ("#FBE6B3", "#5C3F00"),
        Verdict.MISSED: ("#F6CDBF", "#7A1F05"),
        Verdict.IMPOSSIBLE: ("#E7EAED", "#4B545D"),
    },
)  # fmt: skip
DARK = Theme(
    "#14181D", "#E8ECF0", "#98A3AE",
    {
        Verdict.HOLDS: ("#0E4A37", "#B9F2DA"),
        Verdict.UNSURE: ("#5A430A", "#FFE3A1"),
        Verdict.MISSED: ("#6B2413", "#FFCFC0"),
        Verdict.IMPOSSIBLE: ("#2A3138", "#AEB8C2"),
    },
)  # fmt: skip


def write(grid: Grid, folder: Path) -> list[Path]:
    """Write `latency.png` and `latency-dark.png` into `folder`. Raises MissingExtraError."""
    pages = {"latency.png": LIGHT, "latency-dark.png": DARK}
    for name, theme in pages.items():
        write_atomically(folder / name, draw(grid, theme))
    return [folder / name for name in pages]


def draw(grid: Grid, theme: Theme = LIGHT) -> bytes:
    """Return the picture as a PNG. Raises MissingExtraError without matplotlib."""
    need("matplotlib", "convert").use("Agg")
    from matplotlib import pyplot

    width = cells_left(grid) + len(grid.artifacts) * CELL_WIDTH + MARGIN
    height = HEAD + FOOT + len(grid.profiles) * CELL_HEIGHT
    width = max(width, 10.2)  # the legend's
    figure = pyplot.figure(figsize=(width, height), facecolor=theme.page)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    _head(axes, grid, theme)
    for row, profile in enumerate(grid.profiles):
        top = HEAD + row * CELL_HEIGHT
        _text(axes, MARGIN, top + 0.21, _clipped(profile.title), theme.ink, 10.5)
        _text(axes, MARGIN, top + 0.42, budget(profile), theme.faint, 7.5)
        for column, artifact in enumerate(grid.artifacts):
            left = cells_left(grid) + column * CELL_WIDTH
            _cell(axes, grid.cell(profile, artifact), left, top, theme)
    _foot(axes, height - FOOT, theme)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor=theme.page)
    pyplot.close(figure)
    return buffer.getvalue()


def cells_left(grid: Grid) -> float:
    """Return where the cells begin, in inches: right of the longest title."""
    longest = max((len(_clipped(profile.title)) for profile in grid.profiles), default=0)
    return MARGIN + max(LEAST_LABEL, CHARACTER_WIDTH * longest + 0.15)


def _head(axes: Any, grid: Grid, theme: Theme) -> None:
    models = sorted({artifact.manifest.source.checkpoint for artifact in grid.artifacts})
    workload = grid.workload
    _text(axes, MARGIN, 0.40, ", ".join(models), theme.ink, 15, weight="bold")
    said = f"a prompt of {workload.prompt_tokens} tokens, an answer of {workload.answer_tokens}"
    _text(axes, MARGIN, 0.70, f"on each device: {said}", theme.faint, 9)
    for column, artifact in enumerate(grid.artifacts):
        middle = cells_left(grid) + column * CELL_WIDTH + (CELL_WIDTH - GAP) / 2
        manifest = artifact.manifest
        heading = f"{manifest.format} {manifest.scheme}"
        _text(axes, middle, 1.10, heading, theme.ink, 10.5, ha="center", weight="bold")
        size = format_bytes(manifest.total_bytes)
        _text(axes, middle, 1.31, size, theme.faint, 8, ha="center")


def _cell(axes: Any, cell: Cell, left: float, top: float, theme: Theme) -> None:
    fill, ink = theme.cells[cell.verdict]
    width, height = CELL_WIDTH - GAP, CELL_HEIGHT - GAP
    measured = cell.source == MEASURED_HERE
    _box(axes, left, top, width, height, fill, theme.ink if measured else fill)
    middle = top + height / 2
    _text(axes, left + 0.20, middle, SIGNS[cell.verdict], ink, 15, ha="center", weight="bold")
    if cell.verdict is Verdict.IMPOSSIBLE:
        _text(axes, left + 0.40, middle, f"no {cell.artifact.manifest.format} there", ink, 8)
        return
    figures = figures_of(cell)
    speed = f"{_three_digits(figures.decode_tokens_per_s.value)} tokens/s"
    first = f"{_three_digits(figures.ttft_s.value)} s"
    memory = format_bytes(figures.peak_memory_bytes.value)
    places = {"decode": (speed, 0.42, 0.18, 9.5), "ttft": (first, 0.42, 0.38, 8.0)}
    places["memory"] = (memory, 0.91, 0.38, 8.0)
    for name, (words, across, down, size) in places.items():
        weight = "normal" if cell.verdicts[name] is Verdict.HOLDS else "bold"
        _text(axes, left + across, top + down, words, ink, size, weight=weight)


def _foot(axes: Any, top: float, theme: Theme) -> None:
    left = MARGIN
    for verdict in Verdict:
        fill, ink = theme.cells[verdict]
        _box(axes, left, top + 0.22, 0.32, 0.24, fill, fill)
        _text(axes, left + 0.16, top + 0.34, SIGNS[verdict], ink, 10, ha="center", weight="bold")
        _text(axes, left + 0.40, top + 0.34, MEANINGS[verdict], theme.ink, 8.5)
        left += 0.40 + 0.30 + 0.068 * len(MEANINGS[verdict])
    _box(axes, left, top + 0.22, 0.32, 0.24, theme.page, theme.ink)
    _text(axes, left + 0.40, top + 0.34, "measured here (else predicted)", theme.ink, 8.5)
    words = "In a cell: decode; time to first token, peak memory. Bold: what misses or is unsure."
    _text(axes, MARGIN, top + 0.68, words, theme.faint, 8)


def _box(
    axes: Any, left: float, top: float, width: float, height: float, fill: str, edge: str
) -> None:
    from matplotlib.patches import FancyBboxPatch

    radius = 0.06
    style = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(
        FancyBboxPatch(
            (left, top),
            width,
            height,
            boxstyle=style,
            facecolor=fill,
            edgecolor=edge,
            linewidth=1.6,
        )
    )


def _text(
    axes: Any, x: float, y: float, words: str, colour: str, size: float, **style: Any
) -> None:
    # "$" would begin a formula: names come from outside.
    axes.text(x, y, words.replace("$", r"\$"), color=colour, fontsize=size, va="center", **style)


def _clipped(title: str) -> str:
    return title if len(title) <= LONGEST_TITLE else title[: LONGEST_TITLE - 1] + "…"


def _three_digits(value: float) -> str:
    """Return 132, 13.2, 1.32 or 0.13."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
