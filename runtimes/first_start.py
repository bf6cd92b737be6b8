"""The first start on a device: prove that every engine and artifact works; find the fastest way.

`python -I -m runtimes.first_start --artifacts DIR --json`. The installer runs it in a new version
before switching to it; anyone may run it again. Exit code 0 means that every artifact answered.
Only the standard library until a child needs more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.artifact import MANIFEST_NAME, Artifact
from edgekit.errors import EdgekitError, InputError, MissingExtraError
from runtimes import cpu_variants
from runtimes.cpu_variants import Choice
from runtimes.tuning import Tuned, tune

ENGINES = {"gguf": "llama_cpp", "onnx": "onnxruntime"}
SECONDS = 3.0
ANSWER_CONTEXT = 512


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parse(argv)
    try:
        report = first_start(arguments.artifacts, arguments.state, arguments.seconds)
    except EdgekitError as error:
        hint = f"\n\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error.message}{hint}", file=sys.stderr)
        if arguments.json:
            print(json.dumps({"works": False, "error": error.message, "hint": error.hint}))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    print(json.dumps(report, indent=2) if arguments.json else _sentences(report))
    return 0


def first_start(folder: Path | None, state: Path | None, seconds: float) -> dict[str, Any]:
    """Measure, write the choice to `state`, and let every artifact in `folder` answer one token.

    `seconds` is about how long to measure each engine. Raises EdgekitError of whatever does not
    work: EngineFailure, InputError, MissingExtraError.
    """
    artifacts = _artifacts(folder)
    tuned = {name: _tune(name, artifacts, seconds) for name in _engines(artifacts)}
    choice = _choice(tuned)
    measured = {name: result.measured for name, result in tuned.items()}
    written = _write(state or cpu_variants.default_state_file(), choice, measured)
    return {
        "works": True,
        "engines": {name: _engine_report(result) for name, result in tuned.items()},
        "artifacts": [_answer(artifact, choice) for artifact in artifacts],
        "state": str(written) if written else None,
        "measured": measured,
    }


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m runtimes.first_start", description=__doc__)
    parser.add_argument("--artifacts", type=Path, help="folder whose subfolders are artifacts")
    parser.add_argument("--state", type=Path, help="file for the choice (default: in the cache)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="to measure, per engine")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(argv)


def _artifacts(folder: Path | None) -> list[Artifact]:
    """Return the artifacts below `folder` by name, their headers checked. Raises InputError."""
    from runtimes.load import check

    if folder is None:
        return []
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of artifacts")
    found = [Artifact.open(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST_NAME}"))]
    for artifact in found:
        check(artifact)
    return found


def _engines(artifacts: Sequence[Artifact]) -> list[str]:
    """Return the engines to try: those installed, and those that an artifact needs."""
    needed = {artifact.manifest.format for artifact in artifacts}
    names = [name for name, module in ENGINES.items() if name in needed or find_spec(module)]
    if not names:
        raise MissingExtraError("no engine is installed", hint="pip install 'edgekit[device]'")
    return names


def _tune(name: str, artifacts: Sequence[Artifact], seconds: float) -> Tuned:
    """Measure the engine with the smallest artifact that it opens."""
    mine = [artifact for artifact in artifacts if artifact.manifest.format == name]
    size = {a.path: sum(file.bytes for file in a.manifest.files) for a in mine}
    return tune(name, min(size, key=lambda path: size[path], default=None), seconds)


def _choice(tuned: dict[str, Tuned]) -> Choice:
    threads = {name: result.threads for name, result in tuned.items() if result.measured}
    gguf = tuned.get("gguf")
    return Choice(gguf.variant, gguf.broken, threads) if gguf else Choice("", (), threads)


def _write(path: Path, choice: Choice, measured: dict[str, Any]) -> Path | None:
    """Write the choice and return where, or None if the folder is read-only and nothing broken.

    A choice is about speed, but a variant that cannot run must not be met again.
    """
    try:
        cpu_variants.write_choice(path, choice, measured)
    except EdgekitError:
        if choice.broken:
            raise
        return None
    return path


def _engine_report(result: Tuned) -> dict[str, Any]:
    return {
        "variant": result.variant,
        "variants": list(result.variants),
        "broken": list(result.broken),
        "threads": result.threads,
    }


def _answer(artifact: Artifact, choice: Choice) -> dict[str, Any]:
    """Let the artifact answer one token, in a worker as every command uses it."""
    from runtimes.base import Message, Sampling
    from runtimes.load import load

    manifest = artifact.manifest
    begin = time.monotonic()
    runtime = load(
        artifact,
        context_length=min(ANSWER_CONTEXT, manifest.context_length),
        threads=choice.threads.get(manifest.format),
    )
    try:
        chunks = list(runtime.generate([Message("user", "Hello")], Sampling(max_tokens=1)))
    finally:
        runtime.close()
    return {
        "name": manifest.name,
        "format": manifest.format,
        "text": "".join(chunk.text for chunk in chunks),
        "tokens": sum(chunk.tokens for chunk in chunks),
        "seconds": round(time.monotonic() - begin, 3),
    }


def _sentences(report: dict[str, Any]) -> str:
    lines = [
        f"{name}: works, {engine['threads']} threads"
        + (f", variant {engine['variant']}" if engine["variant"] else "")
        for name, engine in report["engines"].items()
    ]
    lines += [f"{a['name']}: answers ({a['seconds']} s)" for a in report["artifacts"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
