"""Measure an artifact in a process of its own: free, or under the limits of a device.

What is judged later are ratios of figures from one run: processor time per token, the share of
the read bandwidth of the same processor, bytes of memory that a token touches. Other programs
disturb wall time by half and these by a few per cent. It knows nothing of budgets or predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import count
from typing import Any

from edgekit.artifact import Artifact
from edgekit.errors import EngineFailure, GateError
from edgekit.units import format_bytes
from edgekit.workflows.device_limits import Limited, Limits, forget_file, limited
from edgekit.workflows.latency.child import PROGRAM
from runtimes.load import check
from runtimes.process import WorkerProcess
from runtimes.wire import decode_error

# Larger than the last cache of most machines, and small enough to fit beside the model.
BUFFER_BYTES = 192_000_000
REPLY_WITHIN_S = 120.0
_WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured: tokens of prompt and of answer, and how often. One thread always."""

    prompt_tokens: int = 64
    answer_tokens: int = 24
    rounds: int = 3


REHEARSAL = Work(prompt_tokens=32, answer_tokens=16, rounds=1)


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of this machine, one thread. Times in seconds.

    The round with the least processor time per token counts: what disturbs only adds to it.
    `processor_share` is processor time over wall time of that round. `peak_rss_bytes` counts
    mapped weights; `charged_bytes` is what the memory group was charged, 0 where there is none.
    `bandwidth_bytes_per_cpu_s` and `touched_bytes_per_token` are 0 where they were not measured.
    """

    load_s: float
    ttft_s: float
    ttft_cpu_s: float
    decode_tokens_per_s: float
    decode_cpu_s_per_token: float
    longest_gap_s: float
    processor_share: float
    peak_rss_bytes: int
    work: Work
    charged_bytes: int = 0
    bandwidth_bytes_per_cpu_s: float = 0.0
    touched_bytes_per_token: int = 0
    limits: Limits = field(default_factory=Limits)
    enforced: dict[str, str] = field(default_factory=dict)
    not_enforced: dict[str, str] = field(default_factory=dict)


def free(artifact: Artifact, work: Work | None = None) -> Measured:
    """Measure `artifact` on this machine without limits, and what its roofline is here."""
    work = work or Work()
    with limited(Limits()) as limits, _child(artifact, limits) as child:
        load_s, prompt = child.begin(work)
        answers, bandwidths = [child.answer(prompt, work, 0)], [0.0]
        peak_rss_bytes = child.ask("peak_rss")  # before the buffer of the bandwidth
        for turn in range(1, work.rounds + 1):
            bandwidths.append(child.ask("read_bandwidth", buffer_bytes=BUFFER_BYTES))
            answers.append(child.answer(prompt, work, turn))
        return Measured(
            load_s=load_s,
            peak_rss_bytes=peak_rss_bytes,
            work=work,
            bandwidth_bytes_per_cpu_s=max(bandwidths),
            touched_bytes_per_token=child.ask("touched", token_ids=prompt) or 0,
            **_best(answers),
            **_limits(limits),
        )


def under(artifact: Artifact, limits_wanted: Limits, work: Work | None = None) -> Measured:
    """Measure `artifact` under limits; see `Measured.enforced` for those really in force.

    Raises GateError if the limits kill it, or leave it too slow to answer at all.
    """
    work = work or REHEARSAL
    with limited(limits_wanted) as limits, _child(artifact, limits) as child:
        load_s, prompt = child.begin(work)
        limits.slow_down()
        answers = [child.answer(prompt, work, turn) for turn in range(work.rounds)]
        return Measured(
            load_s=load_s,
            peak_rss_bytes=child.ask("peak_rss"),
            work=work,
            charged_bytes=limits.group.peak_memory_bytes,
            **_best(answers),
            **_limits(limits),
        )


class _Child:
    """Asks the measuring process, one question at a time."""

    def __init__(self, artifact: Artifact, limits: Limited, process: WorkerProcess) -> None:
        self._artifact, self._limits, self._process = artifact, limits, process
        self._ids = count()

    def begin(self, work: Work) -> tuple[float, list[int]]:
        """Load the model and warm it up; return the seconds of loading and a prompt."""
        loaded = self.ask(
            "load",
            path=str(self._artifact.path.absolute()),
            context_length=work.prompt_tokens + work.answer_tokens,
            threads=1,
        )
        text = (files("edgekit.workflows") / "texts" / "prose.txt").read_text("utf-8")
        token_ids = self.ask("tokenize", text=text[: 16 * work.prompt_tokens])
        prompt = (token_ids * (work.prompt_tokens // len(token_ids) + 1))[: work.prompt_tokens]
        # The first answer pays for pages and buffers.
        self.ask("answer", token_ids=prompt[:_WARM_UP_TOKENS], answer_tokens=2)
        return float(loaded["load_s"]), prompt

    def answer(self, prompt: Sequence[int], work: Work, turn: int) -> dict[str, float]:
        """Return one answer's figures; another beginning each turn, as no prefix is reused."""
        turned = [*prompt[turn + 1 :], *prompt[: turn + 1]]
        answer: dict[str, float] = self.ask(
            "answer", token_ids=turned, answer_tokens=work.answer_tokens
        )
        return answer

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Return the result of an operation of child.Work. Raises its error, or GateError."""
        request_id = next(self._ids)
        try:
            self._process.send({"id": request_id, "op": operation, **arguments})
            frame = self._process.receive(request_id, REPLY_WITHIN_S)
        except TimeoutError:
            self._process.kill("it was too slow")
            raise self._gate(f"did not answer within {REPLY_WITHIN_S:g} s") from None
        except EngineFailure as failure:
            if self._limits.killed_for_memory:
                raise self._gate("was killed for its memory") from failure
            if "RLIMIT" in self._limits.enforced.get("memory", ""):  # libraries abort or crash
                raise self._gate(f"ended ({failure.message})") from failure
            raise
        if "error" in frame:
            raise decode_error(frame["error"])
        return frame["result"]

    def _gate(self, what: str) -> GateError:
        limits = self._limits.limits
        memory = format_bytes(limits.memory_bytes) if limits.memory_bytes else "all"
        size = format_bytes(self._artifact.manifest.total_bytes)
        return GateError(
            f"{self._artifact.manifest.name} ({size}) {what} with {memory} of memory",
            hint="choose a smaller scheme or a shorter context, or widen the limit",
        )


@contextmanager
def _child(artifact: Artifact, limits: Limited) -> Iterator[_Child]:
    check(artifact)
    for path in artifact.path.iterdir():
        forget_file(path)
    process = WorkerProcess(PROGRAM)
    try:
        limits.place(process.pid)
        yield _Child(artifact, limits, process)
    except BaseException:
        process.kill("the measurement was given up")
        raise
    finally:
        process.stop()
        process.release()


def _best(answers: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the figures of the answer whose tokens took the least processor time."""
    return min(answers, key=lambda answer: answer["decode_cpu_s_per_token"])


def _limits(limits: Limited) -> dict[str, Any]:
    return {
        "limits": limits.limits,
        "enforced": dict(limits.enforced),
        "not_enforced": dict(limits.not_enforced),
    }
