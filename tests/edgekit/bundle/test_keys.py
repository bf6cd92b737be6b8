"""Keys: made once, readable by the owner alone, and signatures that others can verify."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from edgekit import store
from edgekit.errors import InputError
from edgekit.workflows.bundle.keys import default_key, fingerprint, make_key, open_key, signing_key
from tests.edgekit.bundle.workshop import Workshop


def pem(private: object, passphrase: bytes | None = None) -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    return private.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def test_a_key_is_for_its_owner_alone_and_opens_again(tmp_path: Path) -> None:
    made = make_key(tmp_path / "deep" / "key.pem")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert made.path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    opened = open_key(made.path)
    assert opened.public == made.public
    assert not opened.made
    assert fingerprint(made.public) == hashlib.sha256(made.public).hexdigest()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    made = make_key(tmp_path / "key.pem")
    before = made.path.read_bytes()
    with pytest.raises(InputError, match="never overwritten"):
        make_key(made.path)
    assert made.path.read_bytes() == before


def test_the_first_bundle_makes_the_default_key_and_the_next_uses_it() -> None:
    first = signing_key(None)
    assert first.made
    assert first.path == default_key() == store.home() / "keys" / "bundle.pem"
    second = signing_key(None)
    assert not second.made
    assert second.public == first.public


def test_a_named_key_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        signing_key(tmp_path / "none.pem")
    assert not (tmp_path / "none.pem").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "cannot be read"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be read"),
        (pem(ed25519.Ed25519PrivateKey.generate(), b"secret"), "cannot be read"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "bundles need Ed25519"),
        (b"x" * 100_000, "too large"),
    ],
    ids=["empty", "cut", "encrypted", "elliptic", "long"],
)
def test_what_is_no_ed25519_key_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        open_key(path)


def test_another_library_verifies_the_signature(workshop: Workshop, onnx: Path) -> None:
    built = workshop.build(onnx)
    signature = json.loads((built.path / "bundle.sig").read_bytes())
    assert signature["algorithm"] == "ed25519"
    public = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature["public_key"]))
    message = b"edgekit bundle 1\n" + (built.path / "bundle.json").read_bytes()
    public.verify(bytes.fromhex(signature["signature"]), message)
