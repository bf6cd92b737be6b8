"""Several processes of one run, forked from the test: as torchrun starts them, but in no time."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path


def forked(
    count: int, act: Callable[[int], None], folder: Path, patience_s: float = 240
) -> tuple[list[int | None], list[str]]:
    """Run `act`, with its number, in `count` processes that torch's environment says belong
    together. Returns what each left with, and what each wrote to stderr into `folder`."""
    from torch.distributed import TCPStore

    # Where they meet is with whoever started them, as with torchrun, and outlives each of them.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("fork")
    errors = [folder / f"stderr-{rank}" for rank in range(count)]

    def start(rank: int) -> BaseProcess:
        process = context.Process(target=_act, args=(rank, count, store.port, errors[rank], act))
        process.start()
        return process

    processes = [start(rank) for rank in range(count)]
    for process in processes:
        process.join(patience_s)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes], [path.read_text() for path in errors]


def _act(rank: int, count: int, port: int, errors: Path, act: Callable[[int], None]) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    sys.stdout = sys.stderr = errors.open("w", buffering=1)  # pytest had put its own there
    os.dup2(sys.stderr.fileno(), 2)
    import torch

    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    act(rank)
