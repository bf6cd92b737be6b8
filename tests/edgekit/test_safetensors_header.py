"""safetensors headers: a sound one is read, and every lie in one gets a sentence."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import InputError
from edgekit.safetensors_header import read_header

GOOD: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
}


def write_safetensors(path: Path, header: Any, data: bytes = bytes(32)) -> Path:
    """Write a safetensors file with any header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    infos = list(read_header(write_safetensors(tmp_path / "m", GOOD)))
    assert [(i.name, i.shape, i.bytes) for i in infos] == [("a", (2, 3), 24), ("b", (4,), 8)]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a", {"dtype": "F4"}), ("a", {"dtype": []}),
        ("a", {"shape": [2, 4]}), ("a", {"shape": [2**40, 2**40]}),
        ("a", {"shape": [-2, -3]}), ("a", {"shape": [2.0, 3]}), ("a", {"shape": [True, 6]}),
        ("a", {"shape": [1] * 9}), ("a", {"shape": 6}), ("a", {"data_offsets": [0]}),
        ("a", {"data_offsets": [-24, 0]}), ("b", {"data_offsets": [0, 8]}),
        ("b", {"data_offsets": [28, 36]}), ("b", {"data_offsets": [2**60, 2**60 + 8]}),
        ("b", {"shape": [3], "data_offsets": [24, 30]}),
    ],
)  # fmt: skip
def test_a_lie_in_the_header_is_refused(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    header = GOOD | {name: GOOD[name] | change}
    with pytest.raises(InputError, match="is damaged"):
        list(read_header(write_safetensors(tmp_path / "m", header)))


@pytest.mark.parametrize(
    "header", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":7}']
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(InputError, match="is damaged"):
        list(read_header(write_safetensors(tmp_path / "m", header)))


@pytest.mark.parametrize("claim", [2**63, 10**9, 1000])
def test_a_header_longer_than_the_file_is_refused(tmp_path: Path, claim: int) -> None:
    path = tmp_path / "m"
    path.write_bytes(struct.pack("<Q", claim) + b"{}")
    with pytest.raises(InputError, match="claims"):
        list(read_header(path))


def test_every_truncation_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = (tiny_checkpoint / "model.safetensors").read_bytes()
    path = tmp_path / "m"
    for length in [*range(0, 64, 7), 1000, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="is damaged"):
            list(read_header(path))
