"""The environment in which third-party libraries neither phone home nor look for updates.

Set before any of them is imported: ONNX Runtime, for one, reads its switch only once. It keeps
them quiet; it stops nobody who wants to speak: that is the lock's job.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Each name is the one that its library documents; DO_NOT_TRACK is the common convention.
QUIET_ENVIRONMENT = {
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # no login is sent along, whatever asks
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",  # also keeps bitsandbytes and others from fetching native code
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # torch makes this folder when it is imported, which a locked process may not: one that is there
    "TORCHINDUCTOR_CACHE_DIR": sys.prefix,
    "TRANSFORMERS_OFFLINE": "1",
    "USE_HUB_KERNELS": "0",
}
# Textual's switches that write what is on the screen to a file, or send it to another program.
LOUD_VARIABLES = (
    "TEXTUAL",
    "TEXTUAL_DEBUG",
    "TEXTUAL_LOG",
    "TEXTUAL_SCREENSHOT",
    "TEXTUAL_SCREENSHOT_LOCATION",
)


def apply() -> None:
    """Set `QUIET_ENVIRONMENT` in this process and remove `LOUD_VARIABLES`, if they are there."""
    os.environ.update(QUIET_ENVIRONMENT)
    for name in LOUD_VARIABLES:
        os.environ.pop(name, None)


def refuse_hub_kernels() -> None:
    """Make the package `kernels` count as not installed in this process.

    bitsandbytes and transformers let it fetch native code from a hub, or run what it fetched
    before. Call this before they are imported.
    """
    sys.modules["kernels"] = None  # type: ignore[assignment]  # so the language says "absent"


@contextmanager
def applied() -> Iterator[None]:
    """Do what `apply` does until the end of the context: for a process that may pull later."""
    before = {name: os.environ.get(name) for name in (*QUIET_ENVIRONMENT, *LOUD_VARIABLES)}
    apply()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
