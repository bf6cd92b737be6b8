"""`tokenizer.json` through Hugging Face's tokenizers library: text to ids, ids to bytes.

It knows no model and no template. Text that is not special is kept plain: a special token's
text inside it becomes ordinary tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.extras import need

MAX_BYTES = 64 << 20


class JsonTokenizer:
    """The tokenizer beside a model that holds none, such as an ONNX file."""

    def __init__(self, path: Path, extra: str) -> None:
        """Read the file `path`; `extra` is the one that brings the library.

        Raises InputError, MissingExtraError.
        """
        tokenizers = need("tokenizers", extra)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise InputError(f"{path} has {path.stat().st_size} bytes, more than {MAX_BYTES}")
            text = path.read_text(encoding="utf-8")
            document: Any = json.loads(text)
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except InputError:
            raise
        except Exception as error:  # the library raises nothing more precise
            raise InputError(f"{path} cannot be read as a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self._added: dict[int, bytes] = {
            token_id: token.content.encode() for token_id, token in added.items()
        }
        self._byte_level = _uses(document.get("decoder"), "ByteLevel")

    def ids(self, text: str, *, special: bool) -> list[int]:
        """Return the token ids of `text`; with `special`, texts of special tokens count as such.

        Adds no tokens of its own, such as one for the beginning of the text.
        """
        # lone surrogates, which no UTF-8 text has, become question marks
        clean = text.encode("utf-8", "replace").decode()
        self._tokenizer.encode_special_tokens = not special
        ids: list[int] = self._tokenizer.encode(clean, add_special_tokens=False).ids
        return ids

    def whole(self, text: str, most_tokens: int) -> tuple[Any, bool]:
        """Return the encoding of `text` with what the tokenizer adds at its ends; was it cut?

        At most `most_tokens`, the added ones included. Special tokens' texts are plain text.
        """
        clean = text.encode("utf-8", "replace").decode()
        self._tokenizer.encode_special_tokens = True
        encoding = self._tokenizer.encode(clean)
        if len(encoding.ids) <= most_tokens:
            return encoding, False
        self._tokenizer.enable_truncation(most_tokens)
        try:
            return self._tokenizer.encode(clean), True
        finally:
            self._tokenizer.no_truncation()

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token; an id without a token has none."""
        if token_id in self._added:
            return self._added[token_id]
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None:
            return b""
        return _byte_level_bytes(piece) if self._byte_level else _sentence_piece_bytes(piece)


def _uses(step: Any, kind: str) -> bool:
    """Return whether a step of tokenizer.json is of a kind, or is a sequence with one that is."""
    if not isinstance(step, dict):
        return False
    nested = step.get("decoders")
    return step.get("type") == kind or (
        isinstance(nested, list) and any(_uses(part, kind) for part in nested)
    )


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's alphabet: printable Latin-1 is itself, other bytes follow from U+0100 on.

    From `bytes_to_unicode` of https://github.com/openai/gpt-2/blob/master/src/encoder.py.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(others)}


def _byte_level_bytes(piece: str) -> bytes:
    alphabet = _byte_of_character()
    if all(character in alphabet for character in piece):
        return bytes(alphabet[character] for character in piece)
    return piece.encode()  # a token that was added without being marked as such


def _sentence_piece_bytes(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            pass
    return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()
