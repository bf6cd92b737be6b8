"""Is this machine the device? Told by its model's name, never by likeness.

Two machines with the same cores and memory can differ by a factor of three, and a measurement
under a wrong name is worse than a prediction.
"""

from __future__ import annotations

import re
from pathlib import Path

from devices.detect import Machine
from devices.profile import THIS, DeviceProfile

# What boards call themselves, see the device tree specification, "model".
_BOARD = Path("/proc/device-tree/model")
# A box says 8 GB where the system reports 7.8 or, with a graphics share, 6.7.
LEAST_MEMORY, MOST_MEMORY = 0.8, 1.05


def is_here(profile: DeviceProfile, machine: Machine, board: str | None = None) -> bool:
    """Tell whether `machine`, this one, is a `profile`.

    Every word of the profile's name but its memory ("raspberry-pi-5-8gb") has to be a word of
    what the board or the processor calls itself. A profile of a kind of machine ("a laptop")
    is therefore never this one: use `this`.
    """
    if profile.name == THIS:
        return True
    said = _words(f"{_board() if board is None else board} {machine.processor}")
    name = {word for word in _words(profile.name) if not re.fullmatch(r"\d+gb", word)}
    memory = machine.memory_bytes / profile.memory_bytes
    return (
        machine.architecture == profile.machine
        and name <= said
        and LEAST_MEMORY <= memory <= MOST_MEMORY
    )


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def _board() -> str:
    try:
        return _BOARD.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
