"""Whether artifacts fit a device's memory, and how much the largest of them has to find there."""

from __future__ import annotations

from collections.abc import Sequence

from devices.estimate import context_that_fits, estimate
from devices.model_facts import ModelFacts
from devices.profile import DeviceProfile
from edgekit.artifact import Artifact
from edgekit.errors import GateError
from edgekit.units import format_bytes
from runtimes.load import DEFAULT_CONTEXT_LENGTH


def needed_memory(
    artifacts: Sequence[Artifact], profile: DeviceProfile, context_length: int | None
) -> int:
    """Return the bytes that the largest artifact needs, 0 for no artifacts. Raises GateError.

    `context_length` is in tokens, by default what an engine opens by itself on the device. Memory
    that the system can take back without harm, such as that of a mapped file, is left out.
    """
    return max((_needed(artifact, profile, context_length) for artifact in artifacts), default=0)


def _needed(artifact: Artifact, profile: DeviceProfile, asked: int | None) -> int:
    model = ModelFacts.of(artifact)
    most = min(asked or DEFAULT_CONTEXT_LENGTH, artifact.manifest.context_length)
    usable = profile.usable_memory_bytes
    context = most if asked else context_that_fits(model, most, usable)
    planned = estimate(model, profile, context_length=context)
    needed = planned.needed_memory_bytes
    if needed > usable:
        raise GateError(
            f"{artifact.manifest.name} needs {format_bytes(needed)} of memory with a context of "
            f"{context} tokens, {profile.name} has {format_bytes(usable)}",
            hint="edgekit plan says which scheme fits; --context plans for a shorter context",
        )
    return needed
