"""The bill of materials: valid by the official schema, complete, and true."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from edgekit.artifact import Artifact
from tests.edgekit.bundle.workshop import Workshop


def test_it_is_valid_by_the_official_schema(workshop: Workshop, gguf: Path, onnx: Path) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    built = workshop.build(gguf, onnx)
    text = (built.path / "sbom.cdx.json").read_text()
    validator = validation.JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"library"', '"bookshop"')) is not None


def test_every_wheel_and_model_is_in_it_with_its_hash(workshop: Workshop, gguf: Path) -> None:
    built = workshop.build(gguf)
    bill = json.loads((built.path / "sbom.cdx.json").read_bytes())
    components = {component["name"]: component for component in bill["components"]}
    assert set(components) == {wheel.name for wheel in built.wheels} | {"gguf"}
    for wheel in built.wheels:
        component = components[wheel.name]
        data = (built.path / "wheels" / wheel.path.name).read_bytes()
        assert component["hashes"][0]["content"] == hashlib.sha256(data).hexdigest()
        assert component["purl"] == f"pkg:pypi/{wheel.name}@{wheel.version}"
    assert components["click"]["licenses"] == [{"expression": "MIT"}]
    compiled = components["llama-cpp-python"]["components"]
    assert {part["name"] for part in compiled} == {"llama.cpp", "ggml"}


def test_a_model_says_what_it_was_made_from(workshop: Workshop, gguf: Path) -> None:
    bill = json.loads((workshop.build(gguf).path / "sbom.cdx.json").read_bytes())
    model = next(c for c in bill["components"] if c["type"] == "machine-learning-model")
    source = Artifact.open(gguf).manifest.source
    weights = hashlib.sha256((gguf / "model.gguf").read_bytes()).hexdigest()
    assert model["hashes"] == [{"alg": "SHA-256", "content": weights}]
    ancestor = model["pedigree"]["ancestors"][0]
    assert ancestor["name"] == source.checkpoint
    assert ancestor["hashes"][0]["content"] == source.checkpoint_digest


def test_dependencies_name_only_what_is_there(workshop: Workshop, onnx: Path) -> None:
    bill = json.loads((workshop.build(onnx).path / "sbom.cdx.json").read_bytes())
    references = {component["bom-ref"] for component in bill["components"]}
    references.add(bill["metadata"]["component"]["bom-ref"])
    edges = {edge["ref"]: edge["dependsOn"] for edge in bill["dependencies"]}
    assert set(edges) == references
    assert all(set(needs) <= references for needs in edges.values())
    assert edges["pkg:pypi/jinja2@3.1.6"] == ["pkg:pypi/markupsafe@3.0.4"]
