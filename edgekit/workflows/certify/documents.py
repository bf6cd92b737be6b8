"""Writes the report, its pictures and the model card beside an artifact.

They describe the artifact and are no part of it: the manifest does not list them, so that a card
may be edited and a report removed without the artifact counting as damaged. Each appears whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.files import write_atomically
from edgekit.workflows.certify import card, pictures, report

if TYPE_CHECKING:
    from edgekit.workflows.check import Checked

CARD = "README.md"


def write(checked: Checked) -> list[Path]:
    """Write them and return their paths: none where nothing was measured.

    A model card that does not say that edgekit wrote it is somebody's own and stays.
    """
    certificate, manifest = checked.certificate, checked.artifact.manifest
    if certificate is None:
        return []
    drawn = {
        "report-stages.svg": (pictures.stages(certificate.stages), "Divergence of each stage"),
        "report-kinds.svg": (pictures.kinds(certificate.by_kind), "Divergence per kind of text"),
    }
    if checked.tensors:
        drawn["report-tensors.svg"] = (pictures.tensors(checked.tensors), "Error of each tensor")
    listed = [(name, words) for name, (_, words) in drawn.items()]
    files = {name: pictures.standing_alone(svg) for name, (svg, _) in drawn.items()}
    files["report.md"] = report.markdown(manifest, certificate, listed)
    files["report.html"] = report.html(manifest, certificate, checked.tensors)
    folder = checked.artifact.path
    if _ours(folder / CARD):
        files[CARD] = card.model_card(manifest, certificate)
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in ("report.html", "report.md", CARD) if name in files]


def _ours(path: Path) -> bool:
    """Return whether `path` may be written: it is not there, or it was written by this module."""
    try:
        return card.MARK in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return not path.exists()
