"""Duplicates among records: equal ones by a hash, similar ones by MinHash.

Broder 1997, "On the resemblance and containment of documents": the share of equal minima over
random orders of two sets estimates their Jaccard similarity. Similar records are looked for
among those that agree in a band of minima (Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", 3.4). It keeps about 800 bytes a record in memory, and no text.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from array import array

import numpy as np
from numpy.typing import NDArray

SIMILAR = 0.8  # the estimated Jaccard similarity from which records count as near duplicates
SHINGLE_WORDS = 3
BANDS, ROWS = 8, 4  # finds a pair with a similarity of 0.8 in 98 of 100 cases
_FACTORS = np.random.default_rng(1997).integers(1, 1 << 63, (2, BANDS * ROWS), dtype=np.uint64)
_WORD = re.compile(r"\w+")


def content_hash(text: str) -> int:
    """Return 64 bits that are equal for texts that differ in case, spaces and punctuation alone.

    Texts without a letter or a digit are hashed as they are.
    """
    words = " ".join(_words(text)) or text
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big")


class NearDuplicates:
    """Is shown records one after the other, and says which earlier one each is like."""

    def __init__(self) -> None:
        self._minima = array("I")  # of all records, one behind the other
        self._bands: dict[int, int] = {}

    def add(self, text: str) -> int | None:
        """Return the number of an earlier record that `text` is like, None if there is none.

        Records are numbered from 0 in the order in which they are shown.
        """
        minima = _minima(text)
        number = len(self._minima) // len(minima)
        self._minima.extend(minima.tolist())
        like: int | None = None
        for band in range(BANDS):
            agreeing = minima[band * ROWS : (band + 1) * ROWS].tobytes()
            key = int.from_bytes(agreeing, "little") * BANDS + band
            other = self._bands.setdefault(key, number)
            if like is None and other != number:
                first = other * len(minima)
                others = np.array(self._minima[first : first + len(minima)], dtype=np.uint32)
                share = float(np.equal(others, minima).mean())
                like = other if share >= SIMILAR else None
        return like


def _minima(text: str) -> NDArray[np.uint32]:
    """Return the smallest hash of the text's shingles in each random order: uint32 [orders]."""
    words = _words(text) or [text]
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    shingles = {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(count)}
    hashes = np.array([zlib.crc32(s.encode()) for s in sorted(shingles)], dtype=np.uint64)
    # Multiply-shift hashing (Dietzfelbinger et al. 1997): the upper half of a product modulo 2^64.
    mixed = (hashes[:, None] * (_FACTORS[0] | np.uint64(1)) + _FACTORS[1]) >> np.uint64(32)
    smallest: NDArray[np.uint32] = mixed.min(axis=0).astype(np.uint32)
    return smallest


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
