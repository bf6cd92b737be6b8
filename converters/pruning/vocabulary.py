"""Vocabulary: tokens that a language or a domain does not use, removed with their rows.

Kept are the tokens of a given text and of the chat template, what makes them, single bytes and
characters, and everything special; so any text can still be written, in more and shorter tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.architectures import Role
from converters.checkpoint import Checkpoint
from converters.pruning.bpe import Bpe, rebuilt
from converters.pruning.draft import Draft, keep_rows
from converters.pruning.running import Ids
from converters.reference import load_tokenizer
from edgekit.errors import InputError
from edgekit.extras import need

MULTIPLE = 64  # engines multiply the output's rows in blocks
MAX_TEXT_BYTES = 64 << 20
PIECE_CHARACTERS = 1 << 20
# Files of other tokenizer classes that say the same as tokenizer.json: they would be stale.
OTHER_FORMS = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class Selection:
    """The vocabulary that stays.

    `kept_ids` are the old ids in the order of the new ones, int64, ascending. `old`, `new`:
    the tokenizers. `document` is the new tokenizer.json. `text_tokens` counts the text that it was
    made for; both tokenizers cut that alike.
    """

    kept_ids: NDArray[np.int64]
    rows: int
    old: Any
    new: Any
    document: dict[str, Any]
    text_name: str
    text_tokens: int

    def record(self) -> dict[str, Any]:
        """Return what was removed, as plain JSON."""
        return {
            "kind": "vocabulary", "method": "tokens of a text", "text": self.text_name,
            "text_tokens": self.text_tokens, "kept": len(self.kept_ids), "of": self.rows,
        }  # fmt: skip


def select(checkpoint: Checkpoint, text: Path) -> Selection:
    """Return the vocabulary that the file `text`, UTF-8, needs; no tensor is read.

    Raises InputError for a text that cannot be read or uses everything, and for a tokenizer that
    is not BPE or does more than that.
    """
    old = load_tokenizer(checkpoint)  # proves the file's structure
    bpe, rows = Bpe.of(checkpoint), checkpoint.config["vocab_size"]
    used: set[int] = set()
    tokens = 0
    for piece in [*_pieces(text), checkpoint.chat_template or ""]:
        ids = old.encode(piece, add_special_tokens=False).ids
        used.update(ids)
        tokens += len(ids)
    texts = {token_id: token for token, token_id in bpe.ids.items()}
    configured = set(_configured(checkpoint))
    named = {texts[token_id] for token_id in configured & texts.keys()} | set(_named(checkpoint))
    kept = bpe.closed([*(texts[token_id] for token_id in used), *(named & bpe.ids.keys())])
    kept_ids = sorted({bpe.ids[t] for t in bpe.filled(kept, MULTIPLE)} | configured)
    if kept_ids[-1] >= rows:
        raise InputError(
            f"{checkpoint.path}: the tokenizer has token {kept_ids[-1]}, the model {rows} rows"
        )
    if len(kept_ids) >= rows:
        raise InputError(f"{text} leaves no token to remove: all {rows} stay")
    new_ids = {texts[old_id]: new for new, old_id in enumerate(kept_ids) if old_id in texts}
    document = rebuilt(checkpoint.tokenizer, new_ids)
    new = need("tokenizers", "convert").Tokenizer.from_str(json.dumps(document))
    selection = Selection(
        np.array(kept_ids, dtype=np.int64), rows, old, new, document, text.name, tokens
    )
    _prove(selection, text)
    return selection


def retell(selection: Selection, ids: Ids) -> tuple[list[int], list[int]] | None:
    """Return the text of `ids` as the old tokenizer cuts it, and as the new one does: old ids.

    None where `ids` are no whole text, such as half a character.
    """
    text = selection.old.decode(list(ids), skip_special_tokens=False)
    if "\ufffd" in text:
        return None
    old = selection.old.encode(text, add_special_tokens=False).ids
    new = selection.new.encode(text, add_special_tokens=False).ids
    if len(old) < 2 or len(new) < 2:
        return None
    return old, [int(old_id) for old_id in selection.kept_ids[new]]


def keep_tokens(draft: Draft, selection: Selection) -> Draft:
    """Return the draft with the rows of the kept tokens, and files that speak of their new ids."""
    names = [f"{role}.weight" for role in (Role.EMBEDDING, Role.OUTPUT)]
    kept = selection.kept_ids
    weights = {n: keep_rows(draft.weights[n], kept) for n in names if n in draft.weights}
    new_ids = {int(old): new for new, old in enumerate(kept)}
    config = {**_renumbered(draft.config, new_ids), "vocab_size": len(kept)}
    files = {**draft.files, **_files(draft.source, selection.document, new_ids)}
    return replace(draft.changed(config, weights), files=files, kept_ids=kept)


def _prove(selection: Selection, text: Path) -> None:
    """Raise InputError unless both tokenizers cut the text alike."""
    for piece in _pieces(text):
        old = selection.old.encode(piece, add_special_tokens=False).ids
        new = selection.new.encode(piece, add_special_tokens=False).ids
        if not np.array_equal(selection.kept_ids[new], old):
            raise InputError(
                "the tokenizer does more than its merges say: its vocabulary cannot be pruned"
            )


def _pieces(path: Path) -> Iterator[str]:
    """Yield the text, cut before a line that follows an empty one or where a piece grows long."""
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, {MAX_TEXT_BYTES} at most")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the text {path} cannot be read: {error}") from error
    if not text.strip():
        raise InputError(f"the text {path} is empty", hint="give a text in the language to keep")
    first = 0
    while first < len(text):
        end = text.find("\n", first + PIECE_CHARACTERS)
        end = len(text) if end < 0 else end
        yield text[first:end]
        first = end


def _configured(checkpoint: Checkpoint) -> Iterator[int]:
    """Yield the ids that the configurations name, where the model has them."""
    for settings in (checkpoint.config, checkpoint.generation_config):
        for key, value in settings.items():
            if key.endswith("token_id"):
                for token_id in value if isinstance(value, list) else [value]:
                    if type(token_id) is int and 0 <= token_id < checkpoint.config["vocab_size"]:
                        yield token_id


def _named(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield the texts of the special tokens that the tokenizer's configuration names."""
    settings = checkpoint.tokenizer_config
    values = [value for key, value in settings.items() if key.endswith("_token")]
    more = settings.get("additional_special_tokens")
    for value in [*values, *(more if isinstance(more, list) else [])]:
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            yield text


def _renumbered(settings: Mapping[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    """Return a configuration with new ids; an id that no token has becomes null."""

    def renumber(value: Any) -> Any:
        if isinstance(value, list):
            return [new for v in value if (new := renumber(v)) is not None]
        return new_ids.get(value) if type(value) is int and value >= 0 else value

    # suppress_tokens and begin_suppress_tokens are lists of ids too
    return {
        key: renumber(value)
        if key.endswith("token_id") or (key.endswith("_tokens") and isinstance(value, list))
        else value
        for key, value in settings.items()
    }


def _files(
    source: Checkpoint, tokenizer: dict[str, Any], new_ids: Mapping[int, int]
) -> dict[str, bytes | None]:
    """Return the companion files that hold ids, with the new ones."""
    files: dict[str, bytes | None] = dict.fromkeys(OTHER_FORMS)
    files["tokenizer.json"] = _json(tokenizer)
    if source.generation_config:
        files["generation_config.json"] = _json(_renumbered(source.generation_config, new_ids))
    decoder = source.tokenizer_config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        renumbered = {
            str(new_ids[int(old)]): entry
            for old, entry in decoder.items()
            if old.isdecimal() and int(old) in new_ids
        }
        files["tokenizer_config.json"] = _json(
            {**source.tokenizer_config, "added_tokens_decoder": renumbered}
        )
    return files


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode()
