"""One short measurement of an engine, in a process of its own that may die of it.

The parent asks for a variant and a number of threads; the child loads the model, times a prompt
and a few tokens, and prints one line of JSON. A variant that this processor cannot run ends the
child by SIGILL, and the parent only.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EngineFailure

if TYPE_CHECKING:
    from runtimes.engine import Engine

# The turn that a choice is judged by: a question, and an answer of a few sentences.
TURN_PROMPT_TOKENS, TURN_ANSWER_TOKENS = 128, 64
PROMPT_TOKENS, FEWEST_TOKENS, MOST_TOKENS = 32, 3, 32
CONTEXT_LENGTH = PROMPT_TOKENS + MOST_TOKENS + 8
DECODE_S = 0.2
LONGEST_TRIAL_S = 300.0
_CHILD = (
    "import json, sys\nsys.path[:] = json.loads(sys.argv[1])\n"
    "from runtimes.trial import main\nmain(json.loads(sys.argv[2]))\n"
)


@dataclass(frozen=True, slots=True)
class Trial:
    """What to try: an artifact's folder (None: only load the library), a variant, threads."""

    format: str
    artifact: Path | None
    variant: str | None
    threads: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per token of a prompt and of an answer, and the variant that was used."""

    variant: str
    prefill_s: float
    decode_s: float

    @property
    def turn_s(self) -> float:
        """Return the seconds of a typical turn: what choices are compared by."""
        return TURN_PROMPT_TOKENS * self.prefill_s + TURN_ANSWER_TOKENS * self.decode_s


class IllegalInstruction(EngineFailure):
    """The engine used an instruction that this processor does not have."""


def run(trial: Trial) -> Timing:
    """Make `trial` in a child. Raises IllegalInstruction, EngineFailure with its last words."""
    request = {
        "format": trial.format,
        "artifact": str(trial.artifact.absolute()) if trial.artifact else None,
        "variant": trial.variant,
        "threads": trial.threads,
    }
    return Timing(**_in_child(trial.format, request))


def variants() -> list[str]:
    """Return the names of llama.cpp's variants that run here, ggml's favourite first.

    None if the library has its backend built in. Raises as `run`: even a file that is only
    looked at runs some of its code.
    """
    return [str(name) for name in _in_child("gguf", {"format": "variants"})]


def _in_child(name: str, request: dict[str, Any]) -> Any:
    path = json.dumps([str(Path(entry).absolute()) for entry in sys.path])
    command = [sys.executable, "-I", "-c", _CHILD, path, json.dumps(request)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and code
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LONGEST_TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineFailure(
            f"the {name} engine did not answer within {LONGEST_TRIAL_S:g} s"
        ) from None
    if done.returncode == -signal.SIGILL:
        raise IllegalInstruction(
            f"the {name} engine used an instruction that this processor does not have",
            hint="install the bundle that was made for this device",
        )
    if done.returncode != 0:
        raise _failure(name, done.returncode, done.stderr)
    return json.loads(done.stdout)


def _failure(name: str, code: int, stderr: bytes) -> EngineFailure:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    words = "".join(c for c in lines[-1] if c.isprintable()) if lines else "nothing"
    return EngineFailure(f"the {name} engine ended with {how}; it last said: {words}")


def main(request: dict[str, Any]) -> None:
    """Make the trial that `request` describes in this process and print its timing."""
    from edgekit.privacy.lock import lock, wanted
    from runtimes import quiet

    quiet.apply()
    if wanted():
        lock(writable=())
    if request["format"] == "variants":
        from runtimes import llama_library

        print(json.dumps([variant.name for variant in llama_library.variants()]))
    else:
        print(json.dumps(_measure(**request)))


def _measure(
    format: str,  # noqa: A002 - the key in the request
    artifact: str | None,
    variant: str | None,
    threads: int,
) -> dict[str, Any]:
    if format == "gguf":
        from runtimes import llama_library

        llama_library.load(variant)
        variant = llama_library.loaded_variant()
    else:
        from edgekit.extras import need

        need("onnxruntime", "onnx")
    timing = {"variant": variant or "", "prefill_s": 0.0, "decode_s": 0.0}
    if artifact is None:
        return timing
    from edgekit.artifact import Artifact
    from runtimes.load import engine_for

    opened = Artifact.open(Path(artifact))
    length = min(CONTEXT_LENGTH, opened.manifest.context_length)
    engine = engine_for(opened, context_length=length, threads=threads)
    try:
        timing["prefill_s"], timing["decode_s"] = measure(engine)
    finally:
        engine.close()
    return timing


def measure(engine: Engine) -> tuple[float, float]:
    """Return the seconds per token of a prompt and of an answer: the medians of a few."""
    prompt = [1 + index % (engine.vocabulary_size - 1) for index in range(PROMPT_TOKENS)]
    engine.evaluate(prompt[:2])  # pages of the file are read, threads are started
    prefill = []
    for _ in range(2):
        engine.truncate(0)
        prefill.append(_timed(engine, prompt) / len(prompt))
    decode: list[float] = []
    while len(decode) < MOST_TOKENS and (len(decode) < FEWEST_TOKENS or sum(decode) < DECODE_S):
        decode.append(_timed(engine, prompt[:1]))
    return min(prefill), statistics.median(decode)


def _timed(engine: Engine, token_ids: list[int]) -> float:
    begin = time.perf_counter()
    engine.evaluate(token_ids)
    return time.perf_counter() - begin
