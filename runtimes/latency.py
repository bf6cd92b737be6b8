"""Latency of any runtime, measured from outside by one clock: when chunks arrive.

It knows nothing of engines. What a user waits for is what is counted, pipe and sampling included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.errors import InputError
from runtimes.base import Runtime, Sampling


@dataclass(frozen=True, slots=True)
class Latency:
    """One answer's times.

    `ttft_s`: from the call to the first token, in seconds. `prefill_tokens_per_s`: prompt tokens
    that were computed (not reused) over `ttft_s`. `decode_tokens_per_s`: tokens after the first
    over the time they took; 0 where the answer has one token.
    """

    prompt_tokens: int
    answer_tokens: int
    ttft_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float


def measure(
    runtime: Runtime,
    token_ids: Sequence[int],
    answer_tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Return the latency of continuing `token_ids` greedily by `answer_tokens` tokens.

    Raises InputError if prompt and answer do not fit the context.
    """
    if len(token_ids) + answer_tokens > runtime.context_length:
        raise InputError(
            f"{len(token_ids)} prompt tokens and {answer_tokens} answer tokens do not fit "
            f"a context of {runtime.context_length}",
            hint="measure a shorter prompt or answer",
        )
    sampling = Sampling(max_tokens=answer_tokens, ignore_stop_tokens=True)
    start = clock()
    first_s = last_s = start
    tokens = first_tokens = computed = 0
    for chunk in runtime.complete(token_ids, sampling):
        if not chunk.tokens:
            continue
        last_s = clock()
        if not tokens:
            first_s, first_tokens = last_s, chunk.tokens
            computed = chunk.prompt_tokens - chunk.reused_tokens
        tokens += chunk.tokens
    decode_s = last_s - first_s
    return Latency(
        prompt_tokens=len(token_ids),
        answer_tokens=tokens,
        ttft_s=first_s - start,
        prefill_tokens_per_s=computed / (first_s - start) if first_s > start else 0.0,
        decode_tokens_per_s=(tokens - first_tokens) / decode_s if decode_s > 0 else 0.0,
    )
