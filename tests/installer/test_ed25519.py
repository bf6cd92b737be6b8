"""Our Ed25519 against RFC 8032's vectors and the `cryptography` package (OpenSSL)."""

from __future__ import annotations

import random
import time

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from edgekit.installer.ed25519 import verify

ORDER = 2**252 + 27742317777372353535851937790883648493
PRIME = 2**255 - 19
# RFC 8032, section 7.1: tests 1, 2, 3 and SHA(abc): public key, message, signature.
RFC_VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd"
        "454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e030"
        "3dca179c138ac17ad9bef1177331a704",
    ),
]
# The encodings of the eight points of small order, and the ones of them that are not canonical.
SMALL_ORDER = [
    (1).to_bytes(32, "little"),
    (PRIME - 1).to_bytes(32, "little"),
    bytes(32),
    bytes(31) + b"\x80",
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
    PRIME.to_bytes(32, "little"),
    (PRIME + 1).to_bytes(32, "little"),
    (1 | 1 << 255).to_bytes(32, "little"),
]


def openssl(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize("vector", RFC_VECTORS)
def test_the_vectors_of_the_rfc(vector: tuple[str, str, str]) -> None:
    key, message, signature = map(bytes.fromhex, vector)
    assert verify(key, message, signature)
    assert openssl(key, message, signature)
    assert not verify(key, message + b"x", signature)


def test_random_signatures_and_random_damage_are_judged_as_openssl_does() -> None:
    chance = random.Random(1)
    for _ in range(60):
        private = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        key, message = (
            private.public_key().public_bytes_raw(),
            chance.randbytes(chance.randrange(80)),
        )
        signature = private.sign(message)
        assert verify(key, message, signature)
        parts = [bytearray(key), bytearray(message + b"\x00"), bytearray(signature)]
        damaged = parts[chance.randrange(3)]
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        changed = (bytes(parts[0]), bytes(parts[1]), bytes(parts[2]))
        assert verify(*changed) == openssl(*changed) == False  # noqa: E712 - three ways compared


def test_a_scalar_that_is_not_reduced_is_refused() -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key, signature = private.public_key().public_bytes_raw(), private.sign(b"m")
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    assert not verify(key, b"m", signature[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_key_of_small_order_signs_nothing(point: bytes) -> None:
    """With such a key S = 0 and R = the neutral point is right for one message in eight or more.

    OpenSSL accepts some of these, so that it is no judge here.
    """
    for message in range(16):
        for commitment in SMALL_ORDER[:4]:
            assert not verify(point, bytes([message]), commitment + bytes(32))


def test_lengths_are_checked() -> None:
    key, _, signature = (bytes.fromhex(part) for part in RFC_VECTORS[0])
    assert not verify(key[:-1], b"", signature)
    assert not verify(key, b"", signature + b"\x00")
    assert not verify(b"", b"", b"")


def test_a_check_takes_a_moment() -> None:
    """A Pi Zero 2 W is far slower than a PC in plain Python, and has a second to spend."""
    key, message, signature = map(bytes.fromhex, RFC_VECTORS[2])
    began = time.process_time()
    for _ in range(5):
        assert verify(key, message, signature)
    assert (time.process_time() - began) / 5 < 0.05
