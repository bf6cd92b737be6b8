"""Starts the processes of a run on this machine, as torchrun does, and ends as they end.

torchrun itself prints a traceback of its own and leaves with 1, whatever a process left with.
It knows nothing of training.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.errors import UsageError
from edgekit.extras import need


def launch(processes: int, words: Sequence[str]) -> int:
    """Run `python -m edgekit WORDS` in as many processes; return the exit code of the run.

    Raises UsageError for more processes than GPUs, where there are any.
    """
    torch = need("torch", "convert")
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise UsageError(
            f"--processes is {processes}, and this machine has {torch.cuda.device_count()} GPUs"
        )
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex,
        rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", max_restarts=0,
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "edgekit", *words)
    except ChildFailedError as error:
        return _exit_code(error.failures)
    return 0


def _exit_code(failures: Mapping[int, Any]) -> int:
    """Return what a process left with that was not killed: who was told to end says nothing."""
    codes = [failure.exitcode for failure in failures.values()]
    return max((code for code in codes if code > 0), default=1)
