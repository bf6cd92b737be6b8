"""The licence texts of all that a bundle carries, one folder for each part."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from edgekit.artifact import Artifact
from edgekit.workflows.bundle.wheel_facts import WheelFacts, licence_texts


def write_licences(
    folder: Path, wheels: Iterable[WheelFacts], artifacts: Iterable[tuple[str, Artifact]]
) -> None:
    """Write `folder/NAME-VERSION/...` for each wheel and `folder/NAME/...` for each model.

    `artifacts` are pairs of the name in the bundle and the artifact. Raises InputError.
    """
    for wheel in wheels:
        _write(folder / wheel.label, licence_texts(wheel.path) or _stated(wheel))
    for name, artifact in artifacts:
        _write(folder / f"model-{name}", _model_texts(artifact))


def _write(folder: Path, texts: list[tuple[str, bytes]]) -> None:
    folder.mkdir(parents=True)
    for name, text in texts:
        (folder / name).write_bytes(text)


def _stated(wheel: WheelFacts) -> list[tuple[str, bytes]]:
    stated = wheel.licence or "none"
    said = f"The wheel carries no licence text. Its metadata states the licence: {stated}.\n"
    return [("NONE.txt", said.encode()), *_apache("Apache" in stated)]


def _model_texts(artifact: Artifact) -> list[tuple[str, bytes]]:
    source = artifact.manifest.source
    known = source.licence or "not known: ask whoever made the checkpoint"
    said = f"The model was made from {source.checkpoint}. Its licence: {known}.\n"
    return [("LICENCE.txt", said.encode()), *_apache(known.lower() == "apache-2.0")]


def _apache(wanted: bool) -> list[tuple[str, bytes]]:
    """Return edgekit's own licence, the Apache License 2.0, which many models share."""
    for file in metadata.files("edgekit") or ():
        if wanted and file.parent.name == "licenses" and file.name == "LICENSE":
            return [("Apache-2.0.txt", file.read_binary())]
    return []
