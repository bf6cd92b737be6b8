"""Artifacts: a finished folder opens, a tampered one is refused with a sentence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.artifact import MANIFEST_NAME, Artifact, Certificate, Manifest, Source, finish
from edgekit.errors import InputError

CERTIFICATE = Certificate(
    checkpoint_digest="d", text_sha256="t", positions=10, token_ids_equal=True, kld_mean=0.1,
    kld_standard_error=0.01, kld_p99=0.5, top1_agreement=0.9, perplexity=20.0,
    perplexity_source=19.0, noise_floor=1e-9, by_kind={"prose": {"kld_mean": 0.1}},
)  # fmt: skip


def manifest() -> Manifest:
    """Return a manifest whose `files` are still empty."""
    return Manifest(
        name="tiny-q8_0", format="gguf", scheme="q8_0", entry="model.gguf", architecture="llama",
        parameters=100, vocabulary_size=640, context_length=512, kv_bytes_per_token=1024,
        bits_per_weight=8.5, bos_token_id=None, add_bos_token=False, stop_token_ids=[2],
        chat_template=None, files=[],
        source=Source("tiny", "digest", "Apache-2.0", {"scheme": "q8_0"}, {"edgekit": "0.1.0"}),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.gguf").write_bytes(b"weights")
    finish(tmp_path, manifest())
    return tmp_path


def edit(folder: Path, **values: Any) -> None:
    """Replace keys of the manifest on disk."""
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_was_written_is_read_back(folder: Path) -> None:
    artifact = Artifact.open(folder)
    assert artifact.entry == folder / "model.gguf"
    assert artifact.manifest.total_bytes == len(b"weights")
    assert replace(artifact.manifest, files=[]) == manifest()
    artifact.verify()


def test_a_certificate_survives_the_round_trip(folder: Path) -> None:
    Artifact.open(folder).certified(CERTIFICATE)
    assert Artifact.open(folder).manifest.certificate == CERTIFICATE


def test_a_flipped_bit_is_found_by_verify(folder: Path) -> None:
    (folder / "model.gguf").write_bytes(b"weightz")
    artifact = Artifact.open(folder)
    with pytest.raises(InputError, match=r"model\.gguf does not match its SHA-256"):
        artifact.verify()


def test_a_truncated_file_is_found_on_opening(folder: Path) -> None:
    (folder / "model.gguf").write_bytes(b"weig")
    with pytest.raises(InputError, match="has 4 bytes, not 7"):
        Artifact.open(folder)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "C:\\x", ""])
def test_a_path_that_points_outside_is_refused(folder: Path, path: str) -> None:
    edit(folder, files=[{"path": path, "bytes": 7, "sha256": "0"}])
    with pytest.raises(InputError, match="points outside"):
        Artifact.open(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 99), ("schema", "1"), ("format", "pickle"), ("entry", "other.gguf"),
        ("parameters", -1), ("parameters", True), ("context_length", 10**30),
        ("stop_token_ids", [640]), ("stop_token_ids", ["2"]), ("chat_template", 7),
        ("files", None), ("files", [7]), ("source", []), ("substitutions", [{}]),
        ("certificate", {}), ("certificate", 3), ("bits_per_weight", "8"), ("name", None),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(folder: Path, key: str, value: Any) -> None:
    edit(folder, **{key: value})
    with pytest.raises(InputError, match=MANIFEST_NAME):
        Artifact.open(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\udcff"])
def test_a_manifest_that_is_not_json_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST_NAME).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError):
        Artifact.open(folder)


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not an artifact"):
        Artifact.open(tmp_path)
