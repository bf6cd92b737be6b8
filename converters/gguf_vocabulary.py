"""The vocabulary of a GGUF file, from `tokenizer.json`: tokens, types, merges, pre-tokenizer.

llama.cpp knows pre-tokenizers by name only. The name is found by comparing the whole structure
with known ones; what is not known is refused, because a near miss gives other tokens without
any error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from converters import gguf_sentencepiece
from converters.checkpoint import Checkpoint
from converters.special_tokens import added_tokens, token_ids
from edgekit.errors import InputError

# Token types, as in enum llama_token_type of llama.h.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BYTES, _BYTES_AND_WORDS = ("ByteLevel", False), ("ByteLevel", True)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What `tokenizer.json` must hold for llama.cpp's pre-tokenizer `name` to do the same.

    `steps` are in order: ("Digits",), ("Split", regex) or ("ByteLevel", splits into words).
    `ignore_merges` None means that either value gives the same tokens.
    """

    name: str
    steps: tuple[tuple[Any, ...], ...]
    ignore_merges: bool | None = False
    normalizers: tuple[str | None, ...] = (None,)


# llama.cpp does not normalise text, so with "qwen2" decomposed characters (NFD) stay so.
PRE_TOKENIZERS = (
    PreTokenizer("smollm", (("Digits",), _BYTES_AND_WORDS)),
    # The same rule. ONNX Runtime GenAI 0.14 takes the steps above in the wrong order.
    PreTokenizer("smollm", (("Split", r"\p{N}"), ("Split", _GPT2), _BYTES)),
    PreTokenizer("gpt-2", (_BYTES_AND_WORDS,)),
    PreTokenizer(
        "qwen2",
        (("Split", rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"), _BYTES),
        normalizers=(None, "NFC"),
    ),
    PreTokenizer(
        "llama-bpe",
        (("Split", rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"), _BYTES),
        ignore_merges=True,
    ),
    PreTokenizer("tekken", (("Split", _TEKKEN), _BYTES), ignore_merges=None),
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A vocabulary as llama.cpp wants it; tokens, types and scores for each embedding row.

    `model` is "gpt2" for byte-level BPE, which has `merges` ("left right", in order of rank),
    and "llama" for SentencePiece, which has `scores`. `ids` maps texts of tokenizer.json to ids.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    ids: dict[str, int] = field(repr=False)
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    add_space_prefix: bool = False


def read_vocabulary(checkpoint: Checkpoint, rows: int) -> Vocabulary:
    """Return the vocabulary, padded with unused tokens to `rows`, the embedding's.

    Raises InputError for a tokenizer that llama.cpp cannot reproduce, and if tokenizer and
    model disagree about the number of tokens.
    """
    where = str(checkpoint.path / "tokenizer.json")
    model = _bpe_model(checkpoint.tokenizer, where)
    ids = token_ids(checkpoint)
    tokens, types = _tokens(checkpoint, ids, rows)
    merges = _merges(model, ids, where)
    if not model.get("byte_fallback"):
        pre = pre_tokenizer_name(checkpoint.tokenizer, where)
        texts = [f"{left} {right}" for left, right in merges]
        return Vocabulary("gpt2", pre, tokens, types, ids, merges=texts)
    prefix = gguf_sentencepiece.adds_space_prefix(checkpoint.tokenizer, where)
    scores = gguf_sentencepiece.scores(model, merges, where)
    types = [_fallback_type(model, token, kind) for token, kind in zip(tokens, types, strict=True)]
    by_row = [scores.get(token, 0.0) for token in tokens]
    return Vocabulary(
        "llama", "default", tokens, types, ids, scores=by_row, add_space_prefix=prefix
    )


def _tokens(checkpoint: Checkpoint, ids: dict[str, int], rows: int) -> tuple[list[str], list[int]]:
    """Return the text and the type of every row, rows without a token as unused padding."""
    where = str(checkpoint.path / "tokenizer.json")
    if max(ids.values()) >= rows:
        raise InputError(
            f"{where} has token {max(ids.values())}, the model's embedding has {rows} rows",
            hint="tokenizer and model disagree: are both from one checkpoint?",
        )
    tokens = [f"[PAD{token_id}]" for token_id in range(rows)]
    types = [UNUSED] * rows
    for text, token_id in ids.items():
        tokens[token_id], types[token_id] = text, NORMAL
    for added in added_tokens(checkpoint):
        _check_plain(added, where)
        types[added["id"]] = CONTROL if _is_control(added) else USER_DEFINED
    if len(set(tokens)) != rows or "" in ids:
        raise InputError(f"{where}: the vocabulary has an empty or a repeated token")
    return tokens, types


def _fallback_type(model: dict[str, Any], token: str, kind: int) -> int:
    """Return the type of a SentencePiece token, `kind` unless it is a byte or the unknown one."""
    if gguf_sentencepiece.BYTE_TOKEN.fullmatch(token):
        return BYTE
    return UNKNOWN if token == model.get("unk_token") else kind


def _bpe_model(tokenizer: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the model of tokenizer.json. Raises InputError for one that is not plain BPE."""
    model = tokenizer.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "BPE":
        raise InputError(f"{where}: the tokenizer is {kind!r:.60}", hint="supported: BPE")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise InputError(f"{where}: the tokenizer has {key}, which llama.cpp cannot do")
    return model


def pre_tokenizer_name(tokenizer: dict[str, Any], where: str) -> str:
    """Return llama.cpp's name of what splits text before the merges.

    Raises InputError that says what was found if no known pre-tokenizer does the same.
    """
    steps = tuple(_steps(tokenizer.get("pre_tokenizer")))
    normalizer = _normalizer(tokenizer.get("normalizer"))
    ignore_merges = bool(_bpe_model(tokenizer, where).get("ignore_merges"))
    for known in PRE_TOKENIZERS:
        if (
            steps == known.steps
            and normalizer in known.normalizers
            and known.ignore_merges in (None, ignore_merges)
        ):
            return known.name
    raise InputError(
        f"{where}: no pre-tokenizer of llama.cpp is known to do the same as "
        f"{list(steps)!r:.400}, normalizer {normalizer}, ignore_merges {ignore_merges}",
        hint="known: " + ", ".join(known.name for known in PRE_TOKENIZERS),
    )


def _steps(pre_tokenizer: Any) -> list[tuple[Any, ...]]:
    """Return the steps of a pre-tokenizer of tokenizer.json, sequences flattened."""
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": list(parts)}:
            return [step for part in parts for step in _steps(part)]
        case {"type": "Digits", "individual_digits": True}:
            return [("Digits",)]
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return [("ByteLevel", bool(pre_tokenizer.get("use_regex", True)))]
        case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated"}:
            if not pre_tokenizer.get("invert"):
                return [("Split", regex)]
        case None:
            return []
    return [("unknown", pre_tokenizer)]


def _normalizer(normalizer: Any) -> str | None:
    match normalizer:
        case None | {"type": "Sequence", "normalizers": []}:
            return None
        case {"type": "Sequence", "normalizers": [only]}:
            return _normalizer(only)
        case {"type": str(kind)}:
            return kind
    return repr(normalizer)[:80]


def _check_plain(added: dict[str, Any], where: str) -> None:
    """Refuse an added token that swallows neighbours: llama.cpp matches the bare text."""
    for key in ("lstrip", "rstrip", "single_word"):
        if added.get(key):
            raise InputError(
                f"{where}: token {added['content']!r:.60} has {key}, which llama.cpp cannot do"
            )


def _is_control(added: dict[str, Any]) -> bool:
    """Return whether a token is markup; some trainers forget to say so of `<|...|>`."""
    text = added["content"]
    return bool(added.get("special")) or (text.startswith("<|") and text.endswith("|>"))


def _merges(model: dict[str, Any], ids: dict[str, int], where: str) -> list[tuple[str, str]]:
    """Return the merges in order of rank, each checked to make a token of the vocabulary."""
    merges = model.get("merges")
    if not isinstance(merges, list) or not merges:
        raise InputError(f"{where} has no merges")
    pairs = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        match parts:
            case [str(left), str(right)] if left + right in ids and " " not in left + right:
                pairs.append((left, right))
            case _:
                raise InputError(f"{where}: merge {merge!r:.60} makes no token")
    return pairs
