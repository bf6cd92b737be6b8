"""The loss curve: as lines of JSON, and as a picture. It draws what it is given."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.extras import need

# Okabe and Ito's colours: told apart by people with any common colour vision.
LOSS, HELD_OUT, RATE = "#56B4E9", "#D55E00", "#999999"


@dataclass(frozen=True, slots=True)
class Figure:
    """What is drawn: the key of the judged entries, and what the vertical axis is called."""

    key: str
    axis: str


HEALING_FIGURE = Figure("validation_kld", "KL divergence from the original, nats")


def as_lines(curve: Sequence[dict[str, float]]) -> bytes:
    """Return one line of JSON for each entry."""
    return "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in curve).encode()


def draw(curve: Sequence[dict[str, float]], title: str, figure: Figure) -> bytes:
    """Return the picture of `curve` as a PNG: loss, held-out figure, learning rate.

    Raises MissingExtraError without matplotlib.
    """
    need("matplotlib", "convert").use("Agg")
    from matplotlib import pyplot

    steps = [entry for entry in curve if "loss" in entry]
    judged = [entry for entry in curve if figure.key in entry]
    canvas, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(*_points(steps, "loss"), color=LOSS, linewidth=1, label="training text, each step")
    axes.plot(*_points(judged, figure.key), color=HELD_OUT, marker="o", label="held-out text")
    axes.set(xlabel="step", ylabel=figure.axis, title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    right = axes.twinx()
    right.plot(*_points(steps, "learning_rate"), color=RATE, linestyle=":", label="learning rate")
    right.set(ylabel="learning rate")
    right.set_ylim(bottom=0)
    handles = [*axes.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    canvas.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=130)
    pyplot.close(canvas)
    return buffer.getvalue()


def _points(entries: Sequence[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    return [entry["step"] for entry in entries], [entry[key] for entry in entries]
