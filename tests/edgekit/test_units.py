"""Sizes as people write and read them."""

from __future__ import annotations

import pytest

from edgekit.errors import UsageError
from edgekit.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("512", 512), ("95MB", 95_000_000), ("1.5 gb", 1_500_000_000), ("2k", 2_000)],
)
def test_sizes_are_understood(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-1", "1.5XB", "1 000", "1e9", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (144_800_000, "144.8 MB"), (1_510_000_000, "1.51 GB")],
)
def test_sizes_are_written(count: int, text: str) -> None:
    assert format_bytes(count) == text
