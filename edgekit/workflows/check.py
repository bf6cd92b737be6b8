"""check: run an artifact in its own engine and certify how far it is from its checkpoint.

Every stage between the two is judged by itself, so that a broken conversion is not only noticed
but placed: `edgekit.workflows.certify` has one module for each kind of question.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from converters.checkpoint import Checkpoint
from edgekit.artifact import Artifact
from edgekit.certificate import Certificate, StageReport
from edgekit.errors import EdgekitError, GateError, InputError
from edgekit.progress import Progress
from edgekit.workflows.certify import source
from edgekit.workflows.certify.passages import built_in_passages as built_in_passages
from edgekit.workflows.certify.session import Session, Wanted
from edgekit.workflows.certify.weights import TensorReport


@dataclass(frozen=True, slots=True)
class Limits:
    """What an artifact must reach; None asks for nothing."""

    max_kld: float | None = None
    min_top1: float | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """An artifact that was checked.

    Its manifest has the certificate, unless nothing could be measured: then `certificate` is None
    and one of the `stages` says why. `tensors` is empty where the weights could not be read.
    """

    artifact: Artifact
    stages: list[StageReport]
    certificate: Certificate | None
    tensors: list[TensorReport]


def certify(artifact: Artifact, checkpoint: Path, wanted: Wanted, progress: Progress) -> Checked:
    """Judge every stage from the folder `checkpoint` to the answers of `artifact`'s engine.

    What can be measured is stored in the manifest on disk, faults too. Raises InputError if the
    artifact was made from another checkpoint, and for a text of the user's that is unreadable.
    """
    try:
        opened = Checkpoint.open(checkpoint)
    except InputError as error:
        broken = StageReport("source", False, error.message)
        return Checked(artifact, [broken, *_not_reached(artifact)], None, [])
    if artifact.manifest.source.checkpoint_digest != opened.digest():
        return _another(artifact, opened, progress)
    session = Session(artifact, opened, wanted, progress)
    session.run()
    found = session.certificate
    if found is not None:
        found = replace(found, stages=session.stages)
        artifact = artifact.certified(found)
    return Checked(artifact, session.stages, found, session.tensors)


def _another(artifact: Artifact, checkpoint: Checkpoint, progress: Progress) -> Checked:
    """A checkpoint that is not the one: broken since, or just another, which is an InputError."""
    if wrong := source.complaints(checkpoint, progress):
        broken = StageReport("source", False, "; ".join(wrong))
        return Checked(artifact, [broken, *_not_reached(artifact)], None, [])
    raise InputError(
        f"{artifact.manifest.name} was not made from {checkpoint.path}",
        hint="name the checkpoint it was converted from",
    )


def _not_reached(artifact: Artifact) -> list[StageReport]:
    words = "not looked at: the checkpoint is broken"
    return [StageReport(stage, None, words) for stage in ("exported", "quantised", "loaded")]


def check(
    artifact: Artifact,
    checkpoint: Checkpoint,
    text: Path | None,
    progress: Progress,
) -> Artifact:
    """Measure `artifact` against `checkpoint`, store the certificate, return the artifact with it.

    `text` replaces the built-in texts. A fault that leaves something to measure is only recorded:
    see `enforce_stages`. Raises InputError if the artifact was made from another checkpoint,
    GateError, naming the stage, if nothing could be measured.
    """
    checked = certify(artifact, checkpoint.path, Wanted(text=text), progress)
    if checked.certificate is None:
        enforce_stages(checked.stages)
        raise EdgekitError(f"{artifact.manifest.name} could not be measured")
    return checked.artifact


def enforce_stages(stages: list[StageReport]) -> None:
    """Raise GateError that names the first stage at which something is wrong, if there is one."""
    for report in stages:
        if report.ok is False:
            raise GateError(
                f"the conversion broke at the stage '{report.stage}': {report.what}",
                hint=HINTS[report.stage],
            )


HINTS = {
    "source": "mend the checkpoint, or fetch it again, then convert it again",
    "pruned": "prune it again from its parent",
    "healed": "heal it again from its parent",
    "exported": "convert it again; if it stays, the exporter has a bug",
    "quantised": "convert it again; if it stays, the quantiser has a bug",
    "loaded": "the file is right and its engine computes something else: try another version of it",
}


def enforce(certificate: Certificate, limits: Limits) -> None:
    """Raise GateError if the certificate misses a limit; the message has both numbers."""
    hint = "choose a recipe with more bits, or accept a wider limit"
    if limits.max_kld is not None and certificate.kld_mean > limits.max_kld:
        found, wanted = certificate.kld_mean, limits.max_kld
        raise GateError(f"mean KL divergence is {found:.5f}, at most {wanted} was asked", hint)
    if limits.min_top1 is not None and certificate.top1_agreement < limits.min_top1:
        found, wanted = certificate.top1_agreement, limits.min_top1
        raise GateError(f"top-1 agreement is {found:.4f}, at least {wanted} was asked", hint)
