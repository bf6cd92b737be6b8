"""SentencePiece vocabularies (Llama 1 and 2, Mistral, TinyLlama), read from `tokenizer.json`.

There it is a BPE with byte fallback and a list of merges; llama.cpp joins whatever pair makes
the token of the highest score. The two agree only if the merges name every possible pair,
grouped by the token they make: that is checked, and what does not agree is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from edgekit.errors import InputError

SPACE = "\u2581"  # stands for a space inside tokens
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def adds_space_prefix(tokenizer: dict[str, Any], where: str) -> bool:
    """Return whether a text gets a leading space before it is split.

    Raises InputError for any treatment of spaces that llama.cpp does not do alike.
    """
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    normalizer, pre_tokenizer = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = normalizer.get("normalizers") if isinstance(normalizer, dict) else None
    if pre_tokenizer is None and steps == [prepend, replace]:
        return True
    if pre_tokenizer is None and replace in (normalizer, *(steps or ())) and len(steps or "-") == 1:
        return False
    raise InputError(
        f"{where}: spaces are treated in a way that llama.cpp does not know: normalizer "
        f"{normalizer!r:.200}, pre_tokenizer {pre_tokenizer!r:.200}"
    )


def scores(model: dict[str, Any], merges: list[tuple[str, str]], where: str) -> dict[str, float]:
    """Return a score for each token that merges make, so that llama.cpp makes the same ones.

    `model` is the BPE model of tokenizer.json. Raises InputError where no scores can do that.
    """
    vocabulary: dict[str, int] = model["vocab"]
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]
    if missing:
        raise InputError(f"{where}: byte fallback is on, and token {missing[0]} is missing")
    found: dict[str, float] = {}
    previous = None
    for left, right in merges:
        made = left + right
        if made != previous and made in found:
            raise InputError(f"{where}: the merges that make {made!r:.60} are not together")
        found.setdefault(made, -float(len(found)))
        previous = made
    _check_complete(vocabulary, set(merges), where)
    return found


def _check_complete(vocabulary: dict[str, int], merges: set[tuple[str, str]], where: str) -> None:
    for token in vocabulary:
        if BYTE_TOKEN.fullmatch(token):
            continue
        for pair in _pairs(token, vocabulary):
            if pair not in merges:
                raise InputError(
                    f"{where}: no merge makes {token!r:.60} of {pair[0]!r:.60} and "
                    f"{pair[1]!r:.60}, but llama.cpp would"
                )


def _pairs(token: str, vocabulary: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the ways to cut `token` into two pieces that a text can be in the middle of."""
    for cut in range(1, len(token)):
        left, right = token[:cut], token[cut:]
        if all(len(piece) == 1 or piece in vocabulary for piece in (left, right)):
            yield left, right
