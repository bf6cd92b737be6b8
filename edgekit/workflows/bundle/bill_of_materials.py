"""The software bill of materials of a bundle: CycloneDX 1.6, written by hand, deterministic.

No time and no random serial number: the same parts give the same bytes. Every wheel is a library
with its SHA-256, its licence and its dependencies; every model is a machine-learning model with
the digest of the checkpoint that it was made from. https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from edgekit.artifact import Artifact
from edgekit.files import sha256_file
from edgekit.workflows.bundle.wheel_facts import WheelFacts

Component = dict[str, Any]
# Model cards name licences in their own way; only these are certain to be SPDX identifiers.
_SPDX_IDS = ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0")
# What llama-cpp-python's wheel carries in compiled form; both are parts of one repository.
_COMPILED_IN = {"llama-cpp-python": (("llama.cpp", "MIT"), ("ggml", "MIT"))}


def bill_of_materials(
    name: str,
    version: str,
    wheels: Sequence[WheelFacts],
    artifacts: Sequence[tuple[str, Artifact]],
) -> bytes:
    """Return the bill of the bundle `name` as JSON.

    `artifacts` are pairs of the name in the bundle and the artifact.
    """
    here = {wheel.name: f"pkg:pypi/{wheel.name}@{wheel.version}" for wheel in wheels}
    models = [_model(label, artifact) for label, artifact in artifacts]
    root = f"bundle:{name}"
    edges = [_edge(here[w.name], [here[r] for r in w.requires if r in here]) for w in wheels]
    edges += [_edge(model["bom-ref"], []) for model in models]
    edges.append(_edge(root, [*here.values(), *(model["bom-ref"] for model in models)]))
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": name,
                "version": version,
            },
            "tools": {
                "components": [{"type": "application", "name": "edgekit", "version": version}]
            },
        },
        "components": [*(_library(wheel, here[wheel.name]) for wheel in wheels), *models],
        "dependencies": sorted(edges, key=lambda edge: str(edge["ref"])),
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def _edge(ref: str, needs: Sequence[str]) -> dict[str, Any]:
    return {"ref": ref, "dependsOn": sorted(needs)}


def _library(wheel: WheelFacts, purl: str) -> Component:
    component: Component = {
        "type": "library",
        "bom-ref": purl,
        "name": wheel.name,
        "version": wheel.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": sha256_file(wheel.path)}],
        "properties": [{"name": "edgekit:file", "value": f"wheels/{wheel.path.name}"}],
    }
    if wheel.licence:
        component["licenses"] = (
            [{"expression": wheel.licence}]
            if wheel.licence_is_spdx
            else [{"license": {"name": wheel.licence}}]
        )
    if compiled := _COMPILED_IN.get(wheel.name):
        component["components"] = [
            {
                "type": "library",
                "bom-ref": f"{purl}#{name}",
                "name": name,
                "licenses": [{"license": {"id": licence}}],
            }
            for name, licence in compiled
        ]
    return component


def _model(label: str, artifact: Artifact) -> Component:
    manifest = artifact.manifest
    entry = next(file for file in manifest.files if file.path == manifest.entry)
    component: Component = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{label}",
        "name": label,
        "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
        "pedigree": {"ancestors": [_checkpoint(artifact)]},
        "modelCard": {
            "modelParameters": {
                "task": "text-generation",
                "modelArchitecture": manifest.architecture,
            }
        },
        "properties": [
            {"name": "edgekit:format", "value": manifest.format},
            {"name": "edgekit:scheme", "value": manifest.scheme},
            {"name": "edgekit:parameters", "value": str(manifest.parameters)},
        ],
    }
    if licence := manifest.source.licence:
        key = "id" if licence in _SPDX_IDS else "name"
        component["licenses"] = [{"license": {key: licence}}]
    return component


def _checkpoint(artifact: Artifact) -> Component:
    source = artifact.manifest.source
    ancestor: Component = {"type": "machine-learning-model", "name": source.checkpoint}
    if re.fullmatch(r"[0-9a-f]{64}", source.checkpoint_digest):
        ancestor["hashes"] = [{"alg": "SHA-256", "content": source.checkpoint_digest}]
    return ancestor
