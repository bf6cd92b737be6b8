from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edgekit.errors import InputError
from tui.attach import MAX_BYTES, as_path, read_attachment
from tui.conversation import Attachment


def test_a_text_file_is_read_cleaned_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes("a\tb\r\nc\x1b[31m\x00".replace("\x00", "").encode())
    assert read_attachment(path, len) == Attachment("notes.txt", "a\tb\nc[31m", 9)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"], ids=lambda encoding: encoding
)
def test_marks_tell_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Grüße, 世界 🙂".encode(encoding))
    assert read_attachment(path, len).text == "Grüße, 世界 🙂"


def test_big_endian_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xfe\xff" + "ж".encode("utf-16-be"))
    assert read_attachment(path, len).text == "ж"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n", "byte 0 is not UTF-8"),
        (b"abc\x00def", "zero bytes"),
        (b"caf\xe9", "byte 3 is not UTF-8"),
        (b"\xff\xfea", "is not UTF-16-LE"),
        (b"", "no text"),
        (b" \n\t", "no text"),
    ],
)
def test_what_is_not_text_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason):
        read_attachment(path, len)


def test_a_file_over_the_limit_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    path.write_bytes(b"x" * MAX_BYTES)
    assert len(read_attachment(path, len).text) == MAX_BYTES
    path.write_bytes(b"x" * (2 * MAX_BYTES))
    with pytest.raises(InputError, match=r"8.00 MB, and 4.00 MB"):
        read_attachment(path, len)


@pytest.mark.skipif(os.name != "posix", reason="pipes, sockets and devices")
def test_only_files_are_opened_and_nothing_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path, reason in (
            (tmp_path, "is a folder"),
            (tmp_path / "pipe", "is a pipe"),
            (tmp_path / "socket", "cannot be read"),
            (Path("/dev/zero"), "is a device"),
            (tmp_path / "missing", "cannot be read: No such file"),
            (tmp_path / ("x" * 300), "cannot be read: File name too long"),
            (Path("/proc/self/mem"), "cannot be read"),
        ):
            with pytest.raises(InputError, match=reason):
                read_attachment(path, len)


@pytest.mark.parametrize(
    ("typed", "path"),
    [
        (" /a/b.txt ", "/a/b.txt"),
        ("'/a/my file.txt'", "/a/my file.txt"),
        ('"/a/my file.txt"', "/a/my file.txt"),
        ("/a/my\\ file\\ \\(1\\).txt", "/a/my file (1).txt"),
        ("file:///a/my%20file.txt", "/a/my file.txt"),
        ("~/b.txt", "HOME/b.txt"),
        ("my file.txt", "my file.txt"),
        ("it's", "it's"),
    ],
)
def test_paths_as_people_type_them_and_terminals_paste_them(typed: str, path: str) -> None:
    assert as_path(typed) == Path(path.replace("HOME", str(Path.home())))


@pytest.mark.skipif(os.name != "posix", reason="a backslash is a separator elsewhere")
def test_a_file_whose_name_has_a_backslash_is_found(tmp_path: Path) -> None:
    (tmp_path / "a\\ b").write_text("x")
    assert read_attachment(f"{tmp_path}/a\\ b", len).text == "x"


@pytest.mark.parametrize("typed", ["", "  ", "''", "a\0b", "~nobody-of-that-name/x"])
def test_what_names_no_file_is_refused(typed: str) -> None:
    with pytest.raises(InputError):
        as_path(typed)


@pytest.mark.skipif(os.name != "posix", reason="such names are not possible elsewhere")
def test_a_hostile_name_is_shown_clean(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2Jb\nc.txt"
    path.write_text("x")
    assert read_attachment(path, len).name == "a[2Jb c.txt"
    path.write_bytes(b"\xff\x00")
    with pytest.raises(InputError) as caught:
        read_attachment(path, len)
    assert "\x1b" not in caught.value.message
