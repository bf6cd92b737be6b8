"""Optional dependencies: import one, or say which `pip install` brings it."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgekit.errors import MissingExtraError


def need(module: str, extra: str) -> ModuleType:
    """Return the imported `module`, which the extra `extra` installs.

    Raises MissingExtraError when the module itself is absent. A module that is there but
    fails to import (a broken install) raises its own error: hiding it would send the user
    to reinstall something that is installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"this needs the Python package '{error.name}', which is not installed",
            hint=f"pip install 'edgekit[{extra}]'",
        ) from error
