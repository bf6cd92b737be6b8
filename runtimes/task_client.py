"""A model that is no chat, in a worker process: a file is hostile until it has proved otherwise."""

from __future__ import annotations

from itertools import count
from types import TracebackType
from typing import Any

from devices.detect import physical_cores
from edgekit.artifact import Artifact
from edgekit.errors import InputError, UsageError
from edgekit.onnx_header import check
from edgekit.task import TaskKind
from runtimes.process import WorkerProcess
from runtimes.tasks import Result, from_wire
from runtimes.wire import decode_error

PROGRAM = "from runtimes.task_worker import main\nmain()\n"
DEFAULT_TOKENS = 512


class TaskModel:
    """One loaded model; close it, or use it as a context."""

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        """Check the graphs of `artifact` in Python, then load them in a process of their own.

        Raises InputError for a damaged or hostile file, MissingExtraError, EngineFailure.
        """
        task = artifact.manifest.task
        if task is None:
            raise InputError(f"{artifact.manifest.name} is a model for chats", hint="edgekit chat")
        if artifact.manifest.format != "onnx":
            raise InputError(
                f"{artifact.manifest.name} is in the format {artifact.manifest.format}, and such "
                "models run as onnx"
            )
        check(artifact.entry)
        if task.decoder is not None:
            check(artifact.path / task.decoder)
        self._kind: TaskKind = task.kind
        self._ids = count()
        self._process = WorkerProcess(PROGRAM)
        try:
            path = str(artifact.path.absolute())
            self._call(path=path, threads=threads or physical_cores())
        except BaseException:
            self.close()
            raise

    def answer(self, text: str, max_tokens: int = DEFAULT_TOKENS) -> Result:
        """Return what the model says of `text`; `max_tokens` limits a text that is written.

        Raises InputError for an empty text, EngineFailure if the process dies.
        """
        if max_tokens < 1:
            raise UsageError(f"an answer of {max_tokens} tokens is none")
        return from_wire(self._kind, self._call(text=text, max_tokens=max_tokens))

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._process.stop()
        self._process.release()

    def __enter__(self) -> TaskModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, **request: Any) -> Any:
        number = next(self._ids)
        self._process.send({"id": number, **request})
        reply = self._process.receive(number)
        if "error" in reply:
            raise decode_error(reply["error"])
        return reply.get("result")
