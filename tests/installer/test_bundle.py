"""A bundle that was changed in any way is refused, and nothing is written."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.installer.bundle import open_bundle, verify
from edgekit.installer.errors import BundleError

from .kill_points import run_command
from .tiny_bundle import make_bundle, manifest_of, sign, tree, write_signed

FLIPS = int(os.environ.get("EDGEKIT_FLIPS", "60"))


@pytest.fixture(scope="module")
def right(module_folder: Path) -> Path:
    return make_bundle(module_folder / "right")


@pytest.fixture
def copy(right: Path, folder: Path) -> Path:
    return Path(shutil.copytree(right, folder / "copy"))


def refused(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        verify(open_bundle(bundle))
    return caught.value.message


def test_a_right_bundle_passes_and_tells_every_byte(right: Path) -> None:
    told: list[int] = []
    verify(open_bundle(right), told.append)
    assert sum(told) == sum(file["bytes"] for file in manifest_of(right)["files"])


def _flip(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_one_flipped_bit_anywhere_is_refused_before_anything_is_written(
    right: Path, folder: Path
) -> None:
    """Every file once, then bits at random over all bytes of the bundle (EDGEKIT_FLIPS)."""
    chance = random.Random(2)
    files = sorted(path for path in right.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    picks = [*files, *chance.choices(files, sizes, k=FLIPS)]
    for path in picks:
        before = path.read_bytes()
        _flip(path, chance.randrange(len(before)), chance.randrange(8))
        refused(right)
        path.write_bytes(before)
    verify(open_bundle(right))


def test_the_command_refuses_and_leaves_the_prefix_as_it_is(right: Path, folder: Path) -> None:
    prefix = folder / "prefix"
    chance = random.Random(3)
    upgrade = ["upgrade", str(folder / "bad"), "--prefix", str(prefix), "--no-compile"]
    for installed in (False, True):
        if installed:
            good = ["upgrade", str(right), "--prefix", str(prefix), "--no-compile"]
            assert run_command(good) == 0
        before = tree(folder / "prefix")
        files = sorted(path for path in right.rglob("*") if path.is_file())
        for path in chance.sample(files, 6):
            bad = Path(shutil.copytree(right, folder / "bad"))
            changed = bad / path.relative_to(right)
            _flip(changed, chance.randrange(changed.stat().st_size), chance.randrange(8))
            assert run_command(upgrade) == 3
            assert tree(prefix) == before
            shutil.rmtree(bad)
        assert prefix.exists() == installed


def test_every_truncation_is_refused(right: Path, copy: Path) -> None:
    for path in sorted(path for path in copy.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for size in {0, len(data) // 2, len(data) - 1} - {len(data)}:
            path.write_bytes(data[:size])
            refused(copy)
        path.write_bytes(data)


def _add_file(bundle: Path) -> None:
    (bundle / "licences" / "more.txt").write_text("x")


def _add_folder(bundle: Path) -> None:
    (bundle / "more").mkdir()


def _remove_file(bundle: Path) -> None:
    (bundle / "sbom.cdx.json").unlink()


def _link_file(bundle: Path) -> None:
    path = bundle / "sbom.cdx.json"
    path.rename(bundle.parent / "elsewhere")
    path.symlink_to(bundle.parent / "elsewhere")


def _link_folder(bundle: Path) -> None:
    path = bundle / "licences"
    path.rename(bundle.parent / "licences")
    path.symlink_to(bundle.parent / "licences")


def _pipe(bundle: Path) -> None:
    path = bundle / "sbom.cdx.json"
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_add_file, "licences/more.txt"),
        (_add_folder, "more"),
        (_remove_file, "sbom.cdx.json"),
        (_link_file, "sbom.cdx.json"),
        (_link_folder, "licences"),
        (_pipe, "sbom.cdx.json"),
    ],
)
def test_what_is_not_as_listed_is_named(
    change: Callable[[Path], None], word: str, copy: Path
) -> None:
    change(copy)
    assert word in refused(copy)


def test_a_signature_of_another_manifest_or_key_is_refused(copy: Path, folder: Path) -> None:
    other = make_bundle(folder / "other", "v2")
    shutil.copyfile(other / "bundle.sig", copy / "bundle.sig")
    assert "signature" in refused(copy)
    sign(copy)
    verify(open_bundle(copy))
    values = json.loads((copy / "bundle.sig").read_text())
    values["public_key"] = "00" * 32
    (copy / "bundle.sig").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    assert "signature" in refused(copy)


PATHS = [
    "../outside",
    "/etc/passwd",
    "a/../../b",
    "a//b",
    "./a",
    "a/",
    "",
    ".",
    "..",
    "a\\b",
    "C:/a",
    "a\x00b",
    "a\nb",
    "a\u202eb",
    "x" * 300,
    "/".join(["y" * 100] * 20),
    "dot.",
    "space ",
    "bundle.json",
    "BUNDLE.SIG",
    "SBOM.cdx.json",
    "licences",
    "sbom.cdx.json/below",
    "bin/edgekit",
    "installed.json",
    "pyvenv.cfg",
    "Lib/x",
    "artifacts/unnamed/x",
    "wheels/unnamed.whl",
    7,
    None,
    ["a"],
]


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_signed_path_trick_is_refused_too(path: object, copy: Path, folder: Path) -> None:
    """Whoever owns the key may install programs; the installer still writes nowhere else."""
    document = manifest_of(copy)
    document["files"].append({"path": path, "bytes": 0, "sha256": "0" * 64})
    write_signed(copy, json.dumps(document).encode())
    arguments = ["upgrade", str(copy), "--prefix", str(folder / "prefix"), "--no-compile"]
    assert run_command(arguments) == 3
    assert not (folder / "prefix").exists()


CHANGES: list[tuple[str, Any]] = [
    ("schema", 2),
    ("schema", True),
    ("schema", "1"),
    ("name", ""),
    ("name", "a/b"),
    ("name", "a\nb"),
    ("name", 3),
    ("python", "3"),
    ("python", "2.7"),
    ("python", "3.11 "),
    ("glibc", [2]),
    ("glibc", ["2", "28"]),
    ("glibc", [2, -1]),
    ("glibc", [2, 10**30]),
    ("cpu_features", "asimd"),
    ("cpu_features", [1]),
    ("memory_bytes", -1),
    ("memory_bytes", 1.5),
    ("memory_bytes", True),
    ("memory_bytes", 10**40),
    ("installed_bytes", None),
    ("artifacts", ["artifacts/none"]),
    ("artifacts", ["artifacts"]),
    ("artifacts", ["artifacts/tiny", "artifacts/tiny"]),
    ("artifacts", ["../tiny"]),
    ("wheels", ["wheels/none.whl"]),
    ("wheels", ["install.py"]),
    ("wheels", {}),
    ("files", {}),
    ("files", [[]]),
    ("files", [{"path": "a"}]),
    ("files", [{"path": "a", "bytes": 10**30, "sha256": "0" * 64}]),
    ("files", [{"path": "a", "bytes": -1, "sha256": "0" * 64}]),
    ("files", [{"path": "a", "bytes": 1, "sha256": "0" * 63}]),
    ("files", [{"path": "a", "bytes": 1, "sha256": "G" * 64}]),
    ("more", 1),
]


@pytest.mark.parametrize(("key", "value"), CHANGES, ids=repr)
def test_a_manifest_that_is_not_as_it_should_be_is_refused(
    key: str, value: object, copy: Path
) -> None:
    sign(copy, **{key: value})
    assert refused(copy)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"schema": 1, "schema": 1}',
        b'{"schema": NaN}',
        b"[" * 100_000,
        b'{"schema": 1' + b"0" * 5000 + b"}",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_a_manifest_that_is_no_plain_json_is_refused(data: bytes, copy: Path) -> None:
    write_signed(copy, data)
    refused(copy)
    (copy / "bundle.sig").write_bytes(data)
    refused(copy)


@pytest.mark.parametrize("key", ["schema", "files", "wheels", "glibc"])
def test_a_missing_key_is_named(key: str, copy: Path) -> None:
    document = manifest_of(copy)
    del document[key]
    write_signed(copy, json.dumps(document).encode())
    assert key in refused(copy)


def test_a_file_or_an_empty_folder_is_no_bundle(folder: Path) -> None:
    (folder / "file").write_text("x")
    for path in (folder / "file", folder, folder / "missing"):
        with pytest.raises(BundleError):
            open_bundle(path)
