"""The report of a grid: a JSON document, and the same as Markdown for people.

Predicted figures, figures measured here and figures measured under limits stand in tables of
their own, never in one column: the last are this machine's, slowed down, and no device's latency.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from devices.profile import DeviceProfile
from edgekit.files import write_atomically
from edgekit.units import format_bytes
from edgekit.workflows.latency.grid import Cell, Grid
from edgekit.workflows.latency.judge import MEASURED_HERE, Figure, Ratio, Verdict
from edgekit.workflows.latency.measure import Measured

SIGNS = {
    Verdict.HOLDS: "✓",
    Verdict.UNSURE: "≈",
    Verdict.MISSED: "✗",
    Verdict.IMPOSSIBLE: "–",  # noqa: RUF001 - it is a dash that is wanted
}
MEANINGS = {
    Verdict.HOLDS: "the budget holds",
    Verdict.UNSURE: "within the uncertainty",
    Verdict.MISSED: "the budget is missed",
    Verdict.IMPOSSIBLE: "does not run there",
}


def write(grid: Grid, folder: Path) -> list[Path]:
    """Write `latency.md` and `latency.json` into `folder`, each whole or not at all."""
    paths = [folder / "latency.md", folder / "latency.json"]
    text = json.dumps(document(grid), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(paths[0], markdown(grid).encode())
    write_atomically(paths[1], f"{text}\n".encode())
    return paths


def document(grid: Grid) -> dict[str, Any]:
    """Return the report as JSON values."""
    return {
        "schema": 1,
        "machine": asdict(grid.machine),
        "workload": {
            "prompt_tokens": grid.workload.prompt_tokens,
            "answer_tokens": grid.workload.answer_tokens,
        },
        "artifacts": [
            {
                "name": artifact.manifest.name,
                "format": artifact.manifest.format,
                "scheme": artifact.manifest.scheme,
                "bytes": artifact.manifest.total_bytes,
                "measured_here": _measured(grid.free.get(artifact.path)),
                "ratios": _ratios(grid.ratios.get(artifact.path, ())),
            }
            for artifact in grid.artifacts
        ],
        "cells": [_cell(cell) for cell in grid.cells],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    profile = cell.profile
    return {
        "device": profile.name,
        "artifact": cell.artifact.manifest.name,
        "verdict": str(cell.verdict),
        "verdict_source": cell.source,
        "verdicts": {name: str(verdict) for name, verdict in cell.verdicts.items()},
        "why": cell.why,
        "budget": {
            "ttft_s": profile.budget_ttft_s,
            "decode_tokens_per_s": profile.budget_tokens_per_s,
            "peak_memory_bytes": profile.budget_peak_memory_bytes,
        },
        "predicted": {
            "ttft_s": _figure(cell.predicted.ttft_s),
            "decode_tokens_per_s": _figure(cell.predicted.decode_tokens_per_s),
            "peak_memory_bytes": _figure(cell.predicted.peak_memory_bytes),
        },
        "measured_here": None if cell.here is None else asdict(cell.here),
        "measured_under_limits": _measured(cell.limited),
        "ratios": _ratios(cell.ratios),
    }


def _figure(figure: Figure) -> dict[str, float]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}


def _measured(found: Measured | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)


def _ratios(ratios: Iterable[Ratio]) -> list[dict[str, Any]]:
    return [{**asdict(ratio), "holds": ratio.holds} for ratio in ratios]


def markdown(grid: Grid) -> str:
    """Return the report for people."""
    parts = [
        "# Latency per device",
        f"{grid.workload.prompt_tokens} tokens of prompt, {grid.workload.answer_tokens} of answer.",
        "![The grid of devices and schemes](latency.png)",
        "## Budgets",
        _budgets(grid),
        " · ".join(f"{SIGNS[verdict]} {meaning}" for verdict, meaning in MEANINGS.items())
        + ". **Bold**: measured here; all else is predicted.",
    ]
    for heading, words, table in (
        ("Predicted", "", _predicted(grid)),
        (MEASURED_HERE.capitalize(), "This machine is the device.", _here(grid)),
        (
            "Measured here, without limits, one thread",
            "What this machine does; the base of the ratios. CPU/token is processor time.",
            _free(grid),
        ),
        (
            "Measured under limits",
            "This machine under each device's limits: a rehearsal, not the device's latency.",
            _limited(grid),
        ),
    ):
        if table:
            parts += [f"## {heading}", words, table]
    failed = grid.failed_ratios
    parts += ["## Outside their bands", "\n".join(f"- {line}" for line in failed)] if failed else []
    return "\n\n".join(part for part in parts if part) + "\n"


def label(cell: Cell) -> str:
    """Return the sign of a cell for Markdown, in bold where it was measured."""
    sign = SIGNS[cell.verdict]
    return f"**{sign}**" if cell.source == MEASURED_HERE else sign


def budget(profile: DeviceProfile) -> str:
    """Return a profile's budget in a few words."""
    words = []
    if profile.budget_ttft_s:
        words.append(f"first token ≤ {profile.budget_ttft_s:g} s")
    if profile.budget_tokens_per_s:
        words.append(f"≥ {profile.budget_tokens_per_s:g} tokens/s")
    if profile.budget_peak_memory_bytes:
        words.append(f"≤ {format_bytes(profile.budget_peak_memory_bytes)}")
    return ", ".join(words) or "no budget"


def _budgets(grid: Grid) -> str:
    heads = [f"{a.manifest.format} {a.manifest.scheme}" for a in grid.artifacts]
    rows = [
        [p.title, budget(p), *(label(grid.cell(p, a)) for a in grid.artifacts)]
        for p in grid.profiles
    ]
    return _table(["device", "budget", *heads], rows)


def _predicted(grid: Grid) -> str:
    rows = [
        [*_names(cell), _range(cell.predicted.ttft_s, "s", 2),
         _range(cell.predicted.decode_tokens_per_s, "/s", 1),
         format_bytes(cell.predicted.peak_memory_bytes.value)]
        for cell in grid.cells
    ]  # fmt: skip
    return _table(["device", "artifact", "TTFT", "decode", "peak memory"], rows)


def _here(grid: Grid) -> str:
    rows = [
        [*_names(cell), f"{cell.here.ttft_s:.2f} s", f"{cell.here.decode_tokens_per_s:.1f}/s",
         format_bytes(cell.here.peak_rss_bytes), f"{cell.here.threads}"]
        for cell in grid.cells if cell.here is not None
    ]  # fmt: skip
    return _table(["device", "artifact", "TTFT", "decode", "peak memory", "threads"], rows)


def _free(grid: Grid) -> str:
    rows = []
    for artifact in grid.artifacts:
        if (found := grid.free.get(artifact.path)) is None:
            continue
        name = f"{artifact.manifest.format} {artifact.manifest.scheme}"
        ratios = "; ".join(f"{r.name} {r.value:.2f}" for r in grid.ratios[artifact.path])
        rows.append([name, f"{found.decode_cpu_s_per_token * 1e3:.1f} ms",
                     f"{found.bandwidth_bytes_per_cpu_s / 1e9:.1f} GB/s",
                     format_bytes(found.touched_bytes_per_token),
                     format_bytes(found.peak_rss_bytes), ratios])  # fmt: skip
    heads = ["artifact", "CPU/token", "read bandwidth", "touched/token", "peak memory", "ratios"]
    return _table(heads, rows)


def _limited(grid: Grid) -> str:
    rows = []
    for cell in grid.cells:
        if (found := cell.limited) is not None:
            ratios = "; ".join(f"{r.name} {r.value:.2f}" for r in cell.ratios)
            rows.append([*_names(cell), _limits(found),
                         f"{found.decode_cpu_s_per_token * 1e3:.1f} ms",
                         f"{found.longest_gap_s * 1e3:.0f} ms",
                         format_bytes(found.peak_rss_bytes), ratios])  # fmt: skip
        elif cell.here is None and cell.why:
            rows.append([*_names(cell), cell.why, "", "", "", ""])
    heads = ["device", "artifact", "in force", "CPU/token", "longest gap", "peak memory", "ratios"]
    return _table(heads, rows)


def _limits(found: Measured) -> str:
    said = {
        "memory": f"memory {format_bytes(found.limits.memory_bytes)}",
        "processors": f"{found.limits.processors} processors",
        "share": f"{found.limits.share:.0%} of one",
    }
    here = [said[name] for name in found.enforced]
    missing = [f"NOT {said[name]}" for name in found.not_enforced]
    return ", ".join(here + missing)


def _names(cell: Cell) -> list[str]:
    return [cell.profile.name, f"{cell.artifact.manifest.format} {cell.artifact.manifest.scheme}"]


def _range(figure: Figure, unit: str, digits: int) -> str:
    return f"{figure.value:.{digits}f} {unit} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, or nothing where there are no rows."""
    if not rows:
        return ""
    safe = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    lines = [heads, ["---"] * len(heads), *safe]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
