"""The worker's request loop: one model, one request at a time, cancelled from a second thread."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtimes.base import Message, Sampling
from runtimes.generation import Answer
from runtimes.local import LocalRuntime
from runtimes.shared_logits import SharedLogits
from runtimes.wire import Frame, FrameReader, FrameWriter, encode_error

GATHER_S = 0.02


class Service:
    """Answers the frames of runtimes.client on a LocalRuntime.

    Each request has an `id`, and so has each reply to it: `{"id", "chunks"}` for pieces of an
    answer, then `{"id", "result"}` or `{"id", "error"}`.
    """

    def __init__(
        self,
        requests: FrameReader,
        replies: FrameWriter,
        open_runtime: Callable[[Frame], LocalRuntime],
    ) -> None:
        self._requests = requests
        self._replies = replies
        self._open_runtime = open_runtime
        self._waiting: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._streaming: tuple[int, Answer] | None = None
        self._cancelled_up_to = -1

    def run(self) -> None:
        """Serve until the parent closes its end; never returns."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._reply(self._waiting.get(), self._load)
        while True:
            self._reply(self._waiting.get(), self._serve)

    def _listen(self) -> None:
        """Read requests while the engine computes; end the process when the parent is gone."""
        try:
            while (frame := self._requests.read()) is not None:
                if frame["op"] == "cancel":
                    self._cancel(frame["id"])
                else:
                    self._waiting.put(frame)
        finally:
            # An engine in the middle of a computation cannot be unwound, only left.
            os._exit(0)

    def _cancel(self, request_id: int) -> None:
        with self._lock:
            self._cancelled_up_to = max(self._cancelled_up_to, request_id)
            streaming = self._streaming
        if streaming is not None and streaming[0] == request_id:
            streaming[1].close()

    def _reply(self, request: Frame, work: Callable[[Frame], Any]) -> None:
        try:
            reply: Frame = {"result": work(request)}
        except Exception as error:  # every failure is the parent's to know, bugs included
            reply = {"error": encode_error(error)}
        self._replies.write({"id": request["id"], **reply})

    def _load(self, request: Frame) -> Frame:
        self._logits = SharedLogits(request["logits_handle"])
        self._runtime = runtime = self._open_runtime(request)
        return {
            "context_length": runtime.context_length,
            "vocabulary_size": runtime.vocabulary_size,
            "threads": runtime.threads,
        }

    def _serve(self, request: Frame) -> Any:
        runtime = self._runtime
        match request["op"]:
            case "prompt":
                return runtime.prompt(_messages(request))
            case "render":
                return runtime.render(_messages(request))
            case "complete":
                return self._stream(request)
            case "score":
                ids = request["ids"]
                return runtime.score_into(
                    ids, self._logits.array(len(ids), runtime.vocabulary_size)
                )
            case "tokenize":
                return runtime.tokenize(request["text"], special=request["special"])
            case "detokenize":
                return runtime.detokenize(request["ids"])
            case "save_state":
                return runtime.save_state(Path(request["path"]))
            case "load_state":
                return runtime.load_state(Path(request["path"]))
            case "peak_rss_bytes":
                return runtime.peak_rss_bytes
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")

    def _stream(self, request: Frame) -> None:
        request_id = request["id"]
        answer = self._runtime.complete(request["ids"], _sampling(request["sampling"]))
        with self._lock:
            if request_id <= self._cancelled_up_to:
                return
            self._streaming = (request_id, answer)
        try:
            for chunks in _gathered(answer):
                self._replies.write({"id": request_id, "chunks": chunks})
        finally:
            with self._lock:
                self._streaming = None


def _gathered(answer: Answer) -> Iterator[list[tuple[Any, ...]]]:
    """Yield chunks as they come, those of a fast model together: one list per GATHER_S.

    A chunk waits for at most one more token. Each frame wakes the parent, which takes a core from
    an engine that keeps all of them busy.
    """
    waiting: list[tuple[Any, ...]] = []
    sent_s = float("-inf")
    for c in answer:
        waiting.append((c.text, c.tokens, c.prompt_tokens, c.reused_tokens, c.finish))
        if c.finish is not None or time.monotonic() - sent_s >= GATHER_S:
            yield waiting
            waiting, sent_s = [], time.monotonic()
    if waiting:
        yield waiting


def _messages(request: Frame) -> list[Message]:
    return [Message(**fields) for fields in request["messages"]]


def _sampling(fields: Frame) -> Sampling:
    return Sampling(**{**fields, "stop": tuple(fields["stop"])})
