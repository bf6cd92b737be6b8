"""A worker process and the pipes to it: start it, talk to it, explain its death, end it.

Knows nothing of models. Pipes only: nothing listens, and nobody else can connect.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import EngineFailure
from runtimes.wire import Frame, FrameReader, FrameWriter, WireError

LAST_WORDS_BYTES = 2048
STOP_GRACE_S = 2.0
# -I keeps the user's environment and folder out of the worker's imports: it gets exactly the
# parent's path, so that it works from a checkout, an editable install and a wheel alike.
_BOOTSTRAP = "import json, sys\nsys.path[:] = json.loads(sys.argv[1])\n"
_HINTS = {
    signal.SIGKILL: "the system probably ran out of memory: try a smaller model or context",
    signal.SIGBUS: "the memory or disk behind a mapped file is gone: check free memory and disk",
    signal.SIGILL: "the engine was built for a newer processor: install a build for this one",
    signal.SIGSEGV: "the model file may be damaged or hostile: verify or convert it again",
    signal.SIGABRT: "the model file may be damaged or hostile: verify or convert it again",
}


class WorkerProcess:
    """A Python child that runs `program` and speaks frames on its standard streams."""

    def __init__(self, program: str, pass_handles: Sequence[int] = ()) -> None:
        """`pass_handles` are descriptors that the child inherits under the same numbers."""
        path = json.dumps([str(Path(entry).absolute()) for entry in sys.path])
        requests, requests_in = os.pipe()
        replies_out, replies = os.pipe()
        stderr_out, stderr = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                [sys.executable, "-I", "-c", _BOOTSTRAP + program, path],
                stdin=requests,
                stdout=replies,
                stderr=stderr,
                pass_fds=tuple(pass_handles),
            )
        finally:
            for handle in (requests, replies, stderr):
                os.close(handle)
        self._writer = FrameWriter(requests_in)
        self._reader = FrameReader(replies_out)
        self._open_handles = [replies_out, stderr_out]
        self._last_words = bytearray()
        self._listener = threading.Thread(target=self._listen, args=(stderr_out,), daemon=True)
        self._listener.start()
        self._why_stopped = ""

    @property
    def pid(self) -> int:
        """Return the child's process id."""
        return self._process.pid

    def send(self, frame: Frame) -> None:
        """Send one frame. Raises EngineFailure if the child is dead."""
        try:
            self._writer.write(frame)
        except OSError as error:
            raise self.death() from error

    def receive(self, request_id: int, timeout_s: float | None = None) -> Frame:
        """Return the next reply to `request_id`, passing over late replies to earlier requests.

        Raises EngineFailure if the child dies, TimeoutError if nothing comes in time.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                frame = self._reader.read(left_s)
            except WireError as error:
                self.kill(f"the model's process sent what makes no sense: {error}")
                raise self.death() from error
            if frame is None:
                raise self.death()
            if frame.get("id") == request_id:
                return frame

    def kill(self, why: str) -> None:
        """End the child at once; `why` is the sentence for whoever asks next."""
        self._why_stopped = self._why_stopped or why
        self._process.kill()

    def death(self) -> EngineFailure:
        """Return a sentence about how the child ended: the signal and its last words."""
        code = self._wait(STOP_GRACE_S)
        if code is None:
            self.kill("the model's process closed its pipe and went on running")
            code = self._process.wait()
        if self._why_stopped:
            return EngineFailure(self._why_stopped, hint="load it again")
        self._listener.join(timeout=1)
        said = f"; it last said: {words}" if (words := self._words()) else ""
        if code >= 0:
            return EngineFailure(f"the model's process ended by itself (exit code {code}){said}")
        hint = _HINTS.get(signal.Signals(-code), "load the model again")
        return EngineFailure(
            f"the model's process was killed by {signal.Signals(-code).name}{said}", hint=hint
        )

    def stop(self) -> None:
        """Close the child's input, which ends it, and kill it if it goes on. Safe to call twice."""
        self._why_stopped = self._why_stopped or "the model was closed"
        self._writer.close()
        if self._wait(STOP_GRACE_S) is None:
            self._process.kill()
            self._process.wait()

    def release(self) -> None:
        """Close the other pipes; the child is dead and nobody reads from them any more."""
        self._listener.join(timeout=1)
        while self._open_handles:
            os.close(self._open_handles.pop())

    def _wait(self, timeout_s: float) -> int | None:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _listen(self, handle: int) -> None:
        """Keep the end of what the child writes to stderr, so that it never waits for a reader."""
        while data := os.read(handle, LAST_WORDS_BYTES):
            self._last_words += data
            del self._last_words[:-LAST_WORDS_BYTES]

    def _words(self) -> str:
        """Return the last three lines of stderr as one, without control characters."""
        lines = self._last_words.decode("utf-8", "replace").splitlines()
        text = " | ".join(line.strip() for line in lines[-3:] if line.strip())
        return "".join(c for c in text if c.isprintable())
