"""Enter the emulated board: a program of its own, for it gives up its place on this machine.

    python enter.py ROOT [--changes DIR] [--network] [--bind SOURCE:TARGET]... -- COMMAND...

It makes a user, mount, process and network namespace, registers qemu for ARM programs in the
user namespace's own binfmt_misc (Linux 6.7; before that the machine's registration is used),
lays `--changes` over ROOT, which stays as it was, and runs COMMAND there with an empty
environment. The network namespace is new: it has one interface, lo, and lo is down.
It needs root, refuses to know what it runs, and takes everything down with it when it is killed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>
NEW_MOUNTS, NEW_USERS, NEW_PROCESSES, NEW_NETWORK = 0x20000, 0x10000000, 0x20000000, 0x40000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
SET_PARENT_DEATH_SIGNAL = 1
EMULATOR = "/usr/bin/qemu-aarch64-static"
# An ELF file, 64-bit, little-endian, EXEC or DYN, machine 183 (AArch64); as in qemu's binfmt.d.
MAGIC = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00\xb7\x00"
MASK = r"\xff" * 7 + r"\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Enter, run, and return the command's exit status (128 + n if signal n ended it)."""
    options = _options()
    root = Path(options.root).resolve()
    _new_namespaces(0 if options.network else NEW_NETWORK)
    _mount("none", "/", None, RECURSIVE | PRIVATE)
    _register_emulator()
    child = os.fork()
    if child == 0:
        _call(libc.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl")
        if options.root != "/":
            _furnish(root, options)
            os.chroot(root)
            os.chdir("/")
        os.execve(options.command[0], options.command, _environment(options.set))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 128 - status


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--changes")
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--bind", action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _environment(settings: list[str]) -> dict[str, str]:
    """Return the least that a login on a board sets; nothing of this machine comes along."""
    least = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    return least | dict(setting.split("=", 1) for setting in settings)


def _new_namespaces(network: int) -> None:
    """Unshare; a helper that stays outside maps every user to itself (user_namespaces(7))."""
    pid, (reader, writer) = os.getpid(), os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(writer)
        os.read(reader, 1)
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{kind}").write_text("0 0 65536")
        os._exit(0)
    os.close(reader)
    _call(libc.unshare(NEW_USERS | NEW_MOUNTS | NEW_PROCESSES | network), "unshare")
    os.close(writer)
    if os.waitpid(helper, 0)[1] != 0:
        sys.exit("the users of the new namespace could not be mapped")


def _register_emulator() -> None:
    """Tell this namespace's kernel who runs ARM programs. F: it is opened now, from outside."""
    folder = Path("/proc/sys/fs/binfmt_misc")
    try:
        _mount("binfmt_misc", str(folder), "binfmt_misc", 0)
    except OSError:
        if not any("aarch64" in entry.name for entry in folder.iterdir()):
            sys.exit("ARM programs cannot be registered: Linux is older than 6.7")
        return
    (folder / "register").write_text(f":qemu-aarch64:M::{MAGIC}:{MASK}:{EMULATOR}:F")


def _furnish(root: Path, options: argparse.Namespace) -> None:
    """Mount what a running system has, and what the caller asked for."""
    if options.changes:
        _lay_over(root, Path(options.changes))
    _mount("proc", f"{root}/proc", "proc", 0)
    _mount("tmpfs", f"{root}/tmp", "tmpfs", 0)
    _mount("tmpfs", f"{root}/dev", "tmpfs", 0)
    for name in DEVICES:
        Path(f"{root}/dev/{name}").touch()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, BIND)
    Path(f"{root}/dev/shm").mkdir()
    for pair in options.bind:
        source, target = pair.split(":")
        _bind_read_only(source, f"{root}{target}")


def _lay_over(root: Path, changes: Path) -> None:
    """Keep every change to `root` in `changes`/upper (overlayfs, allowed to a user namespace)."""
    upper, work = changes / "upper", changes / "work"
    for folder in (upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir={root},upperdir={upper},workdir={work},userxattr"
    _mount("overlay", str(root), "overlay", 0, layers)


def _bind_read_only(source: str, target: str) -> None:
    """Show `source` at `target`, made if it is missing, as on a stick that is write-protected."""
    if not Path(target).exists():
        place = Path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir() if Path(source).is_dir() else place.touch()
    _mount(source, target, None, BIND)
    _mount(source, target, None, BIND | REMOUNT | READ_ONLY)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = kind.encode() if kind else None
    _call(
        libc.mount(source.encode(), target.encode(), encoded, flags, data.encode() or None),
        f"mount {source} at {target}",
    )


def _call(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


if __name__ == "__main__":
    sys.exit(main())
