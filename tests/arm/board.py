"""A board that is not there: Debian for ARM under qemu-user, with no network.

What was written stays in a folder of the test's (`changes`), the system itself is never touched.
The emulated processor is chosen per command: qemu refuses (SIGILL) what a Pi 4's core lacks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .packages import ENTER

# What Linux prints for these cores. qemu-user shows this machine's own /proc/cpuinfo otherwise.
_PI_4 = "fp asimd evtstrm crc32 cpuid"
_PI_5 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
FEATURES = {
    "cortex-a72": _PI_4,
    "cortex-a76": _PI_5,
    "max": f"{_PI_5} jscvt fcma sha3 sm3 sm4 sha512 sve asimdfhm sve2 svei8mm i8mm bf16",
}
CORES = 4
PREFIX = Path("/opt/edgekit")
DEVICE = f"{PREFIX}/bin/edgekit-device"
EDGEKIT = f"{PREFIX}/bin/edgekit"


@dataclass(frozen=True)
class Board:
    """An emulated board; `changes` keeps what was written there between two commands.

    `binds` maps a file or folder here to where it appears on the board, read-only: the stick.
    """

    root: Path
    changes: Path
    binds: Mapping[Path, str] = field(default_factory=dict)

    def start(
        self, command: Sequence[str], *, cpu: str = "cortex-a76", environment: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start a command on the board. Killing it takes all of the board's processes along."""
        self.changes.mkdir(parents=True, exist_ok=True)
        binds = {self._cpuinfo(cpu): "/proc/cpuinfo", **self.binds}
        enter = [sys.executable, str(ENTER), str(self.root), "--changes", str(self.changes)]
        for source, target in binds.items():
            enter += ["--bind", f"{source}:{target}"]
        for setting in (f"QEMU_CPU={cpu}", *environment):
            enter += ["--set", setting]
        return subprocess.Popen(
            [*enter, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        command: Sequence[str],
        *,
        cpu: str = "cortex-a76",
        environment: Sequence[str] = (),
        timeout_s: float = 900.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the board to its end; the caller looks at the exit status."""
        process = self.start(command, cpu=cpu, environment=environment)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{command} took over {timeout_s} s; it said: {err}") from None
        return subprocess.CompletedProcess(list(command), process.returncode, out, err)

    def must(self, command: Sequence[str], *, cpu: str = "cortex-a76") -> str:
        """Run a command that has to succeed, and return its stdout."""
        done = self.run(command, cpu=cpu)
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stderr[-2000:]}"
        return done.stdout

    def kill_after(self, command: Sequence[str], seconds: float) -> bool:
        """Start a command, kill it after `seconds`; return whether it was still running."""
        process = self.start(command)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        return False

    def file(self, path: Path | str) -> Path:
        """Return where a file that the board wrote lies on this machine."""
        return self.changes / "upper" / str(path).lstrip("/")

    def written(self) -> list[str]:
        """Return every path that the board wrote or removed, below / ."""
        upper = self.changes / "upper"
        return sorted(
            "/" + os.path.relpath(os.path.join(parent, name), upper)
            for parent, _, names in os.walk(upper)
            for name in names
        )

    def _cpuinfo(self, cpu: str) -> Path:
        path = self.changes / f"cpuinfo-{cpu}"
        core = f"processor\t: {{}}\nFeatures\t: {FEATURES[cpu]}\n\n"
        path.write_text("".join(core.format(n) for n in range(CORES)))
        return path
