"""The process that is put under a device's limits: loads one artifact and measures itself.

Started by `latency.measure` through runtimes.process; it does what the frames say, one at a time.
It knows nothing of limits or devices. Processor time is its own, so other programs do not count.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from runtimes import quiet
from runtimes.wire import Frame, FrameReader, FrameWriter, encode_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtimes.local import LocalRuntime

PROGRAM = "from edgekit.workflows.latency.child import main\nmain()"


def main() -> None:
    """Answer frames until the pipe closes."""
    requests, replies = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # whatever an engine prints goes to stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    quiet.apply()
    reader, writer, work = FrameReader(requests), FrameWriter(replies), Work()
    with suppress(BrokenPipeError):  # the parent is gone
        while (frame := reader.read()) is not None:
            writer.write({"id": frame["id"], **_reply(work, frame)})


def _reply(work: Work, frame: Frame) -> Frame:
    arguments = {key: value for key, value in frame.items() if key not in ("id", "op")}
    try:
        return {"result": getattr(work, frame["op"])(**arguments)}
    except Exception as error:  # the parent raises it, bugs included
        if _is_no_memory(error):
            error = _no_memory(str(frame["op"]))
        return {"error": encode_error(error)}


def _is_no_memory(error: Exception) -> bool:
    """Tell whether memory ran out; a library that cannot be mapped says so in words only."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    words = ("allocate memory", "failed to map segment")  # dlopen(3), of glibc
    return isinstance(error, (ImportError, OSError)) and any(word in str(error) for word in words)


def _no_memory(operation: str) -> Exception:
    from edgekit.errors import GateError

    return GateError(
        f"the memory limit was reached during '{operation}'",
        hint="choose a smaller scheme or a shorter context",
    )


class Work:
    """The operations that a frame may name, with its other fields as arguments."""

    _runtime: LocalRuntime

    def load(self, path: str, context_length: int, threads: int) -> dict[str, float]:
        """Open the artifact at `path`; return the seconds that took."""
        from edgekit.artifact import Artifact
        from runtimes.load import open_local

        start = time.perf_counter()
        self._runtime = open_local(Artifact.open(Path(path)), context_length, threads)
        return {"load_s": time.perf_counter() - start}

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of `text`."""
        return self._runtime.tokenize(text)

    def answer(self, token_ids: Sequence[int], answer_tokens: int) -> dict[str, float]:
        """Continue `token_ids` once; return both clocks' figures, in seconds and tokens/s.

        `longest_gap_s` is the longest wait for a token after the first.
        """
        from runtimes.latency import measure

        stamps: list[tuple[float, float]] = []

        def clock() -> float:
            stamps.append((time.perf_counter(), time.process_time()))
            return stamps[-1][0]

        latency = measure(self._runtime, token_ids, answer_tokens, clock)
        (start_s, start_cpu_s), (first_s, first_cpu_s), *later = stamps
        last_s, last_cpu_s = later[-1]
        decoded = latency.answer_tokens - 1
        times = [first_s, *(wall_s for wall_s, _ in later)]
        return {
            "ttft_s": latency.ttft_s,
            "decode_tokens_per_s": latency.decode_tokens_per_s,
            "longest_gap_s": max(after - before for before, after in pairwise(times)),
            "ttft_cpu_s": first_cpu_s - start_cpu_s,
            "decode_cpu_s_per_token": (last_cpu_s - first_cpu_s) / decoded,
            "processor_share": (last_cpu_s - start_cpu_s) / (last_s - start_s),
        }

    def peak_rss(self) -> int:
        """Return the largest resident memory so far, in bytes."""
        return self._runtime.peak_rss_bytes

    def read_bandwidth(self, buffer_bytes: int) -> float:
        """Return bytes read per second of processor time by one thread: the best of some passes.

        The buffer should be larger than the last cache; it is freed again.
        """
        import numpy as np

        words = np.ones(buffer_bytes // 8, dtype=np.int64)
        best_s = float("inf")
        for _ in range(4):
            start = time.thread_time()
            np.sum(words)
            best_s = min(best_s, time.thread_time() - start)
        return words.nbytes / best_s

    def touched(self, token_ids: Sequence[int]) -> int | None:
        """Return how many bytes of memory, in whole pages, one decoded token reads or writes.

        None where the kernel does not tell.
        """
        from edgekit.workflows.latency.pages import bytes_touched
        from runtimes.base import Sampling

        sampling = Sampling(max_tokens=4, ignore_stop_tokens=True)
        chunks = iter(self._runtime.complete(token_ids, sampling))
        next(chunks)
        next(chunks)
        return bytes_touched(lambda: next(chunks))
