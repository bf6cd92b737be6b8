"""Starts the processes under test, each with listeners of its own, and judges what came of it.

Knows the probe only by what it reports and what the listeners heard: an attempt counts as refused
if it failed there and nothing of it arrived here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from edgekit.errors import EdgekitError, EngineFailure, PrivacyError
from edgekit.workflows.privacy.channels import mark, token
from edgekit.workflows.privacy.listeners import Listeners
from edgekit.workflows.privacy.probe import all_channels
from runtimes.process import WorkerProcess
from runtimes.shared_logits import SharedLogits
from runtimes.wire import Frame, FrameReader, WireError, decode_error

TIMEOUT_S = 180.0
_PROGRAM = """
from edgekit.workflows.privacy import probe
probe.{role}(json.loads({request!r}))
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one attempt: the evidence of its failure, None if it did not fail, and how
    often a listener heard of it.
    """

    name: str
    failure: str | None
    heard: int

    @property
    def refused(self) -> bool:
        """Return whether it failed and nothing arrived."""
        return self.failure is not None and self.heard == 0

    @property
    def evidence(self) -> str:
        """Return why it failed, or what got through."""
        arrived = f"heard {self.heard} times by a listener" if self.heard else ""
        if self.failure is None:
            return arrived or "the call succeeded"
        return f"{self.failure}, yet {arrived}" if arrived else self.failure


@dataclass(frozen=True, slots=True)
class Examined:
    """One process under test. `strangers` counts what arrived with no known sender.

    `status` is of /proc/self/status, `report` the LockReport as a dictionary, both as the process
    itself saw them; `engine` is what engine_under_test.use returns. `failure` says why there are
    no attempts.
    """

    name: str
    attempts: tuple[Attempt, ...] = ()
    available: frozenset[str] = frozenset()
    strangers: int = 0
    status: Mapping[str, int] = field(default_factory=dict)
    network_namespace: str = ""
    report: Mapping[str, Any] | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


def run(
    role: str,
    name: str,
    channels: Sequence[str],
    *,
    weaker: str = "",
    writable: Sequence[Path] = (),
    **extra: Any,
) -> Examined:
    """Run the probe's function `role` in a process of its own and return what came of it.

    A process that fails is a finding, not an exception; only a lock that cannot be had is raised,
    as PrivacyError.
    """
    with Listeners() as listeners:
        request = {
            "nonce": uuid4().hex[:12],
            "targets": listeners.targets,
            "channels": list(channels),
            "control": role == "control",
            "weaker": weaker,
            "writable": [str(path) for path in writable],
            **extra,
        }
        try:
            found = _exchange(role, request)
            return _judge(name, request["nonce"], found, listeners)
        except PrivacyError:
            raise
        except (EdgekitError, TimeoutError, WireError, KeyError, TypeError, ValueError) as error:
            why = error.message if isinstance(error, EdgekitError) else f"{error!r:.200}"
            return Examined(name, failure=why)


def _judge(name: str, nonce: str, found: Frame, listeners: Listeners) -> Examined:
    listeners.settle()
    attempts = tuple(
        Attempt(a["name"], a["evidence"], listeners.heard(token(nonce, a["name"])))
        for a in found["attempts"]
    )
    return Examined(
        name,
        attempts,
        frozenset(listeners.available),
        listeners.strangers(mark(nonce)),
        found["status"],
        found["network_namespace"],
        found["report"],
        found.get("engine", {}),
    )


def _exchange(role: str, request: dict[str, Any]) -> Frame:
    """Start the process, let it load, and return its findings. Raises what went wrong in it."""
    findings, findings_in = os.pipe()
    logits = SharedLogits()
    request["findings_handle"] = findings_in
    program = _PROGRAM.format(role=role, request=json.dumps(request))
    try:
        try:
            process = WorkerProcess(program, [findings_in, logits.handle])
        finally:
            os.close(findings_in)
        try:
            if role == "engine":
                process.send({"id": 0, "op": "load", "logits_handle": logits.handle})
            return _findings(process, FrameReader(findings))
        finally:
            process.kill("the test of this process is over")
            process.stop()
            process.release()
    finally:
        os.close(findings)
        logits.close()


def _findings(process: WorkerProcess, reader: FrameReader) -> Frame:
    found = reader.read(TIMEOUT_S)
    if found is None:
        raise _why(process)
    if "error" in found:
        raise decode_error(found["error"])
    return found


def _why(process: WorkerProcess) -> Exception:
    """Return the error that a worker sent instead of findings, or how it died."""
    try:
        reply = process.receive(0, 1.0)
    except (EngineFailure, TimeoutError):
        return process.death()
    return decode_error(reply["error"]) if "error" in reply else process.death()


def names() -> list[str]:
    """Return the names of the channels of this machine."""
    return [channel.name for channel in all_channels()]
