"""The pictures of a report, as SVG text: figures per kind of text, per stage, per tensor.

They carry their own colours for light and dark, load nothing, and say every number in words too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape

from edgekit.certificate import StageReport
from edgekit.workflows.certify.weights import TensorReport

WIDTH = 720
ROW, BAR, LEFT, RIGHT, TOP = 30, 14, 110, 200, 12
CELL_HEIGHT, GAP = 18, 1
SMALLEST = 1e-7  # of a logarithmic axis, in nats: what float32 itself is away
STYLE = """
.ek-ink{fill:#1b1f24}.ek-soft{fill:#59636e}.ek-bar{fill:#2f6db3}.ek-line{stroke:#1b1f24}
.ek-rule{stroke:#d5dae0}.ek-empty{fill:#eef1f4}.ek-fault{stroke:#c62828;fill:none}
.ek-bad{fill:#c62828}.ek-heat{fill:#1d5fa8}
text{font:13px system-ui,sans-serif}
@media (prefers-color-scheme:dark){
.ek-ink{fill:#e6e9ed}.ek-soft{fill:#9aa4af}.ek-bar{fill:#6aa5e8}.ek-line{stroke:#e6e9ed}
.ek-rule{stroke:#39414a}.ek-empty{fill:#20262d}.ek-fault{stroke:#ff7b72}
.ek-bad{fill:#ff7b72}.ek-heat{fill:#7fb6f2}}
"""
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def standing_alone(svg: str) -> str:
    """Return a picture as a file of its own, with its colours in it."""
    return svg.replace(">", f"><style>{STYLE}</style>", 1)


def kinds(by_kind: Mapping[str, Mapping[str, float]]) -> str:
    """Return bars of the mean divergence of each kind of text, with their 95 % intervals."""
    largest = max((v.get("kld_high", v["kld_mean"]) for v in by_kind.values()), default=0.0)
    scale = (WIDTH - LEFT - RIGHT) / (largest or 1.0)
    parts = []
    for index, (kind, figures) in enumerate(by_kind.items()):
        y = TOP + index * ROW
        mean = max(0.0, figures["kld_mean"])
        low, high = figures.get("kld_low", mean), figures.get("kld_high", mean)
        words = f"{mean:.4f} ({low:.4f} to {high:.4f})"
        parts += [
            _text(LEFT - 10, y + BAR, kind, "ek-ink", "end"),
            _bar(LEFT, y + 2, mean * scale, BAR, "ek-bar", f"{kind}: {words} nats"),
            _line(LEFT + max(0.0, low) * scale, LEFT + high * scale, y + 2 + BAR / 2),
            _text(LEFT + high * scale + 8, y + BAR, words, "ek-soft"),
        ]
    parts.append(_text(LEFT, TOP + len(by_kind) * ROW + 10, _KINDS_CAPTION, "ek-soft"))
    return _svg(TOP + len(by_kind) * ROW + 20, parts, "mean divergence per kind of text")


_KINDS_CAPTION = "nats per position, lower is closer; the line is the 95 % interval"


def stages(reports: Sequence[StageReport]) -> str:
    """Return bars of each stage's own divergence, on a logarithmic axis; faults are red."""
    axis = WIDTH - LEFT - RIGHT
    measured = [r.figures["kld_mean"] for r in reports if "kld_mean" in r.figures]
    top = math.log10(max([1e-3, *measured])) - math.log10(SMALLEST)
    parts = []
    for index, report in enumerate(reports):
        y = TOP + index * ROW
        found = report.figures.get("kld_mean")
        words = {True: "ok", False: "FAULT", None: "not judged"}[report.ok]
        style = "ek-bad" if report.ok is False else "ek-soft"
        length = 0.0
        if found is not None:
            length = axis * (math.log10(max(found, SMALLEST)) - math.log10(SMALLEST)) / top
            words += f", {found:.2g} nats"
        colour = "ek-bad" if report.ok is False else "ek-bar"
        parts.append(_text(LEFT - 10, y + BAR, report.stage, "ek-ink", "end"))
        if found is not None:
            told = f"{report.stage}: {report.what}"
            parts.append(_bar(LEFT, y + 2, length, BAR, colour, told))
        parts.append(_text(LEFT + length + (8 if length else 0), y + BAR, words, style))
    caption = "each stage's own divergence, nats per position, on a logarithmic axis"
    parts.append(_text(LEFT, TOP + len(reports) * ROW + 10, caption, "ek-soft"))
    return _svg(TOP + len(reports) * ROW + 20, parts, "divergence per stage")


def tensors(reports: Sequence[TensorReport]) -> str:
    """Return a strip for each kind of tensor, one cell for each layer, darker for larger errors."""
    rows: dict[str, dict[int, TensorReport]] = {}
    for report in reports:
        match = LAYER.fullmatch(report.name)
        name, layer = (match[2], int(match[1])) if match else (report.name, 0)
        rows.setdefault(_short(name), {})[layer] = report
    count = 1 + max((layer for cells in rows.values() for layer in cells), default=0)
    largest = max([_error(r) for r in reports if math.isfinite(_error(r))] or [0.0]) or 1.0
    left = 150
    width = (WIDTH - left - 20) / count
    parts = []
    for index, (name, cells) in enumerate(rows.items()):
        y = TOP + index * (CELL_HEIGHT + 4)
        parts.append(_text(left - 10, y + CELL_HEIGHT - 5, name, "ek-ink", "end"))
        parts += [_cell(left + i * width, y, width - GAP, r, largest) for i, r in cells.items()]
    bottom = TOP + len(rows) * (CELL_HEIGHT + 4)
    words = f"relative error of each tensor, by layer from 0 to {count - 1}; darkest {largest:.1%}"
    parts.append(_text(left, bottom + 14, words, "ek-soft"))
    return _svg(bottom + 24, parts, "relative error per tensor")


def _cell(x: float, y: float, width: float, report: TensorReport, largest: float) -> str:
    error = _error(report)
    share = min(1.0, error / largest) if math.isfinite(error) else 1.0
    words = f"{report.name}: {error:.2%} ({report.type}) {report.wrong}"
    box = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{CELL_HEIGHT}" rx="1"'
    cell = (
        f'<rect class="ek-empty" {box}/>'
        f'<rect class="ek-heat" fill-opacity="{share:.3f}" {box}>'
        f"<title>{escape(words)}</title></rect>"
    )
    if report.wrong:
        cell += f'<rect class="ek-fault" stroke-width="2" {box}/>'
    return cell


def _error(report: TensorReport) -> float:
    return report.likeness.relative_error


def _short(name: str) -> str:
    """Return `q_proj` of `self_attn.q_proj.weight`, and `q_proj bias` of its bias."""
    stem, _, part = name.rpartition(".")
    stem = stem.rsplit(".", 1)[-1].replace("_layernorm", "_norm")
    return stem if part == "weight" else f"{stem} {part}"


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" role="img" aria-label="{escape(title)}">' + "".join(parts) + "</svg>"
    )


def _text(x: float, y: float, words: str, style: str, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{style}" {place}>{escape(words)}</text>'


def _bar(x: float, y: float, width: float, height: float, style: str, words: str) -> str:
    box = f'x="{x}" y="{y}" width="{max(0.5, width):.1f}" height="{height}" rx="2"'
    return f'<rect class="{style}" {box}><title>{escape(words)}</title></rect>'


def _line(first: float, last: float, y: float) -> str:
    """Draw an interval: a line with an upright stroke at each end."""
    ends = "".join(f"M{x:.1f} {y - 4:.1f}V{y + 4:.1f}" for x in (first, last))
    return f'<path class="ek-line" fill="none" d="M{first:.1f} {y:.1f}H{last:.1f}{ends}"/>'
