"""Open an artifact as a Runtime: check its file, start its worker, pick its engine by format."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from devices.detect import physical_cores
from devices.estimate import context_that_fits, require_memory
from devices.model_facts import ModelFacts
from edgekit.artifact import Artifact, Format, Manifest
from edgekit.errors import InputError, UsageError
from edgekit.task import require_chat
from runtimes.base import Runtime
from runtimes.cpu_variants import threads_for
from runtimes.engine import Engine
from runtimes.local import LocalRuntime

if TYPE_CHECKING:
    from edgekit.gguf_header import GgufHeader
    from edgekit.torch_folder import TorchFolder

DEFAULT_CONTEXT_LENGTH = 4096


def load(
    artifact: Artifact,
    *,
    context_length: int | None = None,
    threads: int | None = None,
    in_process: bool = False,
) -> Runtime:
    """Return a running model; the caller closes it.

    `context_length` is in tokens, by default the model's own up to 4,096, or what of that fits the
    memory. `threads` is by default what was measured best at the first start here, else the number
    of physical cores. The engine runs in a worker process unless `in_process`: that is for tests
    and benchmarks, since a hostile file can then do what it likes to this process.

    Raises InputError for a damaged or hostile file and for a context longer than the model's,
    GateError where memory is too small, UsageError for impossible numbers, MissingExtraError,
    EngineFailure if the worker dies.
    """
    facts = ModelFacts.of(artifact, check(artifact))
    tokens = _context_length(artifact.manifest, facts, context_length)
    engine_threads = _threads(threads, artifact.manifest.format)
    require_memory(facts, tokens)
    if in_process:
        from runtimes import quiet

        quiet.apply()
        return open_local(artifact, tokens, engine_threads)
    from runtimes.client import WorkerRuntime

    return WorkerRuntime(
        {
            "path": str(artifact.path.absolute()),
            "context_length": tokens,
            "threads": engine_threads,
        }
    )


def check(artifact: Artifact) -> GgufHeader | TorchFolder | None:
    """Read the artifact's headers strictly, in Python, before any C++ does; return what was read.

    Raises InputError.
    """
    match artifact.manifest.format:
        case "gguf":
            from edgekit.gguf_header import read_header

            return read_header(artifact.entry)
        case "onnx":
            from edgekit.onnx_header import check as check_graph

            check_graph(artifact.entry)
            return None
        case "torch":
            from edgekit.torch_folder import read_folder

            return read_folder(artifact.path)
        case unknown:
            assert_never(unknown)


def open_local(artifact: Artifact, context_length: int, threads: int) -> LocalRuntime:
    """Return the artifact as a Runtime in this process, its file unchecked."""
    require_chat(artifact.manifest.name, artifact.manifest.task)
    engine = engine_for(artifact, context_length=context_length, threads=threads)
    try:
        return LocalRuntime(engine, artifact.manifest)
    except BaseException:
        engine.close()
        raise


def engine_for(artifact: Artifact, *, context_length: int, threads: int) -> Engine:
    """Return the engine of the artifact's format, with the model loaded."""
    match artifact.manifest.format:
        case "gguf":
            from runtimes.gguf_engine import GgufEngine

            return GgufEngine(artifact, context_length=context_length, threads=threads)
        case "onnx":
            from runtimes.onnx_engine import OnnxEngine

            return OnnxEngine(artifact, context_length=context_length, threads=threads)
        case "torch":
            from runtimes.torch_engine import TorchEngine

            return TorchEngine(artifact, context_length=context_length, threads=threads)
        case unknown:
            assert_never(unknown)


def _context_length(manifest: Manifest, model: ModelFacts, asked: int | None) -> int:
    longest = manifest.context_length
    if asked is None:
        return context_that_fits(model, min(longest, DEFAULT_CONTEXT_LENGTH))
    if asked < 2:
        raise UsageError(f"a context of {asked} tokens holds no prompt and answer")
    if asked > longest:
        raise InputError(
            f"a context of {asked} tokens is asked for, {manifest.name} has {longest}",
            hint=f"ask for {longest} tokens at most",
        )
    return asked


def _threads(asked: int | None, format_name: Format) -> int:
    if asked is None:
        return threads_for(format_name) or physical_cores()
    if asked < 1:
        raise UsageError(f"an engine cannot compute with {asked} threads")
    return asked
