"""The calibration text: what a checkpoint writes itself, begun in many kinds and scripts.

Text from one source makes a quantised model better on that source and worse elsewhere, and no
text that we could bring is as close to a model's use as its own answers (Liu et al. 2023, LLM-QAT,
arXiv 2305.17888, train on such text). So the openings in `texts/seeds.json` are continued by
sampling, the questions among them as chats. It says nothing of what is measured on the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.reference import (
    Passage,
    Window,
    encode,
    load_model,
    load_tokenizer,
    render_dialogues,
)
from edgekit.errors import InputError
from edgekit.progress import Progress

SEEDS = Path(__file__).parent / "texts" / "seeds.json"
WINDOW_TOKENS = 192
BATCH = 64  # together: a step reads every weight once, however many texts there are
MAX_TEXT_BYTES = 64 << 20


def own_text(
    checkpoint: Checkpoint, progress: Progress, *, tokens: int = WINDOW_TOKENS, seed: int = 0
) -> list[Window]:
    """Return a window of up to `tokens` tokens for each opening, continued by the checkpoint.

    Sampled at temperature 1 from the whole distribution in float32 torch; the same on one machine
    for the same `seed`. A window ends where the model ends its text.
    """
    openings = list(_openings(checkpoint))
    batches = [openings[i : i + BATCH] for i in range(0, len(openings), BATCH)]
    model = load_model(checkpoint)
    length = min(tokens, int(checkpoint.config.get("max_position_embeddings", tokens)))
    windows: list[Window] = []
    with progress.task("writing the calibration text", len(openings), unit="texts") as advance:
        for number, batch in enumerate(batches):
            texts = _continue(model, [w.token_ids for w in batch], length, seed + number)
            windows += [Window(w.kind, ids) for w, ids in zip(batch, texts, strict=True)]
            advance(len(batch))
    return windows


def file_text(checkpoint: Checkpoint, path: Path, *, tokens: int = WINDOW_TOKENS) -> list[Window]:
    """Return the text of the file `path`, UTF-8, in windows of `tokens` tokens.

    Special tokens that it spells count as such: it may hold rendered chats. Raises InputError.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, {MAX_TEXT_BYTES} at most")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the calibration text {path} cannot be read: {error}") from error
    ids = encode(load_tokenizer(checkpoint), Passage("file", text, special=True))
    pieces = [tuple(ids[i : i + tokens]) for i in range(0, len(ids), tokens)]
    if not pieces:
        raise InputError(f"the calibration text {path} is empty", hint="give a longer text")
    return [Window("file", piece) for piece in pieces]


def _openings(checkpoint: Checkpoint) -> Iterator[Window]:
    """Yield the openings as token ids; the questions as the chat template writes them."""
    seeds: dict[str, list[str]] = json.loads(SEEDS.read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(checkpoint)
    for kind, texts in seeds.items():
        is_chat = kind == "chat" and bool(checkpoint.chat_template)
        if is_chat:
            dialogues = [[{"role": "user", "content": text}] for text in texts]
            texts = render_dialogues(checkpoint, dialogues, prompt=True)
        for text in texts:
            ids = encode(tokenizer, Passage(kind, text, special=is_chat))
            if ids:  # a tiny vocabulary may know none of a script's characters
                yield Window(kind, tuple(ids))


def _continue(
    model: Any, openings: Sequence[Sequence[int]], length: int, seed: int
) -> list[tuple[int, ...]]:
    """Continue each of `openings` by sampling, together, until it ends or has `length` tokens."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    texts = [list(opening[: length - 1]) for opening in openings]
    stops = _stop_ids(model)
    widest = max(len(text) for text in texts)
    # Padding on the left, so that all end at the same column; the mask hides it.
    ids = torch.tensor([[0] * (widest - len(text)) + text for text in texts])
    mask = torch.tensor([[0] * (widest - len(text)) + [1] * len(text) for text in texts])
    cache, open_rows = None, set(range(len(texts)))
    with torch.inference_mode():
        while open_rows:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output = model(
                ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            cache = output.past_key_values
            chances = output.logits[:, -1].float().softmax(-1)
            ids = torch.multinomial(chances, 1, generator=generator)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            for row in sorted(open_rows):
                texts[row].append(int(ids[row, 0]))
                if texts[row][-1] in stops or len(texts[row]) >= length:
                    open_rows.discard(row)
    return [tuple(text) for text in texts]


def _stop_ids(model: Any) -> set[int]:
    stop = model.generation_config.eos_token_id
    return set(stop) if isinstance(stop, list) else {stop}
