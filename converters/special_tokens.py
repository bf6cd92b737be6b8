"""Special tokens: where a text begins and ends, gathered from a checkpoint's four files.

The tokenizer's files say which texts are special, the configurations say which ids; both are
needed, and they are checked against the vocabulary. It knows no output format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converters.checkpoint import Checkpoint
from edgekit.errors import InputError

# Tokenizer classes of transformers that put a beginning-of-text token first when not told.
BOS_BY_DEFAULT = ("LlamaTokenizer", "LlamaTokenizerFast")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Token ids. `stop` are all that end an answer; `eos` is the tokenizer's own, one of them.

    `add_bos` and `add_eos` say whether the tokenizer adds them around a text by itself.
    """

    bos: int | None
    eos: int
    pad: int | None
    unknown: int | None
    stop: tuple[int, ...]
    add_bos: bool
    add_eos: bool


def token_ids(checkpoint: Checkpoint) -> dict[str, int]:
    """Return the id of every token's text: the model's vocabulary and the added tokens.

    Raises InputError where the tokenizer is malformed or contradicts itself.
    """
    where = checkpoint.path / "tokenizer.json"
    model = checkpoint.tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise InputError(f"{where} has no vocabulary of texts and ids")
    ids: dict[str, int] = dict(vocabulary)
    for added in added_tokens(checkpoint):
        text, token_id = added["content"], added["id"]
        if ids.setdefault(text, token_id) != token_id:
            raise InputError(f"{where}: token {text!r:.60} has the ids {ids[text]} and {token_id}")
    if not all(type(token_id) is int and token_id >= 0 for token_id in ids.values()):
        raise InputError(f"{where}: the vocabulary has an id that is not a whole number")
    if len(set(ids.values())) != len(ids):
        raise InputError(f"{where}: two tokens of the vocabulary share an id")
    return ids


def added_tokens(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Return the added tokens, each with a `content` and an `id`. Raises InputError."""
    where = checkpoint.path / "tokenizer.json"
    tokens = checkpoint.tokenizer.get("added_tokens") or []
    if not isinstance(tokens, list):
        raise InputError(f"{where}: added_tokens is not a list")
    for token in tokens:
        if (
            not isinstance(token, dict)
            or not isinstance(token.get("content"), str)
            or type(token.get("id")) is not int
        ):
            raise InputError(f"{where}: an added token is malformed: {token!r:.80}")
    return tokens


def special_tokens(checkpoint: Checkpoint, ids: dict[str, int], rows: int) -> SpecialTokens:
    """Return the special tokens; `ids` are `token_ids(checkpoint)`, `rows` the embedding's.

    Raises InputError if no token ends a text, or if an id is not below `rows`.
    """
    named = {role: _named_token(checkpoint, role, ids) for role in ("bos", "eos", "pad", "unk")}
    ends = [named["eos"]] if named["eos"] is not None else []
    ends += _configured_ids(checkpoint, "eos_token_id")
    if not ends:
        raise InputError(
            f"{checkpoint.path} names no token that ends a text",
            hint="set eos_token_id in generation_config.json",
        )
    bos = named["bos"]
    if bos is None:
        bos = next(iter(_configured_ids(checkpoint, "bos_token_id")), None)
    for token_id in (*ends, *([] if bos is None else [bos])):
        if not 0 <= token_id < rows:
            raise InputError(
                f"{checkpoint.path}: special token {token_id} is outside the {rows} tokens"
            )
    return SpecialTokens(
        bos=bos,
        eos=ends[0],
        pad=named["pad"],
        unknown=named["unk"],
        stop=tuple(dict.fromkeys(ends)),
        add_bos=bos is not None and _adds(checkpoint, "bos", 0, bos, ids),
        add_eos=_adds(checkpoint, "eos", -1, ends[0], ids),
    )


def _named_token(checkpoint: Checkpoint, role: str, ids: dict[str, int]) -> int | None:
    """Return the id of the token that the tokenizer's configuration names for `role`."""
    entry = checkpoint.tokenizer_config.get(f"{role}_token")
    text = entry.get("content") if isinstance(entry, dict) else entry
    return ids.get(text) if isinstance(text, str) else None


def _configured_ids(checkpoint: Checkpoint, key: str) -> list[int]:
    """Return the ids under `key`: those of the generation configuration come before the model's."""
    for settings in (checkpoint.generation_config, checkpoint.config):
        value = settings.get(key)
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        if not all(type(v) is int for v in values):
            raise InputError(f"{checkpoint.path}: {key} is {value!r:.60}, not a token id")
        if values:
            return values
    return []


def _adds(
    checkpoint: Checkpoint, role: str, place: int, token_id: int, ids: dict[str, int]
) -> bool:
    """Return whether the tokenizer puts the token `role` at `place` (0 or -1) of every text."""
    told = checkpoint.tokenizer_config.get(f"add_{role}_token")
    if isinstance(told, bool):
        return told
    for template in _templates(checkpoint.tokenizer.get("post_processor")):
        piece = template[place] if template else None
        special = piece.get("SpecialToken") if isinstance(piece, dict) else None
        if isinstance(special, dict) and ids.get(str(special.get("id"))) == token_id:
            return True
        if special is None and len(template) > 0:
            return False
    tokenizer_class = checkpoint.tokenizer_config.get("tokenizer_class")
    return role == "bos" and tokenizer_class in BOS_BY_DEFAULT


def _templates(post_processor: Any) -> list[list[Any]]:
    """Return the `single` templates of a post-processor of tokenizer.json, nested or not."""
    if not isinstance(post_processor, dict):
        return []
    if post_processor.get("type") == "Sequence":
        nested = post_processor.get("processors")
        return [t for p in nested for t in _templates(p)] if isinstance(nested, list) else []
    single = post_processor.get("single")
    return [single] if isinstance(single, list) else []
