"""The worker of a model that is no chat: one request after the other, until the pipes close.

Started by runtimes.task_client, never by a person. Set up, and locked, as runtimes.worker is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runtimes.wire import Frame, FrameReader, FrameWriter, encode_error
from runtimes.worker import start

if TYPE_CHECKING:
    from runtimes.onnx_tasks import OnnxTask


def main() -> None:
    """Serve the artifact that the first request names."""
    start(_serve)


def _serve(reader: FrameReader, writer: FrameWriter) -> None:
    task: OnnxTask | None = None
    while (request := reader.read()) is not None:
        try:
            if task is None:
                task, result = _open(request), {}
            else:
                result = _answer(task, request)
            reply: Frame = {"result": result}
        except Exception as error:  # every failure is the parent's to know, bugs included
            reply = {"error": encode_error(error)}
        writer.write({"id": request["id"], **reply})


def _open(request: Frame) -> OnnxTask:
    from pathlib import Path

    from edgekit.artifact import Artifact
    from runtimes.onnx_tasks import OnnxTask

    return OnnxTask(Artifact.open(Path(request["path"])), request["threads"])


def _answer(task: OnnxTask, request: Frame) -> dict[str, Any]:
    from runtimes.tasks import to_wire

    return to_wire(task.answer(request["text"], request["max_tokens"]))
