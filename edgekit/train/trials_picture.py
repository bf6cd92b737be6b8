"""The picture of a search: figures over trials, and the figure against each parameter.

One panel below the other, so that a telephone shows them. It draws what it is given.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from statistics import median
from typing import Any

from edgekit.extras import need
from edgekit.train.curve import HELD_OUT, LOSS, RATE
from edgekit.train.search_space import Choices, Parameter, Value
from edgekit.train.study import Trial, best_of

WIDTH, TOP, PANEL = 6.0, 3.4, 2.6  # inches
ROOM = 4.0  # the axis ends so many times the way from the best figure to the middle one above it


def draw_trials(
    trials: Sequence[Trial],
    space: Sequence[Parameter],
    figure: str,
    before: float | None,
    title: str,
) -> bytes:
    """Return a PNG. `figure` names the figure, `before` is that of the model before training.

    Trials without a figure, or with one far above the others, lie on the upper edge. Raises
    MissingExtraError without matplotlib.
    """
    need("matplotlib", "convert").use("Agg")
    from matplotlib import pyplot

    ended = [trial for trial in trials if trial.state in ("finished", "pruned", "diverged")]
    panels = 1 + len(space)
    with pyplot.rc_context({"font.size": 11}):
        canvas, axes = pyplot.subplots(
            panels, figsize=(WIDTH, TOP + PANEL * len(space)), layout="constrained",
            height_ratios=[TOP] + [PANEL] * len(space), squeeze=False,
        )  # fmt: skip
        limits = _limits(ended, before)
        for panel in axes[:, 0]:
            panel.set_ylim(*limits)
            panel.set_ylabel(figure)
            panel.grid(alpha=0.3)
        _draw_order(axes[0, 0], ended, limits, before)
        axes[0, 0].set(title=title, xlabel="trial")
        for panel, parameter in zip(axes[1:, 0], space, strict=True):
            _draw_parameter(panel, parameter, ended, limits)
        found = [panel.get_legend_handles_labels() for panel in axes[:, 0]]
        handles = {k: h for hs, ks in found for h, k in zip(hs, ks, strict=True)}
        canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=130)
        pyplot.close(canvas)
    return buffer.getvalue()


def _limits(trials: Sequence[Trial], before: float | None) -> tuple[float, float]:
    """Return the ends of the vertical axis, so that the good trials can be told apart."""
    figures = [trial.figure for trial in trials if trial.figure is not None]
    figures = figures or [1.0 if before is None else before]
    low = min(figures)
    high = min(max(figures), low + ROOM * (median(figures) - low))
    if high <= low:
        high = low + max(abs(low), 1e-9) * 0.1
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def _draw_order(
    panel: Any, trials: Sequence[Trial], limits: tuple[float, float], before: float | None
) -> None:
    _scatter(panel, trials, [trial.number for trial in trials], limits)
    best: list[tuple[int, float]] = []
    for trial in trials:
        if trial.state == "finished" and trial.figure is not None:
            best.append((trial.number, min(trial.figure, best[-1][1] if best else trial.figure)))
    if best:
        panel.step(*zip(*best, strict=True), where="post", color=HELD_OUT, label="best so far")
    if before is not None and limits[0] < before < limits[1]:
        panel.axhline(before, color=RATE, linestyle=":", label="before training")
    panel.xaxis.get_major_locator().set_params(integer=True)


def _draw_parameter(
    panel: Any, parameter: Parameter, trials: Sequence[Trial], limits: tuple[float, float]
) -> None:
    shown = [trial for trial in trials if parameter.name in trial.values]
    domain = parameter.domain
    if isinstance(domain, Choices):
        places: Sequence[Any] = [domain.values.index(t.values[parameter.name]) for t in shown]
        panel.set_xticks(range(len(domain.values)), [_said(value) for value in domain.values])
        panel.set_xlim(-0.5, len(domain.values) - 0.5)
    else:
        places = [trial.values[parameter.name] for trial in shown]
        if domain.log:
            panel.set_xscale("log")
    _scatter(panel, shown, places, limits)
    panel.set_xlabel(parameter.name)
    winner = best_of(shown)
    if winner is not None:
        place = places[shown.index(winner)]
        panel.plot(
            place, winner.figure, "*", color=HELD_OUT, markersize=15, clip_on=False, zorder=4,
            linestyle="", label="best",
        )  # fmt: skip


def _scatter(
    panel: Any, trials: Sequence[Trial], places: Sequence[float], limits: tuple[float, float]
) -> None:
    """Draw each trial: full if it finished, a cross if it ended early, an arrow if it is off."""
    kinds: dict[str, tuple[str, list[tuple[float, float]]]] = {
        "finished": ("o", []), "ended early": ("x", []), "off the scale": ("^", []),
    }  # fmt: skip
    for trial, place in zip(trials, places, strict=True):
        figure = trial.figure
        if figure is None or figure > limits[1]:
            kinds["off the scale"][1].append((place, limits[1]))
        else:
            kind = "finished" if trial.state == "finished" else "ended early"
            kinds[kind][1].append((place, figure))
    for label, (marker, points) in kinds.items():
        if points:
            color = LOSS if label == "finished" else "#555555"
            panel.scatter(
                *zip(*points, strict=True), marker=marker, color=color, label=label, clip_on=False,
                zorder=3,
            )  # fmt: skip


def _said(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"
