"""What can go wrong with an engine that is nobody's input: it failed, or its process died."""

from __future__ import annotations

from edgekit.errors import EdgekitError


class EngineFailure(EdgekitError):  # noqa: N818 - "failure" is what it is
    """An engine gave up, or the process it runs in ended. The model must be loaded again."""
