"""Several processes that train one model together: who they are, and what they tell each other.

torchrun starts them, says to each which one it is, and where they meet. Numbers and JSON go
between them, never pickles. It knows neither models nor text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from edgekit.errors import EdgekitError, EngineFailure, UsageError
from edgekit.extras import need

# The first process may read and check data for hours while the others wait. One that dies is
# noticed at once, by its closed connections and by torchrun.
PATIENCE = timedelta(hours=12)
INTERRUPTED = 130
LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Team:
    """`size` processes, of which this is number `rank`. Only the first, 0, reads data, prints and
    writes. Every process must make the same calls in the same order: they wait for each other."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Return whether this process speaks and writes for all."""
        return self.rank == 0

    def agree(self, value: Value) -> Value:
        """Return the first process's `value`, plain JSON, in every process."""
        if self.size == 1:
            return value
        import torch

        said = json.dumps(value).encode() if self.is_first else b""
        length = torch.tensor([len(said)])
        torch.distributed.broadcast(length, 0)
        letters = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_first:
            letters = torch.frombuffer(bytearray(said), dtype=torch.uint8)
        torch.distributed.broadcast(letters, 0)
        agreed: Value = json.loads(bytes(letters.tolist()))
        return agreed

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Return what `make` returns in the first process, plain JSON; no other calls it."""
        # only the first process's value is looked at
        return self.agree(make() if self.is_first else None)  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait until every process is here."""
        self.total(0.0)

    def total(self, value: float) -> float:
        """Return the sum of all processes' `value`, in float64."""
        if self.size == 1:
            return value
        import torch

        summed = torch.tensor([value], dtype=torch.float64)
        torch.distributed.all_reduce(summed)
        return float(summed)


ALONE = Team()


def shares(batch: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Divide `batch` among `count` processes, each about as many tokens; a share may be empty.

    The longest first, each to whoever has the fewest tokens yet (Graham 1969, "Bounds on
    multiprocessing timing anomalies": at most 4/3 of the best division).
    """
    found: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    for index in sorted(batch, key=lambda i: (-lengths[i], i)):
        process = tokens.index(min(tokens))
        found[process].append(index)
        tokens[process] += lengths[index]
    return found


@contextmanager
def joined() -> Iterator[Team]:
    """Join the processes that torchrun started with this one, and yield the team.

    Without torchrun it is a team of one. An error is told by one process alone; the others leave
    in silence with the same exit code. Raises UsageError where the processes cannot meet,
    EngineFailure where another one ended in the middle of the run.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    team, store = _meet()
    try:
        yield team
    except EdgekitError as error:
        _tell_once(team, store, error.exit_code, error)
        raise
    except KeyboardInterrupt as error:
        _tell_once(team, store, INTERRUPTED, error)
        raise
    except RuntimeError as error:
        if not any(word in str(error) for word in LOST):
            raise
        lost = EngineFailure(
            f"another one of the {team.size} processes of this run has ended",
            hint="run the same command again: it goes on from the last state that was saved",
        )
        _tell_once(team, store, lost.exit_code, error)
        raise lost from error
    _part()


def _meet() -> tuple[Team, Any]:
    torch = need("torch", "convert")
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= devices:
            raise UsageError(
                f"process {local} of this machine has no GPU: there are {devices}",
                hint=f"give torchrun --nproc-per-node {devices}",
            )
        torch.cuda.set_device(local)
    try:
        store, rank, size = next(torch.distributed.rendezvous("env://"))
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if has_cuda else "gloo",
            store=store, rank=rank, world_size=size, timeout=PATIENCE,
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"the processes of this run cannot meet: {str(error).splitlines()[0]}",
            hint="start them with torchrun; without it, WORLD_SIZE must not be set",
        ) from error
    return Team(rank, size), store


def _part() -> None:
    import torch

    torch.distributed.destroy_process_group()


def _tell_once(team: Team, store: Any, exit_code: int, error: BaseException) -> None:
    """Return in the one process that is to tell of an error; the others leave here."""
    mine = f"{team.rank} {exit_code}"
    try:
        told = store.compare_set("told", "", mine).decode()
    except RuntimeError:  # the meeting place has gone too: better twice than never
        return
    if told != mine:
        raise SystemExit(int(told.split()[1])) from error
