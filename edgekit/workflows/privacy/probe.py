"""Makes every attempt inside a process and tells its parent what came of each.

Three processes run this: the control, which is never locked; the chat, locked as `edgekit chat
--private` locks itself; and an engine's real worker, locked as the worker locks itself. Started by
edgekit.workflows.privacy.processes; the findings go through a pipe of their own.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from edgekit.errors import EdgekitError
from edgekit.workflows.privacy import channels
from edgekit.workflows.privacy.channels import Channel, Refused, Scene, both, token
from edgekit.workflows.privacy.earlier import Earlier
from runtimes.wire import Frame, FrameWriter, encode_error

Attempt = Callable[[Scene, bytes], None]

CHILD_TIMEOUT_S = 20.0
THREAD_TIMEOUT_S = 20.0
EVIDENCE = ("NoNewPrivs", "Seccomp", "Seccomp_filters", "Threads")
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from edgekit.workflows.privacy.probe import in_child
in_child(*map(json.loads, sys.argv[2:]))
"""
_INTERNET = ("tcp4", "udp4")


def all_channels() -> list[Channel]:
    """Return the channels of this machine, in the order in which they are shown."""
    found = [
        Channel("tcp4", channels.tcp4, ("tcp4",)),
        Channel("tcp6", channels.tcp6, ("tcp6",)),
        Channel("udp4", channels.udp4, ("udp4",)),
        Channel("udp6", channels.udp6, ("udp6",)),
        Channel("dns_lookup", partial(_in_new_thread, channels.dns_lookup), ("dns",)),
        Channel("dns_packet", channels.dns_packet, ("dns",)),
        Channel("tcp_fastopen", channels.fastopen, ("tcp4",)),
        Channel("multipath_tcp", channels.multipath, ("tcp4",)),
        Channel("smc", channels.smc, ("tcp4",)),
        Channel("icmp", channels.icmp),
        Channel("packet", channels.packet),
        Channel("netlink", channels.netlink),
        Channel("vsock", channels.vsock, ("vsock",)),
        Channel("bluetooth", channels.bluetooth),
        Channel("af_alg", channels.kernel_crypto),
        Channel("unix_path", channels.unix_path, ("unix_path",)),
        Channel("unix_datagram", channels.unix_datagram, ("unix_datagram",)),
        Channel("unix_abstract", channels.unix_abstract, ("unix_abstract",)),
        Channel("io_uring", channels.io_uring),
        Channel("direct_syscall", channels.direct_call, ("udp4",)),
        Channel("older_thread", _in_older_thread, _INTERNET),
        Channel("newer_thread", partial(_in_new_thread, both), _INTERNET),
        Channel("child_process", partial(_in_child, "both"), _INTERNET),
        Channel("earlier_tcp", channels.earlier_tcp, ("tcp4",)),
        Channel("earlier_udp", channels.earlier_udp, ("udp4",)),
        Channel("af_unspec_reconnect", channels.reconnect, ("tcp4",)),
        Channel("asyncio", channels.asyncio_stream, ("tcp4",)),
        Channel("urllib", channels.urllib_request, ("tcp4",)),
    ]
    if channels.on_x86_64():
        found += [
            Channel("x32_syscall", partial(_in_child, "x32"), ("udp4",)),
            Channel("i386_syscall", partial(_in_child, "i386"), ("udp4",)),
        ]
    return found


def control(request: Frame) -> None:
    """Make the attempts of `request` in a process without a lock, where they must succeed."""
    _quiet()
    _report(request, _findings(request, _scene(request)))


def chat(request: Frame) -> None:
    """Lock this process as the chat does, then make the attempts of `request`."""
    _quiet()
    scene = _scene(request)
    try:
        _lock(request)
    except EdgekitError as error:
        _report(request, {"error": encode_error(error)})
        return
    _report(request, _findings(request, scene))


def engine(request: Frame) -> None:
    """Be the engine's worker, which locks itself, and make the attempts while a model answers."""
    os.environ["EDGEKIT_PRIVATE"] = "1"
    if request["weaker"]:
        os.environ["EDGEKIT_WEAKER_LOCK"] = request["weaker"]
    scene = _scene(request)  # before the lock: the worker locks itself inside `serve`
    from edgekit.workflows.privacy.engine_under_test import use
    from runtimes import worker

    def open_runtime(_first: Frame) -> NoReturn:
        findings: list[Frame] = []
        used = use(request, lambda: findings.append(_findings(request, scene)))
        _report(request, findings[0] | {"engine": used})
        os._exit(0)  # an engine in the middle of an answer cannot be unwound, only left

    worker.serve(open_runtime)


def in_child(targets: dict[str, Any], nonce: str, name: str, data: str) -> None:
    """Make one attempt in this fresh process and print what came of it as JSON."""
    scene = Scene(targets, nonce)
    attempts: dict[str, Attempt] = {"both": both, "x32": channels.x32, "i386": channels.i386}
    print(json.dumps(_outcome(lambda: attempts[name](scene, data.encode()))))


def _quiet() -> None:
    from edgekit.privacy import quiet

    quiet.apply()


def _lock(request: Frame) -> None:
    from edgekit.privacy.lock import lock

    lock(writable=[Path(p) for p in request["writable"]], weaker=request["weaker"] or None)


def _scene(request: Frame) -> Scene:
    """Open what must be open before the lock, and return all that an attempt needs."""
    nonce, targets = request["nonce"], request["targets"]
    needs_thread = "older_thread" in request["channels"]
    earlier = Earlier(targets, token(nonce, "before"), thread=needs_thread)
    return Scene(targets, nonce, earlier, control=request["control"])


def _findings(request: Frame, scene: Scene) -> Frame:
    """Make the attempts and return what came of each, with the kernel's evidence."""
    asked = [c for c in all_channels() if c.name in request["channels"]]
    attempts = []
    for channel in asked:
        data = token(scene.nonce, channel.name)
        evidence = _outcome(partial(channel.attempt, scene, data))
        attempts.append({"name": channel.name, "evidence": evidence})
    return {"attempts": attempts, **_kernel_facts()}


def _outcome(attempt: Callable[[], None]) -> str | None:
    """Return why an attempt failed, or None if it got through as far as it knows."""
    try:
        attempt()
    except Refused as refused:
        return str(refused)
    except OSError as error:
        return f"{channels.error_name(error)} outside a known call"
    except Exception as error:  # whatever a library makes of a refused call
        return f"{type(error).__name__}: {error}"
    return None


def _kernel_facts() -> Frame:
    """Return what the kernel says of this process, and what the lock says of itself."""
    from edgekit.privacy.lock import current

    report = current()
    return {
        "status": _status(),
        "network_namespace": network_namespace(),
        "report": None if report is None else asdict(report),
    }


def _status() -> dict[str, int]:
    """Return the lines of /proc/self/status that tell of a lock; none off Linux."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    pairs = (line.split(":\t") for line in lines.splitlines() if ":\t" in line)
    return {name: int(value) for name, value in pairs if name in EVIDENCE}


def network_namespace() -> str:
    """Return the kernel's name for this process's network namespace, empty off Linux."""
    try:
        return str(Path("/proc/self/ns/net").readlink())
    except OSError:
        return ""


def _report(request: Frame, findings: Frame) -> None:
    FrameWriter(request["findings_handle"]).write({"id": 0, **findings})


def _in_older_thread(scene: Scene, data: bytes) -> None:
    if scene.earlier is None:
        raise Refused("no thread was started earlier")
    _elsewhere(both, scene, data, scene.earlier.in_older_thread)


def _in_new_thread(attempt: Attempt, scene: Scene, data: bytes) -> None:
    def start(work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()

    _elsewhere(attempt, scene, data, start)


def _elsewhere(
    attempt: Attempt, scene: Scene, data: bytes, start: Callable[[Callable[[], None]], None]
) -> None:
    """Make an attempt in the thread that `start` gives work to, and wait for it."""
    outcomes: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    start(lambda: outcomes.put(_outcome(lambda: attempt(scene, data))))
    _raise(outcomes.get(timeout=THREAD_TIMEOUT_S))


def _in_child(name: str, scene: Scene, data: bytes) -> None:
    """Make an attempt in a fresh Python, which inherits the lock and nothing else."""
    words = [json.dumps(v) for v in (sys.path, scene.targets, scene.nonce, name, data.decode())]
    with channels.call("starting a child"):
        done = subprocess.run(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-I", "-S", "-c", _CHILD, *words],
            capture_output=True,
            check=False,
            timeout=CHILD_TIMEOUT_S,
        )
    if done.returncode < 0:
        raise Refused(f"the child was killed by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        raise Refused(f"the child ended with {done.stderr[-200:].decode('utf-8', 'replace')}")
    _raise(json.loads(done.stdout))


def _raise(evidence: str | None) -> None:
    if evidence is not None:
        raise Refused(evidence)
