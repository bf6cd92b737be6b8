"""Text comes out whole, never past a stop text, however the bytes are cut."""

from __future__ import annotations

import random

import pytest

from runtimes.text_stream import TextStream


def stream(pieces: list[bytes], stops: tuple[str, ...]) -> tuple[list[str], bool]:
    text = TextStream(stops)
    out = [text.push(piece) for piece in pieces]
    return [*out, text.flush()], text.stopped


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    places = sorted(chance.sample(range(1, len(data)), chance.randrange(len(data))))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("no stop here", ("###",), "no stop here"),
        ("a ## b # c ###d", ("###",), "a ## b # c "),
        ("jä🙂üö🙂", ("🙂ü",), "jä"),
        ("xaaab", ("aab",), "xa"),
        ("abc", ("abc", "b"), "a"),
        ("one\nUser: two", ("\nUser:", "\n\n"), "one"),
        ("ends with ##", ("###",), "ends with ##"),
        ("日本語と🙂", (), "日本語と🙂"),
    ],
)
def test_every_cut_gives_the_same_text(text: str, stops: tuple[str, ...], expected: str) -> None:
    chance = random.Random(0)
    data = text.encode()
    cuts = [[data], [bytes([b]) for b in data], *(cut(data, chance) for _ in range(200))]
    for pieces in cuts:
        out, stopped = stream(pieces, stops)
        assert "".join(out) == expected
        assert stopped == (expected != text)


def test_half_a_character_is_held_back_and_replaced_only_at_the_end() -> None:
    smile = "🙂".encode()
    text = TextStream()
    assert text.push(b"a" + smile[:3]) == "a"
    assert text.push(smile[3:]) == "🙂"
    assert text.push(smile[:2]) == ""
    assert text.flush() == "\ufffd"


def test_bad_bytes_are_replaced_where_they_are() -> None:
    assert stream([b"a\xff", b"b"], ())[0] == ["a\ufffd", "b", ""]


def test_what_cannot_become_a_stop_text_is_not_held_back() -> None:
    text = TextStream(("###",))
    assert [text.push(piece) for piece in (b"a", b"#", b"b", b"##", b"c")] == [
        "a", "", "#b", "", "##c",
    ]  # fmt: skip


def test_nothing_comes_after_a_stop_text() -> None:
    text = TextStream(("stop",))
    assert text.push(b"go stop more") == "go "
    assert text.push(b"more") == ""
    assert text.flush() == ""
