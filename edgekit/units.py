"""Sizes as people write them: `95MB`, `1.5GB`, or plain bytes. Decimal units, as disks are sold."""

from __future__ import annotations

import re

from edgekit.errors import UsageError

_FACTORS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Return the number of bytes that `text` names. Raises UsageError."""
    match = _SIZE.fullmatch(text)
    unit = match.group(2).upper() if match else ""
    if unit and not unit.endswith("B"):
        unit += "B"
    if match is None or unit not in _FACTORS:
        raise UsageError(
            f"'{text}' is not a size", hint="write bytes or a unit, such as 95MB or 1.5GB"
        )
    return int(float(match.group(1)) * _FACTORS[unit])


def format_bytes(count: float) -> str:
    """Return `count` bytes with three significant digits: `144.8 MB`, `1.51 GB`, `512 B`."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= factor:
            digits = 2 if count < 10 * factor else 1
            return f"{count / factor:.{digits}f} {unit}"
    return f"{int(count)} B"
