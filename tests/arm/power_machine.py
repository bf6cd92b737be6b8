"""A virtual machine with a real ext4 disk whose power can be cut.

Its processor is this machine's, not ARM: what is tested is what ext4 keeps of an installer's
writes, which is the same code on both, and this boots in seconds. Debian's kernel and Python
are in the system disk, which is read-only; the data disk is where the installer works.

Cutting the power is SIGKILL to qemu. This machine's page cache outlives qemu, so what the guest
sent to its disk stays and what the guest's page cache had not sent is lost: a disk whose own
cache is honest. That is what fsync is for, and a control without fsync shows that it is lost.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .packages import debian_tree, need

QEMU = {"x86_64": "qemu-system-x86_64", "aarch64": "qemu-system-aarch64"}
MACHINE = {"x86_64": "q35", "aarch64": "virt"}
CONSOLE = {"x86_64": "ttyS0", "aarch64": "ttyAMA0"}
KERNEL = {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"}
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev")
MODULES += ("virtio_pci", "virtio_blk")  # each needs those before it
MEMORY_MB = 512
JOB_SECONDS = 180.0
BOOTS = 3
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /system
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module.ko; done
/bin/busybox mount -t ext4 -o ro /dev/vda /system
/bin/busybox mount -t ext4 /dev/vdb /system/mnt || echo GUEST no data disk
/bin/busybox mount -t tmpfs tmp /system/tmp
/bin/busybox mount -t devtmpfs dev /system/dev
/bin/busybox mount -t proc proc /system/proc
/bin/busybox chroot /system /usr/bin/python3 /mnt/guest.py $job
/bin/busybox umount /system/mnt
/bin/busybox poweroff -f
"""


@dataclass(frozen=True)
class PowerMachine:
    """The kernel, the initial file system and the system disk: the same for every boot."""

    kernel: Path
    initramfs: Path
    system_disk: Path

    @staticmethod
    def make(cache: Path) -> PowerMachine:
        """Build what is missing in `cache`. Skips the test where that cannot be."""
        machine = platform.machine()
        need(QEMU.get(machine, "qemu-system-none"), "mke2fs", "cpio")
        tree = debian_tree(
            cache / f"power-{machine}",
            packages=("python3", "busybox-static", KERNEL.get(machine, "")),
            machine=machine,
            variant="extract",
        )
        made = PowerMachine(
            next((tree / "boot").glob("vmlinuz-*")), cache / "initramfs", cache / "system.ext4"
        )
        made._make_initramfs(tree)
        if not made.system_disk.exists():
            _complete(tree)
            make_disk(made.system_disk, tree, 512)
        return made

    def _make_initramfs(self, tree: Path) -> None:
        """Pack busybox, six modules and a script: enough to find the system disk."""
        root = self.initramfs.with_suffix(".tree")
        for folder in ("bin", "modules", "dev"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy2(tree / "bin/busybox", root / "bin/busybox")
        for module in MODULES:
            found = next((tree / "lib/modules").rglob(f"{module}.ko"))
            shutil.copy2(found, root / f"modules/{module}.ko")
        script = root / "init"
        script.write_text(INIT.replace("{modules}", " ".join(MODULES)))
        script.chmod(0o755)
        names = "\n".join(str(p.relative_to(root)) for p in sorted(root.rglob("*")))
        pack = ["cpio", "--quiet", "-o", "-H", "newc"]
        packed = subprocess.run(pack, cwd=root, input=names.encode(), capture_output=True)
        self.initramfs.write_bytes(packed.stdout)

    def boot(self, data_disk: Path, job: str) -> subprocess.Popen[str]:
        """Start the machine with `data_disk`; stdout is what its console says."""
        machine = platform.machine()
        # cache=writeback: a flush of the guest reaches the file, the file outlives a killed qemu.
        disks = [
            f"file={self.system_disk},format=raw,if=virtio,readonly=on",
            f"file={data_disk},format=raw,if=virtio,cache=writeback",
        ]
        command = [QEMU[machine], "-M", MACHINE[machine], "-m", f"{MEMORY_MB}", "-nographic"]
        command += ["-cpu", "max", "-nodefaults", "-serial", "stdio", "-no-reboot"]
        command += ["-accel", "tcg", "-kernel", str(self.kernel), "-initrd", str(self.initramfs)]
        command += [part for disk in disks for part in ("-drive", disk)]
        command += [
            "-append",
            f"console={CONSOLE[machine]} quiet panic=-1 no_timer_check job={job}",
        ]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
        )

    def cut(self, data_disk: Path, job: str, after_s: float) -> list[str]:
        """Boot, wait for the guest's first word, cut the power `after_s` later; what it said."""
        machine, first = self._reach_the_job(data_disk, job)
        time.sleep(after_s)
        machine.kill()
        return [first, *_rest(machine)]

    def run(self, data_disk: Path, job: str) -> list[str]:
        """Boot, let the job end by itself, and return what the guest said."""
        machine, first = self._reach_the_job(data_disk, job)
        timer = threading.Timer(JOB_SECONDS, machine.kill)
        timer.start()
        said = _rest(machine)
        timer.cancel()
        return [first, *said]

    def _reach_the_job(self, data_disk: Path, job: str) -> tuple[subprocess.Popen[str], str]:
        """Boot until the guest speaks. Raises AssertionError with the console if it never does.

        On a machine that is busy the emulated clock may stand still for so long that the guest's
        kernel gives up while it boots: before the job, hence nothing that the test looks at.
        """
        console = ""
        for _ in range(BOOTS):
            machine = self.boot(data_disk, job)
            assert machine.stdout is not None
            for line in machine.stdout:
                if words := _words(line):
                    return machine, words[0]
                console += line
            machine.wait()
        raise AssertionError(f"{BOOTS} boots ended before the job: {console[-2000:]}")


def _complete(tree: Path) -> None:
    """Add what packages that are only unpacked leave out: places to mount, and a shell."""
    for name in ("dev", "mnt", "proc", "tmp"):
        (tree / name).mkdir(exist_ok=True)
    if not (tree / "bin/sh").exists():
        (tree / "bin/sh").symlink_to("busybox")


def make_disk(image: Path, tree: Path, size_mb: int) -> None:
    """Write an ext4 image of `size_mb` MiB holding a copy of `tree`."""
    partial = image.with_suffix(".partial")
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(partial), f"{size_mb}M"],
        check=True,
        capture_output=True,
    )
    os.replace(partial, image)


def random_moment(seed: int, longest_s: float) -> float:
    """Return when to cut: the same for the same seed, so that a failure can be looked at."""
    return random.Random(seed).uniform(0.0, longest_s)


def _rest(machine: subprocess.Popen[str]) -> list[str]:
    """Return what the guest says until the machine has ended."""
    assert machine.stdout is not None
    said = machine.stdout.read()
    machine.wait()
    return _words(said)


def _words(said: str) -> list[str]:
    """Keep the guest's own lines: the console carries the kernel's too."""
    return [line.split("GUEST ", 1)[1].strip() for line in said.splitlines() if "GUEST " in line]
