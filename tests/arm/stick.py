"""Makes what is carried to the board: the real model's artifacts, and two signed bundles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROFILE = "raspberry-pi-5-8gb"
PYTHON = "3.11"
SCHEMES = {"gguf": ("q4_0", "q4_k_m", "q8_0"), "onnx": ("int4",)}
CERTIFIED = ("gguf-q4_0", "onnx-int4")
CHECK_TEXT = Path(__file__).with_name("agent.py")


@dataclass(frozen=True)
class Stick:
    """Two bundles by one key; the second brings another default model."""

    folder: Path
    artifacts: dict[str, Path]

    @property
    def first(self) -> Path:
        return self.folder / "first"

    @property
    def second(self) -> Path:
        return self.folder / "second"


def make_artifacts(folder: Path) -> dict[str, Path]:
    """Convert the real model; the two that are installed are checked against their checkpoint."""
    from converters.checkpoint import Checkpoint
    from converters.convert import convert
    from converters.import_gguf import import_gguf
    from converters.recipe import Recipe
    from edgekit.artifact import Artifact
    from edgekit.progress import NoProgress
    from edgekit.workflows.check import check

    from ..real_model import real_gguf

    source = folder / "SmolLM2-135M-Instruct"
    if not source.exists():
        source.mkdir(parents=True)
        import_gguf(real_gguf(), source)
    checkpoint, made = Checkpoint.open(source), {}
    for format_, schemes in SCHEMES.items():
        for scheme in schemes:
            name = f"{format_}-{scheme}"
            made[name] = path = folder / name
            if not path.exists():
                convert(checkpoint, Recipe.of(format_, scheme), path, progress=NoProgress())
            artifact = Artifact.open(path)
            if name in CERTIFIED and artifact.manifest.certificate is None:
                check(artifact, checkpoint, CHECK_TEXT, NoProgress())
    return made


def make_stick(artifacts: dict[str, Path], folder: Path) -> Stick:
    """Build both bundles, signed by the store's key, as `edgekit bundle` does."""
    stick = Stick(folder, artifacts)
    _bundle(stick.first, artifacts["gguf-q4_0"], artifacts["onnx-int4"])
    _bundle(stick.second, artifacts["onnx-int4"], artifacts["gguf-q4_0"])
    return stick


def _bundle(out: Path, *artifacts: Path) -> None:
    from devices.profile import load_profile
    from edgekit.progress import NoProgress
    from edgekit.workflows.bundle.build import build

    profile = load_profile(PROFILE)
    build(artifacts, profile, out, python=PYTHON, key=None, progress=NoProgress())
