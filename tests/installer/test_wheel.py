"""What a wheel may not do, also when whoever made it holds the key."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from edgekit.installer.errors import BundleError
from edgekit.installer.wheel import member_pieces, read_wheel

from .tiny_bundle import make_wheel


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        _read_all(path)
    return caught.value.message


def _read_all(path: Path) -> None:
    for member in read_wheel(path):
        list(member_pieces(path, member))


def test_a_wheel_is_read_with_hashes_and_places(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    files = {
        "a/__init__.py": "x = 1\n",
        "a-1.0.data/purelib/b.py": "",
        "a-1.0.data/data/share/man/a.1": "man",
        "a-1.0.data/scripts/a": "#!python\n",
        "a-1.0.data/headers/a.h": "",
    }
    make_wheel(path, files, "a")
    members = {member.path: member for member in read_wheel(path)}
    assert {"a/__init__.py", "b.py", "man/a.1", "a-1.0.dist-info/RECORD"} < set(members)
    assert members["man/a.1"].shared
    assert not any(path.endswith((".h", "scripts/a")) for path in members)
    assert b"".join(member_pieces(path, members["a/__init__.py"])) == b"x = 1\n"


@pytest.mark.parametrize(
    "name",
    [
        "../outside.py",
        "/etc/cron.d/x",
        "a/../../x",
        "a\\x",
        "dummy-1.0.data/data/bin/sh",
        "dummy-1.0.data/data/share/edgekit/artifacts/x",
        "dummy-1.0.data/nowhere/x",
    ],
)
def test_a_member_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    make_wheel(tmp_path / "a.whl", {name: "x"})
    refused(tmp_path / "a.whl")


def test_names_that_collide_are_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path / "a.whl", {"a.py": "1", "A.py": "2"})
    assert "same file" in refused(tmp_path / "a.whl")
    make_wheel(tmp_path / "b.whl", {"a": "1", "a/b": "2"})
    assert "folder" in refused(tmp_path / "b.whl")


def _rewrite(path: Path, change: object) -> None:
    """Copy the wheel member by member through `change(info, data) -> (info, data) or None`."""
    with zipfile.ZipFile(path) as archive:
        held = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in held:
            kept = change(info, data)  # type: ignore[operator]
            if kept is not None:
                archive.writestr(*kept)


def test_a_link_is_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path / "a.whl", {"a.py": "/etc/passwd"})

    def link(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        if info.filename == "a.py":
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
        return info, data

    _rewrite(tmp_path / "a.whl", link)
    assert "link" in refused(tmp_path / "a.whl")


def test_content_that_is_not_as_recorded_is_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path / "a.whl", {"a.py": "abc"})
    _rewrite(tmp_path / "a.whl", lambda i, d: (i, b"abd" if i.filename == "a.py" else d))
    assert "RECORD" in refused(tmp_path / "a.whl")


def test_an_unrecorded_member_or_a_missing_one_is_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path / "a.whl", {"a.py": "abc"})
    with zipfile.ZipFile(tmp_path / "a.whl", "a") as archive:
        archive.writestr("b.py", "more")
    assert "b.py" in refused(tmp_path / "a.whl")
    make_wheel(tmp_path / "b.whl", {"a.py": "abc", "b.py": ""})
    _rewrite(tmp_path / "b.whl", lambda i, d: None if i.filename == "b.py" else (i, d))
    assert "b.py" in refused(tmp_path / "b.whl")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    make_wheel(tmp_path / "a.whl", {"a.bin": bytes(40_000_000)})
    assert (tmp_path / "a.whl").stat().st_size < 100_000
    assert "unpack" in refused(tmp_path / "a.whl")


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"PK\x03\x04" + bytes(100))
    refused(tmp_path / "a.whl")
    make_wheel(tmp_path / "b.whl", {"a.py": "abc" * 100})
    data = bytearray((tmp_path / "b.whl").read_bytes())
    data[60:80] = bytes(20)
    (tmp_path / "b.whl").write_bytes(data)
    refused(tmp_path / "b.whl")
