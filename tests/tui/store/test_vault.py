"""The vault's parts against their definitions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.errors import PrivacyError
from tui.conversation import Question
from tui.store import vault
from tui.store.chats import ChatStore
from tui.store.sealing import DamagedError, PlainSealer, Sealer

CHEAP = vault.Cost(memory_kib=8, passes=1, lanes=1)


@pytest.mark.parametrize("kind", ["plain", "encrypted"])
def test_a_sealed_record_opens_in_its_place_alone_and_whole(kind: str) -> None:
    sealer: Sealer = PlainSealer(b"x" * 16) if kind == "plain" else vault.VaultSealer(b"k" * 32)
    for length in (0, 1, 300, 5000):
        plain = random.Random(length).randbytes(length)
        sealed = sealer.seal(b"here", plain)
        assert sealer.open(b"here", sealed) == plain
        with pytest.raises(DamagedError):
            sealer.open(b"there", sealed)
        for bit in range(0, len(sealed) * 8, 7):
            flipped = bytearray(sealed)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(DamagedError):
                sealer.open(b"here", bytes(flipped))
        for cut in {0, 1, 11, 15, len(sealed) // 2, len(sealed) - 1}:
            with pytest.raises(DamagedError):
                sealer.open(b"here", sealed[:cut])


def test_the_wrapped_key_is_argon2id_and_chacha20_as_their_authors_define_them() -> None:
    """Unwrap a header with the package's primitives, by the layout that the docstring gives."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    header, sealer = vault.new_sealed_header("pa\u0308ss", vault.Cost(64, 2, 2))
    salt, wrapped = header[32:48], header[60:120]
    kdf = Argon2id(salt=salt, length=32, iterations=2, lanes=2, memory_cost=64)
    key = kdf.derive("p\u00e4ss".encode())
    data_key = ChaCha20Poly1305(key).decrypt(wrapped[:12], wrapped[12:], header[:60])
    sealed = sealer.seal(b"place", b"words")
    assert vault.VaultSealer(data_key).open(b"place", sealed) == b"words"
    assert vault.unlock(header, "p\u00e4ss").open(b"place", sealed) == b"words"


def test_two_headers_and_two_seals_share_nothing() -> None:
    one, sealer = vault.new_sealed_header("same", CHEAP)
    two, _ = vault.new_sealed_header("same", CHEAP)
    assert one[16:48] != two[16:48]
    assert one[60:] != two[60:]
    assert sealer.seal(b"", b"same")[12:] != sealer.seal(b"", b"same")[12:]


def test_padding_costs_at_most_an_eighth_and_leaves_few_sizes() -> None:
    """Padmé as the paper writes it, with logarithms, where ours uses bit lengths."""
    for length in [*range(257, 5000), 10**6, 10**6 + 1, 2**20 - 1, 2**20]:
        exponent = math.floor(math.log2(length))
        free = exponent - math.floor(math.log2(exponent)) - 1
        expected = math.ceil(length / 2**free) * 2**free
        assert vault.padme(length) == expected
        assert expected <= length * 1.12
    sizes = {len(vault.VaultSealer(b"k" * 32).seal(b"", b"x" * n)) for n in range(1, 4000)}
    assert len(sizes) <= 4 * 16 + 1  # 16 for each of the doublings from 256


def test_a_passphrase_that_is_no_text_is_one_sentence() -> None:
    with pytest.raises(PrivacyError, match="no text"):
        vault.new_sealed_header("half \ud800", CHEAP)
    with pytest.raises(PrivacyError, match="empty"):
        vault.new_sealed_header("", CHEAP)


def test_the_file_shows_no_numbers_of_chats_or_times(
    open_store: Callable[..., ChatStore], path: Path
) -> None:
    """Row numbers and box sizes are all there is besides the sealed bytes."""
    import sqlite3

    store = open_store("a passphrase")
    for number in range(20):
        store.save_entry(f"c{number % 2}", Question(f"q{number}", None, "short", at=number))
    store.close()
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT id, length(box) FROM records").fetchall()
    assert len(rows) == 1 + 2 + 20
    sizes = [size for row, size in rows if row]
    assert sizes.count(vault.padme(256) + 12 + 16) == 20
    assert len(set(sizes)) == 2  # both chats list ten entries
