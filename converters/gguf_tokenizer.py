"""GGUF tokenizer: rebuilds the files of a Hugging Face tokenizer from GGUF metadata.

Only byte-level BPE whose pre-tokenizer is known by name: a wrong one gives other tokens and no
error, so nothing is guessed. It knows nothing of weights.
"""

from __future__ import annotations

from typing import Any

from converters.gguf_vocabulary import (
    CONTROL,
    PRE_TOKENIZERS,
    UNKNOWN,
    USER_DEFINED,
    PreTokenizer,
)
from edgekit.errors import InputError
from edgekit.gguf_header import GgufHeader

# Where a name has two forms, the later one is read right by more tokenizers. "tekken" is left
# out: llama.cpp only approximates it, so the model's own tokenizer would give other tokens.
_BY_NAME = {known.name: known for known in PRE_TOKENIZERS if known.name != "tekken"}
# Other names of tokenizer.ggml.pre for which src/llama-vocab.cpp does exactly the same.
_ALIASES = {
    "starcoder": "smollm",
    "refact": "smollm",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "deepseek-r1-qwen": "qwen2",
}
# For these llama.cpp adds a beginning-of-text token unless tokenizer.ggml.add_bos_token is there,
# and takes a piece of text that is a token whole, without merging.
_ADDS_BOS = _IGNORES_MERGES = ("llama-bpe",)


def tokenizer_files(header: GgufHeader) -> dict[str, dict[str, Any]]:
    """Return the JSON documents of the tokenizer in `header`, by file name.

    They are tokenizer.json, tokenizer_config.json (with the chat template) and
    special_tokens_map.json. No text is normalised, because llama.cpp normalises none.

    Raises InputError for another model than byte-level BPE, an unknown pre-tokenizer, and a
    vocabulary that contradicts itself.
    """
    rebuild = _Rebuild(header)
    return {
        "tokenizer.json": rebuild.tokenizer(),
        "tokenizer_config.json": rebuild.config(),
        "special_tokens_map.json": rebuild.special,
    }


class _Rebuild:
    """The checked parts of one tokenizer: its pre-tokenizer, token ids and special tokens."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        self.pre = _pre_tokenizer(header)
        self.ids = _token_ids(header)
        self.special = self.special_tokens()
        self.adds_bos = self.flag("add_bos_token", self.pre.name in _ADDS_BOS)
        self.adds_eos = self.flag("add_eos_token", False)

    def flag(self, key: str, default: bool) -> bool:
        return self.header.get(f"tokenizer.ggml.{key}", bool, default)

    def special_tokens(self) -> dict[str, str]:
        """Return transformers' names of the special tokens and their texts."""
        texts = list(self.ids)
        names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
        return {
            f"{name}_token": texts[self.header.get(key, int)]
            for gguf_name, name in names.items()
            if (key := f"tokenizer.ggml.{gguf_name}_token_id") in self.header.metadata
        }

    def tokenizer(self) -> dict[str, Any]:
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self.added_tokens(),
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [_step(*step) for step in self.pre.steps],
            },
            "post_processor": self.post_processor(),
            "decoder": _byte_level(splits=True),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": self.pre.name in _IGNORES_MERGES,
                "vocab": self.ids,
                "merges": self.merges(),
            },
        }

    def added_tokens(self) -> list[dict[str, Any]]:
        """Return the tokens that are found in a text before it is split."""
        types = self.header.get_list("tokenizer.ggml.token_type", int)
        return [
            {
                "id": token_id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": types[token_id] != USER_DEFINED,
            }
            for token, token_id in self.ids.items()
            if types[token_id] in (UNKNOWN, CONTROL, USER_DEFINED)
        ]

    def merges(self) -> list[list[str]]:
        merges = []
        for rank, merge in enumerate(self.header.get_list("tokenizer.ggml.merges", str)):
            left, _, right = merge.partition(" ")
            for part in (left, right, left + right):
                if part not in self.ids:
                    raise InputError(
                        f"{self.header.path}: merge {rank}, {merge!r:.60}, needs the token "
                        f"{part!r:.60}, which is not in the vocabulary"
                    )
            merges.append([left, right])
        return merges

    def post_processor(self) -> dict[str, Any] | None:
        """Return the template that puts special tokens around a text, or None for none."""
        before = [self.required("bos_token")] if self.adds_bos else []
        after = [self.required("eos_token")] if self.adds_eos else []
        if not before and not after:
            return None

        def template(name: str, type_id: int) -> list[dict[str, Any]]:
            def single(token: str) -> dict[str, Any]:
                return {"SpecialToken": {"id": token, "type_id": type_id}}

            text = {"Sequence": {"id": name, "type_id": type_id}}
            return [*map(single, before), text, *map(single, after)]

        return {
            "type": "TemplateProcessing",
            "single": template("A", 0),
            "pair": template("A", 0) + template("B", 1),
            "special_tokens": {
                token: {"id": token, "ids": [self.ids[token]], "tokens": [token]}
                for token in (*before, *after)
            },
        }

    def required(self, name: str) -> str:
        if name not in self.special:
            raise InputError(f"{self.header.path} adds {name} to every text and names none")
        return self.special[name]

    def config(self) -> dict[str, Any]:
        header = self.header
        # PreTrainedTokenizerFast takes tokenizer.json as it is. LlamaTokenizer would not: it is
        # for SentencePiece, and ONNX Runtime GenAI then cuts long texts wrongly.
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.special,
            "add_bos_token": self.adds_bos,
            "add_eos_token": self.adds_eos,
            "clean_up_tokenization_spaces": False,
            "model_max_length": header.get(f"{header.architecture}.context_length", int),
        }
        if "tokenizer.chat_template" in header.metadata:
            config["chat_template"] = header.get("tokenizer.chat_template", str)
        return config


def _pre_tokenizer(header: GgufHeader) -> PreTokenizer:
    model = header.get("tokenizer.ggml.model", str)
    if model != "gpt2":
        raise InputError(
            f"{header.path} has a tokenizer of the kind {model!r:.40}, edgekit rebuilds 'gpt2'",
            hint="pull the original checkpoint, which has its own tokenizer",
        )
    name = header.get("tokenizer.ggml.pre", str, "")
    known = _BY_NAME.get(_ALIASES.get(name, name))
    if known is None:
        raise InputError(
            f"{header.path} has the pre-tokenizer {name!r:.40}, which edgekit does not know",
            hint=f"known: {', '.join((*_BY_NAME, *_ALIASES))}",
        )
    return known


def _token_ids(header: GgufHeader) -> dict[str, int]:
    """Return the id of each token, in order of id."""
    tokens = header.get_list("tokenizer.ggml.tokens", str)
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    if "" in ids:
        raise InputError(f"{header.path}: the token {ids['']} is empty")
    return ids


def _step(kind: str, argument: Any = None) -> dict[str, Any]:
    """Return a step of a PreTokenizer as tokenizer.json says it."""
    match kind:
        case "Digits":
            return {"type": "Digits", "individual_digits": True}
        case "ByteLevel":
            return _byte_level(splits=argument)
        case "Split":
            pattern = {"Regex": argument}
            return {"type": kind, "pattern": pattern, "behavior": "Isolated", "invert": False}
    raise ValueError(kind)


def _byte_level(splits: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": splits,
    }
