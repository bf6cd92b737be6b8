"""Where the greedy answers of checkpoint and artifact part.

One forward pass of the checkpoint over the artifact's answer is enough: up to the first token
that the checkpoint would not have chosen, both have seen the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.certificate import Greedy
from edgekit.workflows.certify.torch_pass import TorchModel

TOKENS = 48
PROMPTS = (
    "Explain in two sentences why the sky is blue.",
    "Write a short note that thanks a neighbour for watering the plants.",
    "List three things to check before a long bicycle ride.",
    "Write a Python function that returns the largest of three numbers.",
    "What is the difference between a river and a lake?",
)


def greedy(
    model: TorchModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[tuple[str, bool]],
    stops: Sequence[int],
    tokens: int = TOKENS,
) -> Greedy:
    """Return where `model` would have left each of the engine's greedy `answers` to `prompts`.

    An answer is its text and whether it came to its own end, by a token of `stops`.
    """
    parted = [
        parted_at(model, tokenizer, prompt, text, stops if ended else (), tokens)
        for prompt, (text, ended) in zip(prompts, answers, strict=True)
    ]
    ordered = sorted(parted)
    middle = len(ordered) // 2
    median = (ordered[middle] + ordered[-middle - 1]) / 2
    return Greedy(tokens, parted, median)


def parted_at(
    model: TorchModel,
    tokenizer: Any,
    prompt: Sequence[int],
    text: str,
    stops: Sequence[int],
    tokens: int,
) -> int:
    """Return how many tokens of `text` the model would have chosen, `tokens` if all of them.

    A text says not how the engine cut it into tokens; where the model would have cut it
    otherwise, its way is taken and the rest is looked at again.
    """
    agreed: list[int] = []
    rest = text
    while True:
        ids = [*agreed, *_ids(tokenizer, rest)]
        chosen = model.logits([*prompt, *ids])[len(prompt) - 1 :].argmax(axis=1).tolist()
        same = next((i for i, (a, b) in enumerate(zip(chosen, ids, strict=False)) if a != b), None)
        if same is None:
            ended = not stops or chosen[len(ids)] in stops
            return tokens if ended else min(tokens, len(ids))
        before, agreed = _text(tokenizer, ids[:same]), [*ids[:same], chosen[same]]
        written = _text(tokenizer, agreed)
        if len(written) <= len(before) or not text.startswith(written):
            return min(tokens, same)
        rest = text[len(written) :]


def _ids(tokenizer: Any, text: str) -> list[int]:
    tokenizer.encode_special_tokens = False
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))
