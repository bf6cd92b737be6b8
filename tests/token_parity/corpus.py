"""The token corpus: a few thousand short texts on which every tokenizer must agree.

Built by code, the same on every machine: prose, scripts, code, numbers, emoji, odd white space,
special tokens inside text, control characters, combining marks, rendered chats and noise.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from itertools import product

from .phrases import (
    ANSWERS,
    CODE,
    EMOJI,
    NEARLY_SPECIAL,
    NUMERALS,
    PROSE,
    QUESTIONS,
    SCRIPTS,
    SPACES,
    SPECIAL,
)

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def build() -> dict[str, list[str]]:
    """Return the texts by category, without repetition."""
    random_source = random.Random(20240229)
    makers = {
        "prose": _prose,
        "scripts": _scripts,
        "code": _code,
        "numbers": _numbers,
        "emoji": _emoji,
        "spaces": _spaces,
        "special": _special,
        "control": _control,
        "combining": _combining,
        "chat": _chat,
        "noise": _noise,
    }
    return {name: list(dict.fromkeys(make(random_source))) for name, make in makers.items()}


def _words(random_source: random.Random, texts: list[str], count: int) -> str:
    words = " ".join(texts).split(" ")
    return " ".join(random_source.choices(words, k=count))


def _prose(random_source: random.Random) -> Iterator[str]:
    yield from PROSE
    for line in PROSE:
        yield from (line.upper(), line.lower(), line.title(), f" {line}", f"{line}\n")
    for _ in range(160):
        yield " ".join(random_source.sample(PROSE, 3))
        yield _words(random_source, PROSE, random_source.randint(2, 12))


def _scripts(random_source: random.Random) -> Iterator[str]:
    yield from SCRIPTS
    for line in SCRIPTS:
        yield from (line.upper(), line[::-1], f"{line} {random_source.choice(PROSE)}")
    for _ in range(150):
        yield _words(random_source, SCRIPTS, random_source.randint(2, 8))


def _code(random_source: random.Random) -> Iterator[str]:
    yield from CODE
    for snippet in CODE:
        yield snippet.replace("\n", "\r\n")
        yield snippet.replace("    ", "\t")
        yield "    " + snippet.replace("\n", "\n    ")
    for _ in range(120):
        yield "\n".join(random_source.sample(CODE, 2))
        yield f"x{random_source.randint(0, 99)} {random_source.choice('+-*/%&|^<>=')}= y;"


def _numbers(random_source: random.Random) -> Iterator[str]:
    yield from NUMERALS.split()
    yield NUMERALS
    units = ("kg", "ms", "°C", "%", " GB/s", " µm", "·10⁻³", "th", " €", "px", "k", " mol·L⁻¹")
    for _ in range(60):
        whole, part = random_source.randint(0, 10**9), random_source.random()
        yield from (str(whole), f"{whole:,}", f"-{whole}", f"{whole:x}", f"{part:.7f}")
        yield f"{whole}{random_source.choice(units)} and {part:.2e}{random_source.choice(units)}"
        day, hour = random_source.randint(1, 28), random_source.randint(0, 23)
        yield f"2024-{day % 12 + 1:02}-{day:02}T{hour:02}:{day + 30}:59.{whole % 1000:03}Z"
        yield f"{day}/{day % 12 + 1}/{1900 + hour * 5}, {hour}h{day}, +39 06 {whole}, 10.0.{hour}.1"


def _emoji(random_source: random.Random) -> Iterator[str]:
    yield from EMOJI
    for symbol in EMOJI:
        yield from (f"word{symbol}word", f" {symbol} ", f"{symbol}{symbol}{symbol}", f"5{symbol}.")
    for _ in range(80):
        yield "".join(random_source.choices(EMOJI, k=random_source.randint(2, 6)))


def _spaces(random_source: random.Random) -> Iterator[str]:
    for space in SPACES:
        yield from (space, f"a{space}", f"{space}a", f"a{space}b", f"a{space} b", f"a {space}b.")
        yield from (f"1{space}2", f"!{space}?", f"{space}\n{space}x{space}")
    for _ in range(120):
        pieces = random_source.choices(SPACES, k=3)
        yield "x".join((*pieces, "")) + pieces[0] + pieces[1]
    yield from ("", " " * 100, "\n" * 50, "a" + " " * 33 + "b", "\t" * 17 + "x", " \n" * 20)


def _special(random_source: random.Random) -> Iterator[str]:
    for token in SPECIAL + NEARLY_SPECIAL:
        yield from (token, f"a{token}b", f" {token} ", f"{token}\n{token}", f"{token}{token[:-1]}")
        yield from (f"\n\n{token}  x", f"'{token}'", token.upper(), f"9{token}9")
    for _ in range(80):
        pieces = random_source.choices(
            [*SPECIAL, *NEARLY_SPECIAL, *SPACES[:12], "word", " it's"], k=6
        )
        yield "".join(pieces)


def _control(random_source: random.Random) -> Iterator[str]:
    for code in (*range(32), *range(127, 160)):
        character = chr(code)
        yield from (character, f"in{character}to", f" {character} {character}{character}")
        yield from (f"!{character}!", f"({character}){character}=", f"{character}\n\n{character}\n")
    for code in (
        0xE000,
        0xF8FF,
        0xFDD0,
        0xFFFD,
        0xFFFE,
        0x378,
        0x40000,
        0x9FFFE,
        0xF0000,
        0x10FFFF,
    ):
        yield from (chr(code), f"in{chr(code)}to", f"the {chr(code)}", f"-{chr(code)}-")
    for mark in "\u200e\u200f\u202a\u202e\u2066\u2069\u061c\ufff9\U000e0001":
        yield from (mark, f"left{mark}right {mark}")
    for _ in range(60):
        codes = random_source.choices((*range(32), *range(65, 91), 32, 32), k=8)
        yield "".join(map(chr, codes))


def _combining(random_source: random.Random) -> Iterator[str]:
    for line in SCRIPTS:
        yield unicodedata.normalize("NFD", line)
        yield unicodedata.normalize("NFKC", line)
    marks = [
        chr(code) for code in (*range(0x300, 0x330), 0x20D0, 0x20E3, 0x483, 0x591, 0x94D, 0x3099)
    ]
    for _ in range(80):
        letters = random_source.choice(PROSE)[:20]
        yield "".join(c + "".join(random_source.choices(marks, k=2)) for c in letters)
        yield random_source.choice(marks) + letters


def _chat(random_source: random.Random) -> Iterator[str]:
    """Yield conversations as SmolLM2's template renders them."""
    for question, answer in product(QUESTIONS, ANSWERS):
        yield _turn("system", SYSTEM) + _turn("user", question) + "<|im_start|>assistant\n"
        yield _turn("user", question) + _turn("assistant", answer) + _turn("user", question)
    for _ in range(60):
        turns = [
            _turn(role, random_source.choice(PROSE + SCRIPTS + CODE))
            for role in ("system", "user", "assistant", "user")
        ]
        yield "".join(turns) + "<|im_start|>assistant\n"


def _turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def _noise(random_source: random.Random) -> Iterator[str]:
    """Yield random characters of the assigned planes; no surrogates, which are not text."""
    ranges = ((32, 0x24F), (0x370, 0x1FFF), (0x2000, 0x2BFF), (0x3000, 0xD7FF), (0x1F300, 0x1FAFF))
    for _ in range(200):
        low, high = random_source.choice(ranges)
        yield "".join(chr(random_source.randint(low, high)) for _ in range(12))
        mixed = (random_source.randint(*random_source.choice(ranges)) for _ in range(12))
        yield "".join(map(chr, mixed))
