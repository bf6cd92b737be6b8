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

from runtimes import quiet
from runtimes.wire import Frame, FrameReader, FrameWriter

if TYPE_CHECKING:
    from runtimes.local import LocalRuntime


def main() -> None:
    """Serve the artifact that the first request names."""
    serve(_open_artifact)


def serve(open_runtime: Callable[[Frame], LocalRuntime]) -> None:
    """Set this process up and serve what `open_runtime` makes of the first request."""
    requests, replies = _claim_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    quiet.apply()
    # A lock on this process belongs exactly here: after the pipes and the shared memory are
    # open, before the first thread and the first import from outside the standard library.
    from runtimes.service import Service

    with suppress(BrokenPipeError):  # the parent is gone
        Service(FrameReader(requests), FrameWriter(replies), open_runtime).run()


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
