"""The vocabulary of a BPE tokenizer, made smaller: which tokens a kept token needs, and the file.

A token of byte-pair encoding is only reached if the merges that make it are there, and the tokens
between. Merges that are left keep their order, so a word whose merges all stay is cut as before
(the encoding always takes the earliest merge that is possible). It knows no model and no text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from converters.checkpoint import Checkpoint
from converters.special_tokens import added_tokens, token_ids
from edgekit.errors import InputError

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Bpe:
    """A tokenizer.json of the kind BPE.

    `ids` maps the texts of all tokens to ids, `ranks` a pair of tokens to the place of its merge,
    and `always` are the texts that any vocabulary keeps: bytes, single characters of a byte-level
    alphabet, the unknown token, all added tokens, and those that the tokenizer puts around texts.
    """

    ids: dict[str, int]
    ranks: dict[Pair, int]
    always: frozenset[str]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Bpe:
        """Read the tokenizer of `checkpoint`. Raises InputError for one that is not plain BPE."""
        where = checkpoint.path / "tokenizer.json"
        ids = token_ids(checkpoint)
        model = checkpoint.tokenizer["model"]
        kind = model.get("type", "BPE")
        if kind != "BPE" or not isinstance(model.get("merges"), list):
            raise InputError(
                f"{where}: the tokenizer is {kind!r:.40}, its vocabulary cannot be pruned",
                hint="supported: BPE with a list of merges",
            )
        for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
            if model.get(key):
                raise InputError(f"{where}: a tokenizer with {key} cannot be pruned")
        pairs = (_pair(merge, f"{where}") for merge in model["merges"])
        ranks = {pair: rank for rank, pair in reversed(list(enumerate(pairs)))}
        always = {t["content"] for t in added_tokens(checkpoint)} | {str(model.get("unk_token"))}
        always |= set(_put_around(checkpoint.tokenizer.get("post_processor")))
        if model.get("byte_fallback"):
            always |= {text for text in ids if _BYTE.fullmatch(text)}
        else:
            always |= {text for text in ids if len(text) == 1}
        return cls(ids, ranks, frozenset(always & ids.keys()))

    def parts(self, token: str) -> set[str]:
        """Return the tokens that lie between the characters of `token` and itself, all included.

        Characters that are no tokens, which bytes stand for, are left out.
        """
        pieces = list(token)
        found = {token, *pieces}
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            place = min(range(len(pairs)), key=lambda i: self.ranks.get(pairs[i], len(self.ranks)))
            if pairs[place] not in self.ranks:
                break
            pieces[place : place + 2] = ["".join(pairs[place])]
            found.add(pieces[place])
        return found & self.ids.keys()

    def closed(self, tokens: Iterable[str]) -> set[str]:
        """Return `tokens`, what makes them, and what any vocabulary keeps."""
        return set(self.always).union(*(self.parts(token) for token in tokens))

    def filled(self, kept: set[str], multiple: int) -> set[str]:
        """Return `kept` with the results of the earliest merges added, up to a multiple.

        The earliest merges made the most frequent tokens of the tokenizer's own training text.
        """
        kept = set(kept)
        missing = -len(kept) % multiple
        for left, right in self.ranks:
            if not missing:
                break
            if left in kept and right in kept and left + right not in kept:
                kept.add(left + right)
                missing -= 1
        return kept


def rebuilt(tokenizer: Mapping[str, Any], new_ids: Mapping[str, int]) -> dict[str, Any]:
    """Return tokenizer.json with the tokens of `new_ids` only, under those ids."""
    model = dict(tokenizer["model"])
    model["vocab"] = {
        text: new_id
        for text, new_id in sorted(new_ids.items(), key=lambda item: item[1])
        if text in model["vocab"]
    }
    model["merges"] = [merge for merge in model["merges"] if _survives(merge, new_ids)]
    added = [{**t, "id": new_ids[t["content"]]} for t in tokenizer.get("added_tokens") or []]
    return {
        **tokenizer,
        "model": model,
        "added_tokens": sorted(added, key=lambda token: int(token["id"])),
        "post_processor": _renumbered(tokenizer.get("post_processor"), new_ids),
        "padding": _padding(tokenizer.get("padding"), new_ids),
    }


def _pair(merge: Any, where: str) -> Pair:
    match merge.split(" ") if isinstance(merge, str) else merge:
        case [str(left), str(right)]:
            return left, right
    raise InputError(f"{where}: merge {merge!r:.60} is not a pair of tokens")


def _survives(merge: Any, new_ids: Mapping[str, int]) -> bool:
    left, right = _pair(merge, "tokenizer.json")
    return left in new_ids and right in new_ids and left + right in new_ids


def _put_around(processor: Any) -> Iterator[str]:
    """Yield the texts of the tokens that a post-processor adds."""
    match processor:
        case {"type": "Sequence", "processors": list(parts)}:
            for part in parts:
                yield from _put_around(part)
        case {"type": "TemplateProcessing", "special_tokens": dict(tokens)}:
            for entry in tokens.values():
                yield from entry["tokens"]
        case {"type": "BertProcessing" | "RobertaProcessing", "sep": [sep, _], "cls": [cls, _]}:
            yield from (sep, cls)


def _new_id(text: str, new_ids: Mapping[str, int]) -> int:
    if text not in new_ids:
        raise InputError(f"the tokenizer adds {text!r:.60} around texts, which is no token")
    return new_ids[text]


def _renumbered(processor: Any, new_ids: Mapping[str, int]) -> Any:
    """Return a post-processor with the new ids of the tokens that it adds."""
    match processor:
        case {"type": "Sequence", "processors": list(parts)}:
            return {**processor, "processors": [_renumbered(part, new_ids) for part in parts]}
        case {"type": "TemplateProcessing", "special_tokens": dict(tokens)}:
            return {
                **processor,
                "special_tokens": {
                    name: {**entry, "ids": [_new_id(t, new_ids) for t in entry["tokens"]]}
                    for name, entry in tokens.items()
                },
            }
        case {"type": "BertProcessing" | "RobertaProcessing", "sep": [sep, _], "cls": [cls, _]}:
            ids = {"sep": [sep, _new_id(sep, new_ids)], "cls": [cls, _new_id(cls, new_ids)]}
            return {**processor, **ids}
    return processor


def _padding(padding: Any, new_ids: Mapping[str, int]) -> Any:
    if not isinstance(padding, dict) or padding.get("pad_token") not in new_ids:
        return padding
    return {**padding, "pad_id": new_ids[padding["pad_token"]]}
