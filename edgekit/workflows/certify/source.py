"""Is a checkpoint sound by itself, before anything is made of it?

It looks at one folder and knows neither artifacts nor ancestors. Every complaint is a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import prod

import numpy as np

from converters.architectures import Role, describe
from converters.checkpoint import Checkpoint
from converters.reference import Passage, encode, load_tokenizer, render_dialogues
from converters.special_tokens import SpecialTokens, added_tokens, special_tokens, token_ids
from edgekit.errors import EdgekitError, InputError
from edgekit.progress import Progress
from edgekit.safetensors_header import TensorInfo

SLAB_WEIGHTS = 8 << 20
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
ADAPTER_TENSOR = re.compile(r"\.lora_|\.base_layer\.|^base_model\.|lora_magnitude")
LAYER = re.compile(r"model\.layers\.(\d+)\.")
# Lists in a configuration that have one entry for each layer, and lists that name some layers.
LISTS_OF_SOME_LAYERS = ("mlp_only_layers", "moe_layers", "cross_attention_layers")
ANSWER = "Nineteen swans."
FLOATS = ("F64", "F32", "F16", "BF16")


def complaints(checkpoint: Checkpoint, progress: Progress) -> list[str]:
    """Return what is wrong with `checkpoint`, nothing where it is sound. Reads every weight."""
    checks: tuple[Callable[[Checkpoint], Iterator[str]], ...] = (
        _adapters,
        _layers,
        _tensors,
        _tied_head,
        _tokens,
    )
    found = [sentence for check in checks for sentence in _caught(check, checkpoint)]
    return [*found, *_not_finite(checkpoint, progress)]


def _caught(check: Callable[[Checkpoint], Iterator[str]], checkpoint: Checkpoint) -> list[str]:
    """Return a check's complaints; the error that ends one is its last complaint."""
    found: list[str] = []
    try:
        for sentence in check(checkpoint):
            found.append(sentence)  # an error keeps those before it
    except EdgekitError as error:
        found.append(error.message)
    return found


def _adapters(checkpoint: Checkpoint) -> Iterator[str]:
    for name in ADAPTER_FILES:
        if (checkpoint.path / name).is_file():
            yield f"{name} lies beside the weights: an adapter that was not merged into them"
            return
    for name in checkpoint.tensors:
        if ADAPTER_TENSOR.search(name):
            yield f"tensor {name} belongs to an adapter that was not merged into the weights"
            return


def _layers(checkpoint: Checkpoint) -> Iterator[str]:
    """Compare the configuration's number of layers with the weights, and its lists with both."""
    count = checkpoint.config.get("num_hidden_layers")
    held = {int(match[1]) for name in checkpoint.tensors if (match := LAYER.match(name))}
    if held and (held != set(range(len(held))) or count != len(held)):
        yield (
            f"config.json says {count} layers, the weights hold {len(held)} "
            f"(numbers {min(held)} to {max(held)})"
        )
    for key, value in checkpoint.config.items():
        is_list = isinstance(value, list) and "layer" in key and key not in LISTS_OF_SOME_LAYERS
        if is_list and len(value) != count:
            yield f"config.json: {key} has {len(value)} entries for {count} layers"


def _tensors(checkpoint: Checkpoint) -> Iterator[str]:
    """Say which tensor is missing, unknown or of another shape: the first one."""
    try:
        describe(checkpoint)
    except InputError as error:
        yield error.message


def _not_finite(checkpoint: Checkpoint, progress: Progress) -> list[str]:
    """Read every weight; name the tensors that hold what is not a number."""
    bad: list[str] = []
    total = sum(info.bytes for info in checkpoint.tensors.values())
    with progress.task("reading the checkpoint", total) as advance:
        for info in checkpoint.tensors.values():
            if info.dtype in FLOATS and not _finite(checkpoint, info):
                bad.append(info.name)
            advance(info.bytes)
    if not bad:
        return []
    more = f" and {len(bad) - 1} others hold" if len(bad) > 1 else " holds"
    return [f"tensor {bad[0]}{more} values that are infinite or not a number"]


def _finite(checkpoint: Checkpoint, info: TensorInfo) -> bool:
    rows = info.shape[0] if info.shape else 1
    step = max(1, SLAB_WEIGHTS // max(1, prod(info.shape[1:])))
    slabs = (checkpoint.read(info.name, first, step) for first in range(0, rows, step))
    return all(bool(np.isfinite(slab).all()) for slab in slabs)


def _tied_head(checkpoint: Checkpoint) -> Iterator[str]:
    """A tied model may carry a copy of its head, but no other head: nobody would use it."""
    head, embedding = f"{Role.OUTPUT}.weight", f"{Role.EMBEDDING}.weight"
    if not checkpoint.config.get("tie_word_embeddings", False):
        return
    if head not in checkpoint.tensors or embedding not in checkpoint.tensors:
        return
    shape = checkpoint.info(head).shape
    if shape != checkpoint.info(embedding).shape:
        yield "config.json ties the output head to the embedding; the weights have another shape"
        return
    step = max(1, SLAB_WEIGHTS // max(1, prod(shape[1:])))
    for first in range(0, shape[0], step):
        pair = [checkpoint.read(name, first, step) for name in (head, embedding)]
        if not np.array_equal(pair[0], pair[1], equal_nan=True):
            yield (
                "config.json ties the output head to the embedding, and the weights hold a "
                "head of their own that nothing would use"
            )
            return


def _tokens(checkpoint: Checkpoint) -> Iterator[str]:
    rows = checkpoint.info(f"{Role.EMBEDDING}.weight").shape[0]
    ids = token_ids(checkpoint)
    if max(ids.values()) >= rows:
        yield (
            f"tokenizer.json has token {max(ids.values())}, the embedding has {rows} rows: "
            "are both from one checkpoint?"
        )
        return
    special = special_tokens(checkpoint, ids, rows)
    yield from _ids_disagree(checkpoint, ids)
    if checkpoint.chat_template is not None:
        yield from _turns_do_not_end(checkpoint, special, {i: text for text, i in ids.items()})


def _ids_disagree(checkpoint: Checkpoint, ids: dict[str, int]) -> Iterator[str]:
    """Say where the four files name different tokens for one role; absent ones say nothing."""
    for role in ("bos", "eos"):
        said: dict[str, set[int]] = {}
        for name, settings in (
            ("config.json", checkpoint.config),
            ("generation_config.json", checkpoint.generation_config),
        ):
            value = settings.get(f"{role}_token_id")
            values = value if isinstance(value, list) else [value]
            if wanted := {v for v in values if type(v) is int}:
                said[name] = wanted
        entry = checkpoint.tokenizer_config.get(f"{role}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(text, str) and text in ids:
            said["tokenizer_config.json"] = {ids[text]}
        if said and not _share_one(list(said.values())):
            listed = ", ".join(f"{name} {sorted(values)}" for name, values in said.items())
            yield f"the files disagree about the {role} token: {listed}"


def _share_one(sets: list[set[int]]) -> bool:
    """Return whether every two sets have an element in common."""
    return all(a & b for index, a in enumerate(sets) for b in sets[index + 1 :])


def _turns_do_not_end(
    checkpoint: Checkpoint, special: SpecialTokens, texts: dict[int, str]
) -> Iterator[str]:
    """The token that the template puts after an answer must be one that ends answers."""
    end = end_of_turn(checkpoint)
    if end is None or end in special.stop:
        return
    stops = ", ".join(f"{token} ({texts.get(token, '?')})" for token in special.stop)
    yield (
        f"the chat template ends an answer with token {end} ({texts.get(end, '?')}), "
        f"the stop tokens are {stops}: answers would not end"
    )


def end_of_turn(checkpoint: Checkpoint) -> int | None:
    """Return the first special token after an answer as the chat template writes it.

    None where the template puts no special token there. Raises InputError for a template that
    cannot be rendered.
    """
    turns = [{"role": "user", "content": "What is on the lake?"},
             {"role": "assistant", "content": ANSWER}]  # fmt: skip
    try:
        text = render_dialogues(checkpoint, [turns], prompt=False)[0]
    except EdgekitError:
        raise
    except Exception as error:  # a template's failure can have any type
        raise InputError(f"the chat template cannot be rendered: {error}") from error
    after = text.rpartition(ANSWER)[2]
    added = {token["id"] for token in added_tokens(checkpoint)}
    ids = encode(load_tokenizer(checkpoint), Passage("", after, special=True))
    return next((token for token in ids if token in added), None)
