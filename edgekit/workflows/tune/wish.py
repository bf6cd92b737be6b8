"""What a user asks of a tuned model, and what was found."""

from __future__ import annotations

from dataclasses import dataclass

from converters.recipe import Recipe
from devices.profile import DeviceProfile
from edgekit.artifact import Format
from edgekit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Budget:
    """What the artifact must hold. None asks for nothing.

    `max_bytes` is for all files of the artifact; `max_kld` in nats a position, as measured in
    torch; `profile` must have the memory, and reach `min_tokens_per_s` by its estimate.
    """

    format: Format = "gguf"
    max_bytes: int | None = None
    max_kld: float | None = None
    profile: DeviceProfile | None = None
    min_tokens_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.min_tokens_per_s is not None and self.profile is None:
            raise UsageError("a speed is a device's", "name one: --device, for example this")
        if self.max_bytes is None and self.max_kld is None and self.profile is None:
            raise UsageError(
                "there is no budget to tune for",
                "give --max-size 95MB, --max-kld 0.05 or --device NAME",
            )


@dataclass(frozen=True, slots=True)
class Point:
    """One recipe that was looked at.

    `bytes` of the whole artifact; `predicted` divergence by the table of choices; `measured` in
    torch, None where it was not; `tokens_per_s` expected on the device, None without one.
    """

    recipe: Recipe
    bytes: int
    predicted: float
    measured: float | None
    tokens_per_s: float | None
    is_preset: bool


@dataclass(frozen=True, slots=True)
class Tuned:
    """The answer: `chosen` and why, all that was measured, and the predicted `front`."""

    chosen: Point
    why: str
    points: tuple[Point, ...]
    front: tuple[Point, ...]
