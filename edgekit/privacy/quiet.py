"""The environment in which third-party libraries neither phone home nor look for updates.

Set before any of them is imported: ONNX Runtime, for one, reads its switch only once. It keeps
them quiet; it stops nobody who wants to speak: that is the lock's job.
"""

from __future__ import annotations

import os

# Each name is the one that its library documents; DO_NOT_TRACK is the common convention.
QUIET_ENVIRONMENT = {
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",  # also keeps bitsandbytes and others from fetching native code
    "ORT_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
    "USE_HUB_KERNELS": "0",
}


def apply() -> None:
    """Set `QUIET_ENVIRONMENT` in this process, whatever the user's environment says."""
    os.environ.update(QUIET_ENVIRONMENT)
