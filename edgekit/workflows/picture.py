"""picture: the demo's table as a PNG: how much was lost for how many bytes, and how fast it is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.extras import need
from edgekit.files import write_atomically

if TYPE_CHECKING:
    from edgekit.workflows.demo import Row

# Okabe and Ito's colours: told apart by people with any common colour vision.
COLOURS = {"gguf": "#0072B2", "onnx": "#D55E00", "torch": "#009E73"}
MARKERS = {"gguf": "o", "onnx": "s", "torch": "^"}
# To the two sides, in points: formats of one scheme often lie on top of each other.
LABEL_OFFSETS = {"gguf": (-8, -3), "onnx": (8, -3), "torch": (8, -3)}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the picture of `rows` to the PNG file `path`.

    Left: size against KL divergence (log scale), one point an artifact. Right: decode speed with
    its range over the rounds. Raises MissingExtraError without matplotlib.
    """
    need("matplotlib", "convert").use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    _size_against_divergence(left, rows)
    _decode_speed(right, rows)
    figure.suptitle(f"{rows[0].artifact.manifest.source.checkpoint}: what each format costs")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())


def _size_against_divergence(axes: Any, rows: Sequence[Row]) -> None:
    for row in rows:
        manifest = row.artifact.manifest
        megabytes = manifest.total_bytes / 1e6
        axes.scatter(
            megabytes,
            row.certificate.kld_mean,
            s=70,
            color=COLOURS[manifest.format],
            marker=MARKERS[manifest.format],
            zorder=3,
        )
        axes.annotate(
            f"{manifest.format} {manifest.scheme}",
            (megabytes, row.certificate.kld_mean),
            textcoords="offset points",
            xytext=LABEL_OFFSETS[manifest.format],
            ha="right" if manifest.format == "gguf" else "left",
            fontsize=9,
        )
    axes.set(yscale="log", xlabel="size, MB", ylabel="mean KL divergence, nats")
    axes.set_title("closer to the original is lower, smaller is further left", fontsize=10)
    axes.margins(x=0.35, y=0.15)
    axes.grid(alpha=0.3, zorder=0)


def _decode_speed(axes: Any, rows: Sequence[Row]) -> None:
    names = [f"{row.artifact.manifest.format} {row.artifact.manifest.scheme}" for row in rows]
    speeds = [row.bench.decode_tokens_per_s for row in rows]
    low = [s - row.bench.decode_tokens_per_s_range[0] for s, row in zip(speeds, rows, strict=True)]
    high = [row.bench.decode_tokens_per_s_range[1] - s for s, row in zip(speeds, rows, strict=True)]
    colours = [COLOURS[row.artifact.manifest.format] for row in rows]
    bars = axes.barh(names, speeds, xerr=(low, high), color=colours, capsize=3, zorder=3)
    axes.bar_label(bars, fmt="%.0f", label_type="center", color="white", fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel="decode, tokens/s (lines: slowest and fastest round)")
    axes.set_title(f"speed on {rows[0].bench.threads} threads of this machine", fontsize=10)
    axes.grid(axis="x", alpha=0.3, zorder=0)
