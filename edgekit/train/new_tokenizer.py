"""A tokenizer for a new model: byte-level BPE, trained on the run's own texts.

It splits text as SmolLM2's does: digits one by one, then the words of GPT-2. All engines know that
rule. Sennrich et al. 2016, "Neural machine translation of rare words with subword units". The same
texts give the same tokenizer. It knows no files of records and no weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from converters.gguf_vocabulary import PRE_TOKENIZERS
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.files import write_atomically
from edgekit.progress import Advance
from edgekit.train.records import Record

PRE_TOKENIZER = "smollm"
END_OF_TEXT, TURN_BEGINS, TURN_ENDS = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN_BEGINS, TURN_ENDS)  # a text model may learn to chat later
LEAST_FREQUENCY = 2  # a pair that came once is no part of the language
# ChatML, as most open chat models write their turns.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(records: Iterable[Record], vocabulary: int, advance: Advance) -> Any:
    """Return a tokenizer of the library `tokenizers`, of at most `vocabulary` tokens.

    The special tokens come first, then the bytes, then the merges. `advance` is told of each
    record. Raises what `records` raises, and InputError where there is nothing to merge in them.
    """
    tokenizers = need("tokenizers", "train")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(tokenizers)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=LEAST_FREQUENCY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(records, advance), trainer)
    if not json.loads(tokenizer.to_str())["model"]["merges"]:
        raise InputError(
            "the training records are too few to train a tokenizer: no two letters come twice",
            hint="give more data, or take a tokenizer: [tokenizer] checkpoint",
        )
    return tokenizer


def write_tokenizer(tokenizer: Any, folder: Path, context: int, *, chats: bool) -> None:
    """Write what transformers reads into `folder`; with `chats` it has a template and ends turns.

    `context` is how many tokens the model can have before it.
    """
    end = TURN_ENDS if chats else END_OF_TEXT
    special = {"bos_token": END_OF_TEXT, "eos_token": end, "pad_token": END_OF_TEXT}
    config = {
        # takes tokenizer.json as it is
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        **({"chat_template": CHAT_TEMPLATE} if chats else {}),
    }
    write_atomically(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    for name, document in (("tokenizer_config", config), ("special_tokens_map", special)):
        text = json.dumps(document, indent=2) + "\n"
        write_atomically(folder / f"{name}.json", text.encode())


def _pre_tokenizer(tokenizers: Any) -> Any:
    """Return the rule in the form that most readers of tokenizer.json take right."""
    steps = [known.steps for known in PRE_TOKENIZERS if known.name == PRE_TOKENIZER][-1]
    made: list[Any] = []
    for kind, argument in steps:
        if kind == "Split":
            pattern = tokenizers.Regex(argument)
            made.append(tokenizers.pre_tokenizers.Split(pattern, "isolated"))
        else:
            byte_level = tokenizers.pre_tokenizers.ByteLevel
            made.append(byte_level(add_prefix_space=False, use_regex=argument))
    return tokenizers.pre_tokenizers.Sequence(made)


def _texts(records: Iterable[Record], advance: Advance) -> Iterator[str]:
    """Yield what lies between special tokens: a text, or a turn behind the name of its role."""
    for record in records:
        if isinstance(record.content, str):
            yield record.content
        else:
            for message in record.content:
                yield f"{message['role']}\n{message['content']}"
        advance(1)
