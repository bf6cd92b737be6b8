"""WorkerRuntime: a Runtime whose engine runs in a worker process.

What the worker sends is checked for shape: the process on the other side runs a foreign file.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EngineFailure, InputError
from runtimes.base import Chunk, Message, Sampling
from runtimes.local import require_scorable
from runtimes.process import STOP_GRACE_S, WorkerProcess
from runtimes.resident import peak_rss_of
from runtimes.shared_logits import SharedLogits
from runtimes.wire import Frame, decode_error

# A template has 2 s of processor time inside the worker; this ends what no limit there reaches.
RENDER_TIMEOUT_S = 30.0
_STUCK = f"the model was stopped: it went on for {STOP_GRACE_S:g} s after an answer was cancelled"
WORKER_PROGRAM = "from runtimes.worker import main\nmain()"


class WorkerRuntime:
    """A model in a process of its own. See runtimes.base.Runtime.

    When the process dies, the call that waits for it raises EngineFailure with the reason, and so
    does every later call.
    """

    def __init__(self, load_request: Frame, program: str = WORKER_PROGRAM) -> None:
        """Start `program` and let it load what `load_request` names. Raises what loading raises."""
        self._logits = SharedLogits()
        self._process = WorkerProcess(program, [self._logits.handle])
        self._turn = threading.RLock()
        self._request_ids = count()
        self._answer_id: int | None = None
        self._chunks: deque[Chunk] = deque()  # received, not yet asked for
        self.closed = False
        try:
            facts = self._call("load", logits_handle=self._logits.handle, **load_request)
            self._context_length, self._vocabulary_size, self._threads = _facts(facts)
        except BaseException:
            self.close()
            raise

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def peak_rss_bytes(self) -> int:
        """Return the worker's peak resident memory. Off Linux, asking ends a running answer."""
        if (peak := peak_rss_of(self._process.pid)) is not None:
            return peak
        return _whole(self._call("peak_rss_bytes"))

    @property
    def worker_pid(self) -> int:
        """Return the process id of the worker."""
        return self._process.pid

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> WorkerAnswer:
        """Answer `messages`; see Runtime.generate."""
        return WorkerAnswer(self, lambda: self._prompt(messages), sampling)

    def complete(self, token_ids: Sequence[int], sampling: Sampling) -> WorkerAnswer:
        """Continue `token_ids`; see Runtime.complete."""
        return WorkerAnswer(self, lambda: list(token_ids), sampling)

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt's text; see Runtime.render."""
        return str(self._with_template("render", messages))

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        return _ids(self._with_template("prompt", messages))

    def _with_template(self, operation: str, messages: Sequence[Message]) -> Any:
        conversation = [asdict(message) for message in messages]
        try:
            return self._call(operation, RENDER_TIMEOUT_S, messages=conversation)
        except TimeoutError:
            self._process.kill("the model was stopped: its chat template did not come to an end")
            raise InputError(
                f"the chat template did not come to an end in {RENDER_TIMEOUT_S:g} s",
                hint="convert the model again with another template, or trust this model less",
            ) from None

    def score(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each token; see Runtime.score."""
        require_scorable(token_ids, self._context_length, self._vocabulary_size)
        shape = (len(token_ids), self._vocabulary_size)
        with self._turn:
            self._logits.grow(*shape)
            self._call("score", ids=list(token_ids))
            return self._logits.array(*shape)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of `text`; see Runtime.tokenize."""
        return _ids(self._call("tokenize", text=text, special=special))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids`; see Runtime.detokenize."""
        return str(self._call("detokenize", ids=list(token_ids)))

    def save_state(self, path: Path) -> int:
        """Write the KV cache to `path`; see Runtime.save_state."""
        return _whole(self._call("save_state", path=str(path.absolute())))

    def load_state(self, path: Path) -> int:
        """Restore the KV cache from `path`; see Runtime.load_state."""
        return _whole(self._call("load_state", path=str(path.absolute())))

    def close(self) -> None:
        """End the worker, also in the middle of an answer. From any thread, safe to call twice."""
        self.closed = True
        self._process.stop()
        # The worker is gone, so a thread that waits for it sees the end of the pipe and lets go.
        with self._turn:
            self._process.release()
            self._logits.close()

    def _call(self, operation: str, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Return the worker's result. Raises its error, EngineFailure or TimeoutError."""
        with self._turn:
            self.end_answer(self._answer_id)
            request_id = next(self._request_ids)
            self._process.send({"id": request_id, "op": operation, **arguments})
            return _result(self._process.receive(request_id, timeout_s))

    def begin_answer(self, token_ids: list[int], sampling: Sampling) -> int:
        """Ask for an answer and return its id; an unfinished earlier answer is cancelled."""
        with self._turn:
            self.end_answer(self._answer_id)
            request_id = self._answer_id = next(self._request_ids)
            self._chunks.clear()
            request = {"id": request_id, "op": "complete", "ids": token_ids}
            self._process.send({**request, "sampling": asdict(sampling)})
            return request_id

    def next_chunk(self, answer_id: int) -> Chunk | None:
        """Return the next piece of an answer, or None at its end."""
        with self._turn:
            if self._answer_id != answer_id:
                return None
            while not self._chunks:
                frame = self._process.receive(answer_id)
                if "chunks" not in frame:
                    self._answer_id = None
                    _result(frame)
                    return None
                self._chunks.extend(_chunks(frame["chunks"]))
            return self._chunks.popleft()

    def end_answer(self, answer_id: int | None) -> None:
        """Cancel an answer and wait until the worker is done with it; kill a worker that is not."""
        if answer_id is None or self._answer_id != answer_id:
            return
        try:
            self._process.send({"id": answer_id, "op": "cancel"})
        except EngineFailure:  # a dead worker has nothing left to cancel
            self._answer_id = None
            return
        if not self._turn.acquire(timeout=STOP_GRACE_S):
            self._process.kill(_STUCK)
            return
        try:
            self._drain(answer_id)
        finally:
            self._turn.release()

    def _drain(self, answer_id: int) -> None:
        """Read an answer to its end without looking at it."""
        try:
            while self._answer_id == answer_id:
                if "chunks" not in self._process.receive(answer_id, STOP_GRACE_S):
                    self._answer_id = None
        except TimeoutError:
            self._process.kill(_STUCK)
            self._answer_id = None
        except EngineFailure:
            self._answer_id = None


class WorkerAnswer(Iterator[Chunk]):
    """The chunks of one answer. `close` cancels it, from any thread, also while one is awaited.

    Nothing is asked of the worker before the first chunk is.
    """

    def __init__(
        self, runtime: WorkerRuntime, prompt: Callable[[], list[int]], sampling: Sampling
    ) -> None:
        self._runtime = runtime
        self._prompt = prompt
        self._sampling = sampling
        self._id: int | None = None
        self._closed = False

    def __next__(self) -> Chunk:
        if self._closed:
            raise StopIteration
        try:
            if self._id is None:
                self._id = self._runtime.begin_answer(self._prompt(), self._sampling)
            chunk = None if self._closed else self._runtime.next_chunk(self._id)
        except EngineFailure:
            if self._closed or (self._id is not None and self._runtime.closed):
                raise StopIteration from None
            raise
        if chunk is None or self._closed:
            self.close()
            raise StopIteration
        return chunk

    def close(self) -> None:
        """End the answer; returns when the worker is done with it."""
        self._closed = True
        self._runtime.end_answer(self._id)

    def __del__(self) -> None:
        # A loop left by `break` drops the answer: the worker need not go on computing it.
        self.close()


def _result(frame: Frame) -> Any:
    if "error" in frame:
        raise decode_error(frame["error"])
    return frame.get("result")


def _chunks(values: Any) -> list[Chunk]:
    if not isinstance(values, list):
        raise _nonsense(values)
    return [_chunk(fields) for fields in values]


def _chunk(fields: Any) -> Chunk:
    if not isinstance(fields, list) or len(fields) != 5:
        raise _nonsense(fields)
    text, tokens, prompt_tokens, reused_tokens, finish = fields
    if finish not in ("stop", "length", "context", None):
        raise _nonsense(finish)
    return Chunk(str(text), _whole(tokens), _whole(prompt_tokens), _whole(reused_tokens), finish)


def _facts(fields: Any) -> tuple[int, int, int]:
    """Return what a loaded model is: context length, vocabulary size, threads."""
    names = ("context_length", "vocabulary_size", "threads")
    if not isinstance(fields, dict) or set(fields) != set(names):
        raise _nonsense(fields)
    context_length, vocabulary_size, threads = (_whole(fields[name]) for name in names)
    return context_length, vocabulary_size, threads


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise _nonsense(value)
    return value


def _ids(values: Any) -> list[int]:
    if not isinstance(values, list):
        raise _nonsense(values)
    return [_whole(value) for value in values]


def _nonsense(value: Any) -> EngineFailure:
    return EngineFailure(f"the model's process sent {value!r:.60}, which makes no sense")
