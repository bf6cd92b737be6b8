"""What an artifact should reach on a device: the plan's estimate as figures with their doubt."""

from __future__ import annotations

from dataclasses import dataclass

from devices.estimate import estimate, memory_uncertainty
from devices.memory import pieces
from devices.model_facts import ModelFacts
from devices.profile import DeviceProfile
from edgekit.artifact import Artifact
from edgekit.workflows.latency.judge import PREDICTED, Figure


@dataclass(frozen=True, slots=True)
class Figures:
    """What is judged of one artifact on one device: bytes, seconds for the prompt, tokens/s.

    `needed_memory_bytes` leaves out of the peak what the system can take back without harm.
    """

    peak_memory_bytes: Figure
    needed_memory_bytes: Figure
    ttft_s: Figure
    decode_tokens_per_s: Figure


def predict(
    artifact: Artifact, profile: DeviceProfile, *, prompt_tokens: int, answer_tokens: int
) -> Figures:
    """Return the estimate for a prompt and an answer on `profile`. Raises InputError."""
    found = estimate(
        ModelFacts.of(artifact),
        profile,
        context_length=prompt_tokens + answer_tokens,
        prompt_tokens=prompt_tokens,
    )
    doubt = found.uncertainty
    return Figures(
        Figure(found.peak_memory_bytes, doubt["peak_memory_bytes"], PREDICTED),
        Figure(found.needed_memory_bytes, doubt["peak_memory_bytes"], PREDICTED),
        Figure(found.ttft_s, doubt["ttft_s"], PREDICTED),
        Figure(found.decode_tokens_per_s, doubt["decode_tokens_per_s"], PREDICTED),
    )


def planned_peak(
    artifact: Artifact, cpu_features: tuple[str, ...], *, prompt_tokens: int, answer_tokens: int
) -> Figure:
    """Return the peak memory that the plan expects on a processor with `cpu_features`."""
    facts = ModelFacts.of(artifact)
    found = pieces(facts, cpu_features, prompt_tokens + answer_tokens, prompt_tokens)
    return Figure(sum(found.values()), memory_uncertainty(facts), PREDICTED)
