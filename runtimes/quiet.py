"""The quiet environment for the engines: the one of edgekit.privacy.quiet, under a room's name."""

from __future__ import annotations

from edgekit.privacy.quiet import QUIET_ENVIRONMENT, apply

__all__ = ["QUIET_ENVIRONMENT", "apply"]
