"""What the lock of privacy mode costs a process at its start, with what it imports.

    python tests/benchmarks/privacy_lock.py [--processes N]

Each is a new process, with byte code as installed packages have it. Prints the processor time of
the best and of the median, in milliseconds: the rest is what other programs of a busy machine do.
Below 10 is the aim. A process is locked for good, so that no two can be measured in one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from statistics import median

CODE = """
import sys, time
from pathlib import Path
from edgekit.privacy.lock import lock
started_s = time.process_time()
lock(writable=(Path(sys.argv[1]),))
print(time.process_time() - started_s)
"""


def cost_ms(folder: str) -> float:
    """Return the processor time of the lock in a new process that may write into `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, folder], check=True, capture_output=True, text=True
    )
    return 1000 * float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cost_ms(folder)  # which writes the byte code
        costs = [cost_ms(folder) for _ in range(arguments.processes)]
    print(f"best {min(costs):.1f} ms, median {median(costs):.1f} ms of {len(costs)} processes")


if __name__ == "__main__":
    main()
