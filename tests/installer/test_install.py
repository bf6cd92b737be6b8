"""Install, upgrade, rollback, uninstall: what is there afterwards, and every refusal's sentence."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgekit.installer import cli, disk, install, machine
from edgekit.installer.errors import BundleError, LimitError, UsageError
from edgekit.installer.prefix import Prefix
from edgekit.installer.status import verify_installed
from edgekit.installer.trust import parse_trust

from .kill_points import run_command
from .tiny_bundle import (
    INTERPRETER,
    PYTHON,
    complete_version,
    current,
    key_of,
    make_bundle,
    public_hex,
    sign,
    tree,
    version_id,
)

BIG = install.LINK_BYTES + 1000


@pytest.fixture(scope="module")
def first(module_folder: Path) -> Path:
    return make_bundle(module_folder / "v1", "v1", model_bytes=BIG)


@pytest.fixture(scope="module")
def second(module_folder: Path) -> Path:
    return make_bundle(module_folder / "v2", "v2", model_bytes=BIG)


@pytest.fixture
def prefix(folder: Path) -> Path:
    return folder / "opt" / "edgekit"


def start(bundle: Path, prefix: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the bundle's own install.py with the system's Python."""
    command = [INTERPRETER, bundle / "install.py", "--prefix", prefix, "--no-compile", *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def device(prefix: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [prefix / "bin" / "edgekit-device", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def answer(prefix: Path) -> str:
    return subprocess.check_output([prefix / "bin" / "edgekit"], text=True).strip()


def main(*arguments: str | Path) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_the_whole_life_of_an_installation(first: Path, second: Path, folder: Path) -> None:
    prefix = folder / "new folders" / "with blanks" / "edgekit"
    before = tree(first)
    done = start(first, prefix, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["id"] == version_id(first) == current(prefix)
    assert facts["public_key"] == public_hex()
    assert facts["first_start"] == {"works": True, "artifacts": ["tiny"]}
    assert answer(prefix) == "answer v1"
    assert tree(first) == before, "a bundle is never written to"

    assert device(prefix, "upgrade", second, "--no-compile").returncode == 0
    assert answer(prefix) == "answer v2"
    status = json.loads(device(prefix, "status", "--json").stdout)
    assert status["current"]["id"] == version_id(second)
    assert status["previous"]["id"] == version_id(first)
    assert status["leftovers"] == []
    for wanted in ("v1", "v2", "v1"):
        assert device(prefix, "rollback").returncode == 0
        assert answer(prefix) == f"answer {wanted}"
    assert json.loads(device(prefix, "verify", "--json").stdout)["current"]["faults"] == []

    assert device(prefix, "uninstall").returncode == 0
    assert list(folder.iterdir()) == [], "the folders that were made for it are gone too"


def test_a_moved_installation_still_works(first: Path, second: Path, prefix: Path) -> None:
    assert start(first, prefix).returncode == 0
    moved = prefix.parent / "elsewhere"
    prefix.rename(moved)
    link = prefix.parent / "link"
    link.symlink_to(moved / "bin" / "edgekit")
    assert subprocess.check_output([link], text=True).strip() == "answer v1"
    assert device(moved, "upgrade", second, "--no-compile").returncode == 0
    assert answer(moved) == "answer v2"


def test_bytecode_is_made_once_and_never_added_to(first: Path, prefix: Path) -> None:
    assert main("upgrade", first, "--prefix", prefix) == 0
    version = prefix / "versions" / version_id(first)
    compiled = sorted(path.name for path in version.rglob("*.pyc"))
    assert f"__main__.cpython-{PYTHON.replace('.', '')}.pyc" in compiled
    shutil.rmtree(next(version.rglob("__pycache__")))
    answer(prefix)
    assert len(list(version.rglob("*.pyc"))) < len(compiled)


def test_the_same_bundle_again_changes_nothing(first: Path, prefix: Path) -> None:
    assert start(first, prefix).returncode == 0
    before = tree(prefix)
    assert start(first, prefix).returncode == 0
    assert tree(prefix) == before


def test_an_older_version_goes_and_two_stay(folder: Path, prefix: Path) -> None:
    bundles = [make_bundle(folder / f"b{n}", f"b{n}") for n in range(3)]
    for bundle in bundles:
        assert main("upgrade", bundle, "--prefix", prefix, "--no-compile") == 0
    kept = {path.name for path in (prefix / "versions").iterdir()}
    assert kept == {version_id(bundle) for bundle in bundles[1:]}


def test_a_large_file_that_is_the_same_is_linked_after_its_hash(
    folder: Path, prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = make_bundle(folder / "a", "same", model_bytes=BIG)
    theirs = make_bundle(folder / "b", "same", model_bytes=BIG, device="other")
    again = make_bundle(folder / "c", "same", model_bytes=BIG, device="third")
    assert main("upgrade", ours, "--prefix", prefix, "--no-compile", "--json") == 0
    assert main("upgrade", theirs, "--prefix", prefix, "--no-compile", "--json") == 0
    model = "share/edgekit/artifacts/tiny/model.bin"
    inode = (prefix / "current" / model).stat().st_ino
    assert inode == (prefix / "previous" / model).stat().st_ino
    with (prefix / "current" / model).open("r+b") as stream:
        stream.write(b"!")
    assert main("upgrade", again, "--prefix", prefix, "--no-compile", "--json") == 0
    assert (prefix / "current" / model).stat().st_ino != inode, "a damaged file is not linked"
    assert complete_version(prefix / (prefix / "current").readlink()) == ""


def test_a_stopped_run_is_resumed_and_only_the_rest_is_written(
    first: Path, folder: Path, prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("upgrade", first, "--prefix", prefix, "--no-compile", "--json") == 0
    whole = json.loads(capsys.readouterr().out)["written_bytes"]
    version = prefix / "versions" / version_id(first)
    staging = prefix / "versions" / f".staging-{version.name}"
    (prefix / "current").unlink()
    version.rename(staging)
    model = staging / "share/edgekit/artifacts/tiny/model.bin"
    inode = model.stat().st_ino
    (staging / "sbom.cdx.json").write_bytes(b"half")
    (staging / "stray").mkdir()
    (staging / "bin" / "edgekit").unlink()
    (staging / "bin" / "edgekit").symlink_to("/etc/hostname")
    assert main("upgrade", first, "--prefix", prefix, "--no-compile", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["written_bytes"] < 1000 < BIG < facts["kept_bytes"]
    assert facts["written_bytes"] + facts["kept_bytes"] == whole
    assert (version / model.relative_to(staging)).stat().st_ino == inode
    assert complete_version(version) == ""


def test_a_damaged_version_in_use_is_replaced_by_a_right_copy(first: Path, prefix: Path) -> None:
    assert start(first, prefix).returncode == 0
    (prefix / "current" / "sbom.cdx.json").write_text("changed")
    (prefix / "current" / "stray").write_text("x")
    done = device(prefix, "verify")
    assert done.returncode == 3
    assert "sbom.cdx.json" in done.stdout
    assert "stray" in done.stdout
    assert start(first, prefix).returncode == 0
    assert current(prefix) == f"{version_id(first)}-1"
    assert device(prefix, "verify").returncode == 0
    assert start(first, prefix).returncode == 0
    assert not (prefix / "previous").is_symlink(), "nobody goes back to a damaged copy"


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("installed.json", b"{}"),
        ("bundle.json", b"{}"),
        ("bundle.sig", b"{}"),
        ("pyvenv.cfg", b"home = /tmp\n"),
        ("bin/edgekit", b"#!/bin/sh\nexit\n"),
        ("installer/cli.py", b""),
    ],
)
def test_verify_notices_a_change_also_where_the_list_is_made_to_agree(
    path: str, data: bytes, first: Path, prefix: Path
) -> None:
    assert main("upgrade", first, "--prefix", prefix, "--no-compile") == 0
    version = prefix / (prefix / "current").readlink()
    (version / path).write_bytes(data)
    if path != "installed.json":
        listed = json.loads((version / "installed.json").read_bytes())
        for file in listed["files"]:
            if file["path"] == path:
                file["bytes"], file["sha256"] = disk_hash(version / path)
        (version / "installed.json").write_text(json.dumps(listed))
    assert main("verify", "--prefix", prefix) == 3


def disk_hash(path: Path) -> tuple[int, str]:
    from edgekit.installer.bundle import hash_file

    return hash_file(path)


def test_a_version_of_another_installer_is_judged_by_what_is_signed_alone(
    folder: Path, prefix: Path
) -> None:
    """A newer installer may write other scripts; the version before must stay a way back."""
    older = make_bundle(folder / "older", "v1")
    (older / "installer" / "scripts.py").open("ab").write(b"VERSION_SCRIPT += b'# older'\n")
    sign(older)
    newer = make_bundle(folder / "newer", "v2")
    assert start(older, prefix).returncode == 0
    assert device(prefix, "upgrade", newer, "--no-compile").returncode == 0
    assert device(prefix, "upgrade", newer, "--no-compile").returncode == 0
    done = device(prefix, "rollback")
    assert done.returncode == 0, done.stderr
    assert answer(prefix) == "answer v1"


@pytest.mark.parametrize("name", ["sitecustomize.py", "edgekit/more.pyc", "evil.pth"])
def test_verify_notices_a_file_that_was_added_to_the_list_too(
    name: str, first: Path, prefix: Path
) -> None:
    assert main("upgrade", first, "--prefix", prefix, "--no-compile") == 0
    version = prefix / (prefix / "current").readlink()
    path = next(version.rglob("site-packages")) / name
    path.write_bytes(b"")
    listed = json.loads((version / "installed.json").read_bytes())
    size, digest = disk_hash(path)
    entry = {"path": path.relative_to(version).as_posix(), "bytes": size, "sha256": digest}
    listed["files"].append(entry)
    (version / "installed.json").write_text(json.dumps(listed))
    assert main("verify", "--prefix", prefix) == 3


def test_records_that_are_signed_cover_what_the_wheels_brought(
    folder: Path, prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without them somebody may change a module, its RECORD and the list alike."""
    bundle = make_bundle(folder / "bundle")
    records = {}
    for wheel in sorted((bundle / "wheels").iterdir()):
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/RECORD"))
            records[f"wheels/{wheel.name}"] = hashlib.sha256(archive.read(name)).hexdigest()
    (bundle / "records.json").write_text(json.dumps(records))
    sign(bundle)
    assert main("upgrade", bundle, "--prefix", prefix, "--no-compile") == 0
    capsys.readouterr()
    assert main("verify", "--prefix", prefix, "--json") == 0
    assert json.loads(capsys.readouterr().out)["current"]["recorded_files"] == 0
    version = prefix / (prefix / "current").readlink()
    changed = next(version.rglob("edgekit/__main__.py"))
    record = next(version.rglob("edgekit-1.0.dist-info/RECORD"))
    old = base64.urlsafe_b64encode(hashlib.sha256(changed.read_bytes()).digest()).decode()[:43]
    changed.write_text("print('evil')\n")
    new = base64.urlsafe_b64encode(hashlib.sha256(changed.read_bytes()).digest()).decode()[:43]
    record.write_text(record.read_text().replace(old, new))
    listed = json.loads((version / "installed.json").read_bytes())
    for file in listed["files"]:
        file["bytes"], file["sha256"] = disk_hash(version / file["path"])
    (version / "installed.json").write_text(json.dumps(listed))
    assert main("verify", "--prefix", prefix) == 3


def test_rollback_refuses_a_damaged_version_and_none_at_all(
    first: Path, second: Path, prefix: Path
) -> None:
    assert main("upgrade", first, "--prefix", prefix, "--no-compile") == 0
    assert main("rollback", "--prefix", prefix) == 3
    assert main("upgrade", second, "--prefix", prefix, "--no-compile") == 0
    (prefix / "previous" / "sbom.cdx.json").write_text("x")
    assert main("rollback", "--prefix", prefix) == 3
    assert current(prefix) == version_id(second)


def test_a_key_is_trusted_first_and_then_asked_for(
    first: Path, folder: Path, prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle(folder / "other", "v9", seed=2)
    upgrade = ["upgrade", str(other), "--prefix", str(prefix), "--no-compile"]
    wrong = main("upgrade", first, "--prefix", prefix, "--no-compile", "--trust", public_hex(2))
    assert wrong == 3
    assert not prefix.parent.exists()
    assert main("upgrade", first, "--prefix", prefix, "--no-compile") == 0
    before = tree(prefix)
    assert main(*upgrade) == 3
    assert "not trusted" in capsys.readouterr().err
    assert main(*upgrade, "--trust", public_hex(1)) == 3
    assert tree(prefix) == before
    assert main(*upgrade, "--trust", public_hex(2)) == 0
    assert answer(prefix) == "answer v9"
    assert main("upgrade", first, "--prefix", prefix, "--no-compile") == 0, "both are trusted now"


def test_trust_is_a_key_a_fingerprint_or_a_file(folder: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form

    public = key_of().public_key()
    pem = public.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pem").write_bytes(pem)
    (folder / "key.txt").write_text(f"{public_hex()}\n")
    (folder / "none").write_text("nothing")
    for named in (public_hex().upper(), str(folder / "key.pem"), str(folder / "key.txt")):
        assert parse_trust(named) == public_hex()
    for named in ("abc", str(folder / "none"), str(folder / "missing"), "a\x00b"):
        with pytest.raises(UsageError):
            parse_trust(named)


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"machine": "riscv64"}, "riscv64"),
    ({"python": "3.7"}, "CPython 3.7"),
    ({"glibc": [9, 99]}, "glibc 9.99"),
    ({"cpu_features": ["warp-drive"]}, "warp-drive"),
    ({"memory_bytes": 1 << 41}, "2.2 TB of memory"),
]


@pytest.mark.parametrize(("change", "word"), REFUSALS, ids=lambda value: str(value)[:30])
def test_a_machine_that_does_not_fit_is_told_why_and_stays_as_it_is(
    change: dict[str, Any],
    word: str,
    folder: Path,
    prefix: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = make_bundle(folder / "bundle", **change)
    assert main("upgrade", bundle, "--prefix", prefix) == 5
    assert word in capsys.readouterr().err
    assert not prefix.parent.exists()


def test_a_disk_that_is_too_small_is_told_with_both_numbers(folder: Path) -> None:
    with pytest.raises(LimitError, match=r"needs 1100000\.0 TB of disk and .* are free|needs"):
        machine.check_disk(folder, 1 << 60, 1)
    machine.check_disk(folder / "not" / "there", 0, 1)


def test_a_first_start_that_fails_keeps_the_version_before(
    first: Path, folder: Path, prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dies = "import os, sys\nprint('libgomp is missing', file=sys.stderr)\nos.kill(os.getpid(), 4)\n"
    bad = make_bundle(folder / "bad", first_start=dies)
    assert main("upgrade", bad, "--prefix", prefix, "--no-compile") == 5
    error = capsys.readouterr().err
    assert "SIGILL" in error
    assert "libgomp is missing" in error
    assert not prefix.parent.exists()
    assert main("upgrade", first, "--prefix", prefix, "--no-compile") == 0
    before = tree(prefix)
    assert main("upgrade", bad, "--prefix", prefix, "--no-compile") == 5
    assert tree(prefix) == before


def test_a_first_start_that_hangs_is_ended(folder: Path, prefix: Path) -> None:
    bad = make_bundle(folder / "bad", first_start="import time\ntime.sleep(60)\n")
    timeout = ["--first-start-timeout", "0.5"]
    assert main("upgrade", bad, "--prefix", prefix, "--no-compile", *timeout) == 5
    assert not prefix.exists()


def test_the_second_of_two_installers_waits_and_both_succeed(
    first: Path, second: Path, prefix: Path
) -> None:
    command = ["--prefix", prefix, "--no-compile"]
    both = [
        subprocess.Popen([INTERPRETER, bundle / "install.py", *command], stderr=subprocess.PIPE)
        for bundle in (first, second)
    ]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {current(prefix), (prefix / "previous").readlink().name} == {
        version_id(first),
        version_id(second),
    }


def test_a_folder_that_another_one_makes_meanwhile_is_no_error(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def after_another(path: Path, mode: int = 0o777) -> None:
        mkdir(path, mode)
        mkdir(path, mode)

    monkeypatch.setattr(Path, "mkdir", after_another)
    assert disk.make_folders(prefix) == []
    assert prefix.is_dir()


def test_a_waiting_installer_says_so(first: Path, prefix: Path) -> None:
    prefix.mkdir(parents=True)
    with disk.locked(prefix / "install.lock", lambda: None):
        process = subprocess.Popen(
            [INTERPRETER, first / "install.py", "--prefix", prefix, "--no-compile"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        while "waiting" not in process.stderr.readline():
            assert process.poll() is None
    process.communicate()
    assert process.returncode == 0


def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(
    folder: Path, second: Path, prefix: Path
) -> None:
    slow = make_bundle(folder / "slow", first_start="import time\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [INTERPRETER, slow / "install.py", "--prefix", prefix, "--no-compile"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "first start" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert process.returncode == 130
    assert "Traceback" not in error
    assert start(second, prefix).returncode == 0
    assert os.listdir(prefix / "versions") == [version_id(second)]


def test_a_limit_on_file_sizes_ends_in_a_sentence_and_leaves_nothing(
    first: Path, prefix: Path
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(
        [INTERPRETER, first / "install.py", "--prefix", prefix, "--no-compile"],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 5
    assert "ulimit" in done.stderr
    assert not prefix.parent.exists()


@pytest.fixture
def small_disk(folder: Path) -> Any:
    """Return a disk of 18 MB of its own, or skip."""
    place = folder / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("making a small disk needs root and the right to mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_in_a_sentence_and_keeps_the_version_before(
    first: Path,
    second: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(machine, "DISK_MARGIN_BYTES", 0)
    prefix = small_disk / "edgekit"
    assert main("upgrade", first, "--prefix", prefix, "--no-compile") == 0
    free_bytes = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(free_bytes - 500_000))
    before = tree(prefix)
    assert main("upgrade", second, "--prefix", prefix, "--no-compile") == 5
    assert "of disk and" in capsys.readouterr().err
    monkeypatch.setattr(install, "check_disk", lambda *_: None)
    assert main("upgrade", second, "--prefix", prefix, "--no-compile") == 5
    assert "the disk is full" in capsys.readouterr().err
    assert tree(prefix) == before


def test_a_disk_that_is_read_only_ends_in_a_sentence(
    first: Path, second: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = small_disk / "edgekit"
    assert main("upgrade", first, "--prefix", prefix, "--no-compile") == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for command in (["upgrade", second, "--no-compile"], ["rollback"], ["uninstall"]):
        capsys.readouterr()
        assert main(*command, "--prefix", prefix) == 3
        assert "read-only" in capsys.readouterr().err
    assert current(prefix) == version_id(first)
    assert main("verify", "--prefix", prefix) == 0


def test_a_disk_without_links_is_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT answers EPERM; a real FAT disk needs a loop device, which is rarely there."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(BundleError, match="FAT"):
        disk.require_links(folder)


def test_a_folder_that_may_not_be_written_ends_in_a_sentence(first: Path, folder: Path) -> None:
    said, closed = folder / "said", folder / "closed"
    closed.mkdir(mode=0o555)
    folder.chmod(0o755)
    first.parent.chmod(0o755)

    def as_nobody() -> None:
        sys.stderr = said.open("w")
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)

    command = ["upgrade", str(first), "--prefix", str(closed / "edgekit")]
    assert run_command(command, prepare=as_nobody) == 3
    assert "permission denied" in said.read_text()
    assert "--prefix" in said.read_text()
    assert list(closed.iterdir()) == []


def test_what_is_written_outside_is_hardened_and_taken_away_again(
    first: Path, folder: Path, prefix: Path
) -> None:
    units, entries = folder / "made" / "units", folder / "entries"
    entries.mkdir()
    wishes = ["--systemd", "--systemd-folder", str(units)]
    wishes += ["--desktop", "--desktop-folder", str(entries)]
    done = start(first, prefix, *wishes)
    assert done.returncode == 0, done.stderr
    unit = (units / "edgekit-verify.service").read_text()
    for line in ("NoNewPrivileges=yes", "RestrictAddressFamilies=AF_UNIX", "MemoryMax="):
        assert line in unit
    for line in ("PrivateNetwork=yes", "ProtectSystem=strict"):
        assert (line in unit) == (os.geteuid() == 0)
    (units / "default.target.wants").mkdir()
    (units / "default.target.wants" / "edgekit-verify.service").symlink_to("../x")
    assert "Terminal=true" in (entries / "edgekit.desktop").read_text()
    (entries / "other.desktop").write_text("stays")
    assert device(prefix, "uninstall").returncode == 0
    assert [path.name for path in entries.iterdir()] == ["other.desktop"]
    assert list(units.iterdir()) == []


def test_a_stranger_file_is_neither_overwritten_nor_removed(
    first: Path, folder: Path, prefix: Path
) -> None:
    (folder / "edgekit.desktop").write_text("mine")
    done = start(first, prefix, "--desktop", "--desktop-folder", str(folder))
    assert done.returncode == 3
    (prefix / "notes.txt").write_text("mine")
    done = device(prefix, "uninstall", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stayed"] == [str(prefix / "notes.txt")]
    assert [path.name for path in prefix.iterdir()] == ["notes.txt"]
    assert (folder / "edgekit.desktop").read_text() == "mine"


def test_uninstall_names_the_chats_that_stay(
    first: Path, folder: Path, prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "home"
    (home / "chats").mkdir(parents=True)
    monkeypatch.setenv("EDGEKIT_HOME", str(home))
    assert start(first, prefix).returncode == 0
    done = device(prefix, "uninstall", "--json")
    assert json.loads(done.stdout)["home"] == str(home)
    assert str(home) in done.stderr
    assert (home / "chats").is_dir()


def test_the_command_line_reports_like_edgekit(
    prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("fly") == 2
    assert main("status", "--nonsense") == 2
    for command in ("status", "verify", "rollback", "uninstall"):
        assert main(command, "--prefix", prefix) == 3
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(BundleError):
        verify_installed(Prefix(prefix), None)  # type: ignore[arg-type]
