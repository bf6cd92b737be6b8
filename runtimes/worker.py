"""The worker process: sets itself up, then serves one model over its pipes until they close.

Only the standard library is loaded before the set-up is done; numpy and the engine come after.
Started by runtimes.process, never by a person.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from edgekit.privacy.lock import lock, wanted
from runtimes import quiet
from runtimes.wire import Frame, FrameReader, FrameWriter, encode_error

if TYPE_CHECKING:
    from runtimes.local import LocalRuntime


def main() -> None:
    """Serve the artifact that the first request names."""
    serve(_open_artifact)


def serve(open_runtime: Callable[[Frame], LocalRuntime]) -> None:
    """Set this process up and serve what `open_runtime` makes of the first request."""

    def run(reader: FrameReader, writer: FrameWriter) -> None:
        from runtimes.service import Service

        Service(reader, writer, open_runtime).run()

    start(run)


def start(run: Callable[[FrameReader, FrameWriter], None]) -> None:
    """Set this process up, and let `run` serve on its pipes."""
    requests, replies = _claim_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    quiet.apply()
    reader, writer = FrameReader(requests), FrameWriter(replies)
    with suppress(BrokenPipeError):  # the parent is gone
        # Exactly here: after the pipes and the shared memory are open, before the first thread
        # and the first import from outside the standard library.
        if (failure := _lock_if_wanted()) is not None:
            _refuse(reader, writer, failure)
            return
        run(reader, writer)


def _lock_if_wanted() -> Exception | None:
    """Lock this process in privacy mode: no network, no file written. Return why it failed."""
    try:
        if wanted():
            lock(writable=())
    except Exception as error:  # the parent shows it, bugs included
        return error
    return None


def _refuse(reader: FrameReader, writer: FrameWriter, failure: Exception) -> None:
    """Answer the request to load a model with `failure`."""
    if (request := reader.read()) is not None:
        writer.write({"id": request["id"], "error": encode_error(failure)})


def _claim_pipes() -> tuple[int, int]:
    """Return private descriptors of the two pipes; whatever an engine prints goes to stderr."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, replies


def _open_artifact(request: Frame) -> LocalRuntime:
    from pathlib import Path

    from edgekit.artifact import Artifact
    from runtimes.load import open_local

    artifact = Artifact.open(Path(request["path"]))
    return open_local(artifact, request["context_length"], request["threads"])
