"""A bundle of two megabytes that installs in a second: many small files, and one that is large.

Signed and listed by the code that makes real bundles; the one wheel is made here.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import platform
import random
import shutil
import zipfile
from pathlib import Path

from edgekit import installer
from edgekit.progress import NoProgress
from edgekit.workflows.bundle import install_stub
from edgekit.workflows.bundle.keys import SigningKey
from edgekit.workflows.bundle.manifest import BundleManifest, list_files

PYTHON = "3.11"
FILES, FILE_BYTES, LARGE_BYTES = 40, 9_000, 1_500_000
FIRST_START = b"print('{}')\n"


def make_small_bundle(folder: Path, seed: int, key: SigningKey) -> None:
    """Write a bundle for this machine with random content, the same for the same seed."""
    noise = random.Random(seed)
    (folder / "wheels").mkdir(parents=True)
    members = {"runtimes/__init__.py": b"", "runtimes/first_start.py": FIRST_START}
    members |= {f"runtimes/data/{n}.bin": noise.randbytes(FILE_BYTES) for n in range(FILES)}
    members["runtimes/data/large.bin"] = noise.randbytes(LARGE_BYTES)
    wheel = f"edgekit-{seed}-py3-none-any.whl"
    _write_wheel(folder / "wheels" / wheel, f"edgekit-{seed}.dist-info", members)
    (folder / "installer").mkdir()
    for path in Path(installer.__file__).parent.glob("*.py"):
        shutil.copy(path, folder / "installer")
    shutil.copy(install_stub.__file__, folder / "install.py")
    manifest = BundleManifest(
        name=f"small-{seed}",
        edgekit=str(seed),
        device="virtual-machine",
        machine=platform.machine(),
        python=PYTHON,
        glibc=(2, 17),
        cpu_features=(),
        memory_bytes=0,
        installed_bytes=sum(map(len, members.values())),
        artifacts=(),
        wheels=(f"wheels/{wheel}",),
        files=tuple(list_files(folder, {}, NoProgress())),
    )
    (folder / "bundle.json").write_bytes(manifest.to_json())
    (folder / "bundle.sig").write_bytes(key.signature_json(manifest.to_json()))


def _write_wheel(path: Path, dist_info: str, members: dict[str, bytes]) -> None:
    tag = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members = {**members, f"{dist_info}/WHEEL": tag}
    members[f"{dist_info}/METADATA"] = b"Metadata-Version: 2.1\nName: edgekit\nVersion: 1\n"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(data)])
    writer.writerow([f"{dist_info}/RECORD", "", ""])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{dist_info}/RECORD", text.getvalue())
