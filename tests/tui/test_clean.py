from __future__ import annotations

import sys

from tui.clean import clean, clean_line, clean_paste


def test_no_control_character_survives_but_newline_and_tab() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    left = clean(every)
    controls = {c for c in left if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0}
    assert controls == {"\n", "\t"}
    left.encode()  # no lone surrogate either


def test_ordinary_text_is_untouched() -> None:
    text = "na\u00efve\t\u05e7\u05d5\u05d3 \u200f \u6f22 \U0001f469\u200d\U0001f467 a\u00a0b\n"
    assert clean(text) == text


def test_direction_overrides_go() -> None:
    assert clean("a\u202eb\u2066c\u2069d") == "abcd"


def test_a_paste_uses_newlines_only() -> None:
    assert clean_paste("a\r\nb\rc\u2028d\x1b[201~") == "a\nb\nc\nd[201~"


def test_a_line_is_one_line() -> None:
    assert clean_line(" a\n\tb\x07 ") == "a b"
