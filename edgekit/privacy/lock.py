"""Lock this process, its threads and its children off the network, and say how well that holds.

Call it before any user text is loaded and before any library from outside is imported. There is no
way back. Knows nothing of chats or engines.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from edgekit.errors import PrivacyError, UsageError
from edgekit.privacy import quiet

PRIVATE_VARIABLE = "EDGEKIT_PRIVATE"
WEAKER_VARIABLE = "EDGEKIT_WEAKER_LOCK"

Strength = Literal["kernel", "namespace", "python"]
Weaker = Literal["namespace", "python"]

_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class LockReport:
    """What holds this process.

    `strength` is the strongest lock in force: "kernel" (a seccomp filter), "namespace" (only a
    network namespace of its own) or "python" (only an audit hook of the interpreter). `seccomp`:
    the filter is installed in all threads and passed its self-test. `namespace`: the process sees
    no network card but a loopback of its own. `landlock_abi` is the version of the file rules, 0
    if none are in force; `writable` are the folders that they leave. `closed` and `left_open`
    describe the descriptors that were closed before the lock and the sockets that stay open.
    `missing` has one sentence for each layer that this system lacks. `seconds` is what locking
    cost, imports included.
    """

    strength: Strength
    seccomp: bool
    namespace: bool
    landlock_abi: int
    writable: tuple[str, ...]
    closed: tuple[str, ...]
    left_open: tuple[str, ...]
    missing: tuple[str, ...]
    seconds: float


_report: LockReport | None = None


def lock(*, writable: Sequence[Path] | None, weaker: Weaker | None = None) -> LockReport:
    """Lock this process for good and return what now holds it. A second call tightens the lock.

    `writable` are the only folders that may still be written, beside the null devices and the
    process's own terminal; None leaves files alone. `weaker` is what the user accepts where the
    kernel cannot do better; by default what EDGEKIT_WEAKER_LOCK names. Sets the environment so
    that children lock themselves too.

    Raises PrivacyError where neither the kernel's filter nor an accepted lock can be had, or where
    the self-test finds a surprise; InputError for a writable folder that is not there; UsageError.
    """
    global _report
    started_s = time.perf_counter()
    accepted = weaker or _accepted()
    quiet.apply()
    try:
        _report = _on_linux(writable, accepted) if sys.platform == "linux" else _elsewhere(accepted)
    except OSError as error:
        raise PrivacyError(
            f"privacy mode does not start: {error}",
            hint="please report this, with the name of your system",
        ) from error
    os.environ[PRIVATE_VARIABLE] = "1"
    if accepted:
        os.environ[WEAKER_VARIABLE] = accepted
    _report = replace(_report, seconds=time.perf_counter() - started_s)
    return _report


def current() -> LockReport | None:
    """Return the report of the last lock of this process, or None if it is not locked."""
    return _report


def wanted() -> bool:
    """Return whether the user wants privacy mode: EDGEKIT_PRIVATE if set, else the setting.

    Raises UsageError for a value that is neither yes nor no, InputError for broken settings.
    """
    value = os.environ.get(PRIVATE_VARIABLE)
    if value is None:
        from edgekit.settings import load_settings

        return load_settings().private
    if value.lower() not in _YES + _NO:
        raise UsageError(
            f"{PRIVATE_VARIABLE} is '{value:.40}', which is neither yes nor no",
            hint=f"set it to 1 or 0, or unset it: unset {PRIVATE_VARIABLE}",
        )
    return value.lower() in _YES


def refuse_network(source: str) -> None:
    """Raise PrivacyError in privacy mode, before `source` on the network is even looked up."""
    if _report is not None or wanted():
        raise PrivacyError(
            f"privacy mode is on, and {source} is on the network: it was not asked for",
            hint=f"fetch it without privacy mode ({PRIVATE_VARIABLE}=0), or copy it here by hand",
        )


def _accepted() -> Weaker | None:
    value = os.environ.get(WEAKER_VARIABLE)
    if not value:
        return None
    if value not in get_args(Weaker):
        raise UsageError(
            f"{WEAKER_VARIABLE} is '{value:.40}', which names no lock",
            hint=f"known are: {', '.join(get_args(Weaker))}",
        )
    return cast(Weaker, value)


def _on_linux(writable: Sequence[Path] | None, accepted: Weaker | None) -> LockReport:
    # All of them before the file rules, under which Python could not keep their byte code: it
    # would compile the last two at every start.
    from edgekit.privacy import descriptors, kernel, landlock, namespace, seccomp, selftest

    del seccomp, selftest
    missing = []
    closed = descriptors.close_sockets()
    if why_no_namespace := namespace.enter():
        missing.append(why_no_namespace)
    abi = landlock.version()
    threads = len(kernel.threads())
    if abi == 0:
        missing.append("no file rules: this kernel has no Landlock (Linux 5.13), or it is off")
    else:
        landlock.restrict(abi, writable)
        if threads > 1:
            missing.append(f"no file rules for {threads - 1} threads that ran before the lock")
    kernel.no_core_dumps()
    why_no_filter = _install_filter()
    if why_no_filter:
        missing.append(why_no_filter)
        strength = _weaker_strength(accepted, namespace=not why_no_namespace, why=why_no_filter)
    else:
        strength = "kernel"
        closed += descriptors.close_sockets()  # what another thread opened meanwhile
    has_file_rules = abi > 0 and writable is not None
    return LockReport(
        strength=strength,
        seccomp=strength == "kernel",
        namespace=not why_no_namespace,
        landlock_abi=abi if has_file_rules else 0,
        writable=tuple(str(folder) for folder in writable or ()) if has_file_rules else (),
        closed=closed,
        left_open=descriptors.sockets_left(),
        missing=tuple(missing),
        seconds=0.0,
    )


def _install_filter() -> str:
    """Install and test the filter; return why this system has none, or nothing."""
    from edgekit.privacy import architecture, seccomp, selftest

    ours = architecture.of_this_process()
    if ours is None:
        return f"no system call filter: edgekit has none for {os.uname().machine} processors"
    before = seccomp.filters()
    try:
        seccomp.install(ours)
    except OSError as error:
        return f"no system call filter: the kernel refuses seccomp ({error.strerror})"
    after = seccomp.filters()
    if before is not None and after != before + 1:
        raise PrivacyError(f"privacy mode does not start: the kernel counts {after} filters")
    selftest.filter_holds(ours)
    return ""


def _elsewhere(accepted: Weaker | None) -> LockReport:
    why = f"no system call filter: it needs Linux, and this is {sys.platform}"
    strength = _weaker_strength(accepted, namespace=False, why=why)
    return LockReport(strength, False, False, 0, (), (), (), (why,), 0.0)


def _weaker_strength(accepted: Weaker | None, *, namespace: bool, why: str) -> Strength:
    """Return the best lock that is left, tested, if the user has accepted it."""
    from edgekit.privacy import audit, selftest

    if accepted is None or (accepted == "namespace" and not namespace):
        raise _refusal(why, accepted, namespace)
    if namespace:
        selftest.namespace_holds()
    audit.install()
    selftest.python_holds()
    return "namespace" if namespace else "python"


def _refusal(why: str, accepted: Weaker | None, namespace: bool) -> PrivacyError:
    what = why.removeprefix("no system call filter: ")
    best = "namespace" if namespace else "python"
    names = "an empty network namespace" if namespace else "only Python's own sockets refused"
    also = ", nor put edgekit into a network namespace" if accepted == "namespace" else ""
    return PrivacyError(
        f"privacy mode does not start: this system cannot filter system calls{also}: {what}",
        hint=f"to accept a weaker lock, {names}: --weaker-lock {best} or {WEAKER_VARIABLE}={best}",
    )
