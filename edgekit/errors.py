"""The errors a user can meet, one tree, each with its exit code.

    EdgekitError                 1   (never raised itself)
    ├── EngineFailure            1   an engine gave up or its process died
    ├── UsageError               2   the command line asks for something impossible
    ├── InputError               3   a file, archive, prompt or configuration is bad
    ├── MissingExtraError        4   an optional part is not installed
    ├── GateError                5   a limit is not met: does not fit, too slow, answers worse
    └── PrivacyError             6   refused by privacy mode

Any other exception is a bug of ours: its traceback is kept and the exit code is 1.
"""

from __future__ import annotations


class EdgekitError(Exception):
    """A problem that is explained to the user in one sentence.

    `message` says what is wrong and where, with both numbers where there are two;
    `hint` says the next step, or is empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class EngineFailure(EdgekitError):  # noqa: N818 - "failure" is what it is
    """An engine gave up, or the process it runs in ended. The model must be loaded again."""


class UsageError(EdgekitError):
    """The command line asks for something that cannot be done."""

    exit_code = 2


class InputError(EdgekitError):
    """A file, an archive, a prompt or a configuration is bad."""

    exit_code = 3


class MissingExtraError(EdgekitError):
    """An optional part of edgekit is not installed."""

    exit_code = 4


class GateError(EdgekitError):
    """A limit is not met: it does not fit, is too slow, or answers worse than asked."""

    exit_code = 5


class PrivacyError(EdgekitError):
    """Privacy mode refuses to go on."""

    exit_code = 6
