"""Several processes of one run, forked from the test: as torchrun starts them, but in no time."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path


def forked(
    count: int, act: Callable[[int], None], folder: Path, patience_s: float = 240
) -> tuple[list[int | None], list[str]]:
    """Run `act`, with its number, in `count` processes that torch's environment says belong
    together. Returns what each left with, and what each wrote to stderr into `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    errors = [folder / f"stderr-{rank}" for rank in range(count)]

    def start(rank: int) -> BaseProcess:
        process = context.Process(target=_act, args=(rank, count, port, errors[rank], act))
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
    }  # fmt: skip
    handle = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 2)
    os.dup2(handle, 1)
    import torch

    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    act(rank)
