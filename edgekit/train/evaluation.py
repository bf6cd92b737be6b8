"""Evaluation of a checkpoint on chats, without training: the loss of the assistant's words.

It is the loss that training judges by, over all chats of a file.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from converters.checkpoint import Checkpoint
from edgekit.errors import InputError
from edgekit.train.dataset import LEARNT, DataSet, Part, Report
from edgekit.train.examples import ChatEncoder
from edgekit.train.hardware import Hardware
from edgekit.train.records import Record
from edgekit.train.supervised import Supervision

ROW_TOKENS = 1024


def judge(
    checkpoint: Checkpoint, model: Any, records: Sequence[Record], hardware: Hardware
) -> dict[str, float]:
    """Return "loss", in nats a token, "perplexity" and "targets", the number of those tokens.

    `model` has the weights of `checkpoint`. Raises InputError for a chat that is longer than the
    model's context, or that the template or the vocabulary cannot express.
    """
    part = encoded(checkpoint, records)
    lesson = Supervision(model, DataSet(part, part, Report()), ROW_TOKENS, hardware)
    found = lesson.judge()
    return {
        "loss": found["evaluation_loss"],
        "perplexity": found["evaluation_perplexity"],
        "targets": sum(part.targets),
    }


def encoded(checkpoint: Checkpoint, records: Sequence[Record]) -> Part:
    """Return the examples of `records`, in memory. Raises InputError as `judge` does."""
    encoder = ChatEncoder(checkpoint, int(checkpoint.config["max_position_embeddings"]), "error")
    vocabulary = int(checkpoint.config["vocab_size"])
    files = list(dict.fromkeys(record.file for record in records))
    part, stored = Part(files), array("I")
    for record in records:
        part.records += 1
        for example in encoder.examples(record):
            if max(example.token_ids) >= vocabulary:
                raise InputError(
                    f"{record.where}: the tokenizer makes token {max(example.token_ids)} of it, "
                    f"and the model has {vocabulary}",
                    hint="tokenizer and model do not belong together",
                )
            part.add(example, len(stored), files.index(record.file), record.line)
            pairs = zip(example.token_ids, example.learnt, strict=True)
            stored.extend(token | (int(LEARNT) if learnt else 0) for token, learnt in pairs)
    part.stored = np.array(stored, dtype=np.uint32)
    return part
