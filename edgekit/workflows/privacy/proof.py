"""privacy check: every way out is tried, in the chat's process and in each engine's.

The control, a process without a lock, makes the same attempts and must be heard: a proof that
could not fail would prove nothing.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import store
from edgekit.artifact import FORMATS, MANIFEST_NAME, Artifact
from edgekit.errors import EdgekitError, PrivacyError
from edgekit.privacy.lock import WEAKER_VARIABLE
from edgekit.progress import Progress
from edgekit.workflows.privacy.engine_under_test import LIBRARIES
from edgekit.workflows.privacy.probe import all_channels, network_namespace
from edgekit.workflows.privacy.processes import Examined, names, run
from edgekit.workflows.privacy.stored import Stored, stored

NOT_COVERED = (
    "the screen, its scroll-back, and what a terminal or SSH carries of it",
    "the clipboard, exports, and files that you save elsewhere",
    "screen readers, key loggers, and who looks over your shoulder",
    "root, and other programs of yours: they can read files, and memory on some systems",
    "traffic of other programs, a browser that you open a link in included",
    "swap and hibernation: text in memory may be written to disk; encrypt the swap",
    "copies from earlier: backups, snapshots, flash memory's old blocks, sync folders",
    "what the encrypted store shows: how many records, about how large, when it changed",
    "what a model was made to say: a lock does not make a model file honest",
    "graphics drivers and the kernel itself: a fault there passes any lock",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One attempt in one process. `control_reached`: whether the same attempt got through without
    a lock, None where this machine cannot make it at all (`control_evidence` says why).
    """

    name: str
    process: str
    refused: bool
    evidence: str
    heard: int
    control_reached: bool | None
    control_evidence: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What was tried, what is stored and what is not covered. `faults` are sentences; a lock that
    holds leaves none.
    """

    channels: tuple[Row, ...]
    stored: tuple[Stored, ...]
    lock: Mapping[str, Any]
    engines: Mapping[str, Mapping[str, Any]]
    not_covered: tuple[str, ...]
    faults: tuple[str, ...]

    def enforce(self) -> None:
        """Raise PrivacyError if anything got through, or something could not be tested."""
        if self.faults:
            more = f", and {len(self.faults) - 1} more" if len(self.faults) > 1 else ""
            raise PrivacyError(
                f"the lock does not hold here: {self.faults[0]}{more}",
                hint="do not rely on privacy mode on this system; edgekit privacy check --json "
                "has the evidence",
            )


def prove(weaker: str, progress: Progress) -> Proof:
    """Test the chat's lock and each installed engine's; `weaker` is the lock accepted, or "".

    A lock that does not hold, or cannot be had, is among the proof's faults; see Proof.enforce.
    """
    weaker = weaker or os.environ.get(WEAKER_VARIABLE, "")
    engines = [name for name in FORMATS if _installed(name)]
    with progress.task("trying every way out", 3 + len(engines), "processes") as advance:
        control = run("control", "control", names())
        advance(1)
        try:
            tested = []
            for process in _locked(weaker, engines):
                tested.append(process)
                advance(1)
        except PrivacyError as error:
            return _proof(control, [], [error.message])
    return _proof(control, tested, [])


def _locked(weaker: str, engines: Sequence[str]) -> Iterator[Examined]:
    """Run each locked process. The thread from before the lock has a chat of its own to be in:
    it keeps the process out of a network namespace, which the chat itself enters.
    """
    older = "older_thread"
    alone = [name for name in names() if name != older]
    yield run("chat", "chat", alone, weaker=weaker, writable=_writable())
    if weaker != "namespace":
        yield run("chat", "chat", [older], weaker=weaker, writable=_writable())
    tried = alone if weaker == "namespace" else names()
    for engine in engines:
        artifact = str(_newest(engine) or "")
        yield run(
            "engine", f"{engine} engine", tried, weaker=weaker, engine=engine, artifact=artifact
        )


def _proof(control: Examined, tested: Sequence[Examined], faults: list[str]) -> Proof:
    order = {name: place for place, name in enumerate(names())}
    rows = tuple(row for process in tested for row in _rows(process, control))
    rows = tuple(sorted(rows, key=lambda row: order[row.name]))
    faults += [
        f"{r.name} got through in the {r.process} ({r.evidence})" for r in rows if not r.refused
    ]
    for process in tested:
        faults += _faults(process)
    if control.failure:
        faults.append(f"the control without a lock failed: {control.failure}")
    return Proof(
        channels=rows,
        stored=tuple(stored()),
        lock=_lock(tested),
        engines={name: _engine(name, tested) for name in FORMATS},
        not_covered=NOT_COVERED,
        faults=tuple(faults),
    )


def _rows(process: Examined, control: Examined) -> Iterator[Row]:
    found = {attempt.name: attempt for attempt in control.attempts}
    for attempt in process.attempts:
        free = found.get(attempt.name)
        yield Row(
            attempt.name,
            process.name,
            attempt.refused,
            attempt.evidence,
            attempt.heard,
            _reached(attempt.name, control),
            free.evidence if free else control.failure,
        )


def _reached(name: str, control: Examined) -> bool | None:
    """Return whether the control got through, None if this machine cannot make the attempt."""
    attempt = next((a for a in control.attempts if a.name == name), None)
    if attempt is None or (attempt.failure is not None and not attempt.heard):
        return None
    listeners = next((c.listeners for c in all_channels() if c.name == name), ())
    if not listeners or attempt.heard:
        return True
    return False if control.available.issuperset(listeners) else None


def _faults(process: Examined) -> list[str]:
    """Return what is wrong with a locked process beside the attempts that got through."""
    if process.failure:
        return [f"the {process.name} could not be tested: {process.failure}"]
    faults = []
    if process.strangers:
        faults.append(
            f"{process.strangers} unknown messages arrived while the {process.name} was tested"
        )
    report = process.report or {}
    if report.get("strength") == "kernel":
        for name, wanted in (("Seccomp", 2), ("NoNewPrivs", 1)):
            if process.status.get(name) != wanted:
                shown = process.status.get(name)
                faults.append(f"the kernel shows {name}: {shown} for the {process.name}")
    elif not report:
        faults.append(f"the {process.name} did not lock itself")
    return faults


def _lock(tested: Sequence[Examined]) -> dict[str, Any]:
    """Return the chat's lock and the kernel's evidence for each process."""
    chat = next((p for p in tested if p.name == "chat" and p.report), None)
    report = dict(chat.report) if chat is not None and chat.report else {"strength": None}
    shown: dict[str, Any] = {}
    for process in tested:
        if not process.failure:
            shown.setdefault(process.name, _evidence(process))
    return {
        **report,
        "kernel_release": platform.release(),
        "machine": platform.machine(),
        "processes": shown,
    }


def _evidence(process: Examined) -> dict[str, Any]:
    own = process.network_namespace not in ("", network_namespace())
    return {
        "seccomp": process.status.get("Seccomp"),
        "no_new_privs": process.status.get("NoNewPrivs"),
        "seccomp_filters": process.status.get("Seccomp_filters"),
        "threads": process.status.get("Threads"),
        "own_network_namespace": own,
        "landlock_abi": (process.report or {}).get("landlock_abi", 0),
    }


def _engine(name: str, tested: Sequence[Examined]) -> dict[str, Any]:
    if not _installed(name):
        return {"state": "not installed", "answer_tokens": 0, "detail": ""}
    process = next((p for p in tested if p.name == f"{name} engine"), None)
    if process is None or process.failure:
        why = process.failure if process else "the lock cannot be had"
        return {"state": "not tested", "answer_tokens": 0, "detail": why}
    return dict(process.engine)


def _installed(engine: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in LIBRARIES[engine])


def _newest(engine: str) -> Path | None:
    """Return the newest artifact in the store that `engine` can open."""
    folders = store.list_artifacts()
    folders.sort(key=lambda path: (path / MANIFEST_NAME).stat().st_mtime, reverse=True)
    for folder in folders:
        try:
            manifest = Artifact.open(folder).manifest
            if manifest.format == engine and manifest.task is None:
                return folder
        except EdgekitError:  # a damaged one is not this command's business
            continue
    return None


def _writable() -> list[Path]:
    """Return the folders that a private chat may write, as far as they are there."""
    return [path for path in (store.chats(), store.home() / "exports") if path.is_dir()]
