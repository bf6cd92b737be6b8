"""What each way of rounding keeps, kind of text by kind of text, in the artifact's own engine.

    python tests/benchmarks/rounding.py CHECKPOINT SCHEME... [--care C...] [--text FILE] [--steps N]

SCHEME is like gguf:iq4_nl or onnx:int4. Converts CHECKPOINT (in the store) each way, checks every
artifact on edgekit's built-in texts, and on the file `--text` as one more kind; prints a line for
each as it is done. None of these texts takes part in the calibration. The rows of one scheme have
the same bytes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from converters.checkpoint import Checkpoint
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.certificate import Certificate
from edgekit.progress import NoProgress
from edgekit.store import find_checkpoint
from edgekit.workflows.certify.session import Wanted
from edgekit.workflows.check import certify
from edgekit.workflows.conversion import Care, Request, run_request

CARES: tuple[Care, ...] = ("plain", "calibrated", "compensated", "distilled")


def certificate_of(artifact: Artifact, checkpoint: Path, text: Path | None) -> Certificate:
    """Return the certificate on the built-in texts or on `text`."""
    checked = certify(artifact, checkpoint, Wanted(text), NoProgress())
    assert checked.certificate is not None, checked.stages
    return checked.certificate


def row(request: Request, text: Path | None) -> str:
    """Convert and check; return a line of the table."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        artifact = run_request(request, Path(folder) / "artifact", progress=NoProgress())
        seconds = time.perf_counter() - start
        kinds = dict(certificate_of(artifact, request.checkpoint.path, None).by_kind)
        if text is not None:
            kinds |= certificate_of(artifact, request.checkpoint.path, text).by_kind
    figures = "  ".join(f"{kind} {values['kld_mean']:.4f}" for kind, values in kinds.items())
    size = artifact.manifest.total_bytes / 1e6
    mean = sum(values["kld_mean"] for values in kinds.values()) / len(kinds)
    name = f"{request.recipe.name} {request.care}"
    return f"{name:28} {size:6.1f} MB  {seconds:5.0f} s  mean of kinds {mean:.4f}  {figures}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("schemes", nargs="+")
    parser.add_argument("--care", nargs="*", choices=CARES, default=CARES)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    checkpoint = Checkpoint.open(find_checkpoint(arguments.checkpoint))
    for scheme in arguments.schemes:
        recipe = Recipe.of(*scheme.split(":"))
        for care in arguments.care:
            request = Request(checkpoint, recipe, care, steps=arguments.steps)
            print(row(request, arguments.text), flush=True)


if __name__ == "__main__":
    main()
