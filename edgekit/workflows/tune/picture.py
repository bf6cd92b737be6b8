"""The front as a picture: bytes against divergence, and against speed where a device is named."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekit.extras import need
from edgekit.files import write_atomically
from edgekit.workflows.tune.wish import Point, Tuned

# Okabe and Ito's colours; shapes say the same, so that no colour carries meaning alone.
FRONT, TUNED, PRESET = "#56B4E9", "#0072B2", "#D55E00"
WIDTH, HEIGHT, DOTS_PER_INCH = 6.4, 4.6, 130


def draw(found: Tuned, title: str, path: Path) -> None:
    """Write the picture of a search to the PNG file `path`.

    The line is predicted for sizes in between; dots are measured. Raises MissingExtraError.
    """
    need("matplotlib", "convert").use("Agg")
    from matplotlib import pyplot

    axes_of: list[tuple[str, Callable[[Point], float]]] = [("size, MB", _megabytes)]
    if found.chosen.tokens_per_s is not None:
        axes_of.append(("expected speed, tokens/s", _speed))
    size = (WIDTH * len(axes_of), HEIGHT)
    figure, panels = pyplot.subplots(1, len(axes_of), figsize=size, layout="constrained")
    for axes, (label, value) in zip(_listed(panels), axes_of, strict=True):
        _panel(axes, found, value)
        axes.set_xlabel(label)
        axes.set_ylabel("mean KL divergence, nats")
    _listed(panels)[0].legend(fontsize=8)
    figure.suptitle(f"{title}: {found.chosen.recipe.name}\n{found.why}", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())


def _panel(axes: Any, found: Tuned, value: Callable[[Point], float]) -> None:
    line = sorted(found.front, key=value)
    axes.plot(
        [value(p) for p in line], [p.predicted for p in line],
        color=FRONT, label="best mixes, predicted", zorder=2,
    )  # fmt: skip
    for marker, colour, label, wanted in (
        ("o", TUNED, "mix, measured", False), ("s", PRESET, "preset, measured", True),
    ):  # fmt: skip
        chosen = [p for p in found.points if p.is_preset is wanted and p.measured]
        heights = [p.measured for p in chosen]
        axes.scatter(
            [value(p) for p in chosen], heights,
            marker=marker, color=colour, label=label, zorder=3,
        )  # fmt: skip
        for place, point in enumerate(sorted(chosen, key=value)):
            _annotate(axes, point, value, above=place % 2 == 0)
    axes.scatter(
        value(found.chosen), found.chosen.measured,
        marker="o", s=190, facecolors="none", edgecolors="black", label="chosen", zorder=4,
    )  # fmt: skip
    axes.set_yscale("log")
    axes.margins(x=0.12, y=0.12)
    axes.grid(alpha=0.3)


def _annotate(axes: Any, point: Point, value: Callable[[Point], float], *, above: bool) -> None:
    """Name a dot, the names of neighbours above and below in turn: they are often close."""
    name = point.recipe.scheme if point.is_preset else "mix"
    place = (value(point), point.measured)
    axes.annotate(
        name, place, textcoords="offset points", xytext=(5, 7 if above else -14), fontsize=8
    )


def _listed(panels: Any) -> Sequence[Any]:
    return list(panels) if hasattr(panels, "__len__") else [panels]


def _megabytes(point: Point) -> float:
    return point.bytes / 1e6


def _speed(point: Point) -> float:
    return point.tokens_per_s or 0.0
