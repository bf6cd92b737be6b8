"""Decode speed of a GGUF artifact through edgekit's worker against a bare llama.cpp loop.

    python tests/benchmarks/decode.py ARTIFACT [--threads N] [--turns N]

The two run in turns, in processes of their own, on the same file and prompt length, so that a
busy machine slows both. Prints one line a turn and the median ratio; above 0.97 is the aim.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

PROMPT_TOKENS, ANSWER_TOKENS, ROUNDS = 512, 64, 4


def bare(file: str, threads: int) -> float:
    """Return the median tokens/s of llama_decode and an argmax, with nothing else in the loop."""
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(quiet, None)
    model = llama_cpp.llama_model_load_from_file(
        file.encode(), llama_cpp.llama_model_default_params()
    )
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = PROMPT_TOKENS + ANSWER_TOKENS
    settings.n_threads = settings.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, settings)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    prompt = np.random.default_rng(0).integers(100, vocabulary - 100, PROMPT_TOKENS).tolist()
    return median(_round(llama_cpp, context, vocabulary, prompt) for _ in range(ROUNDS))


def _round(llama: Any, context: Any, vocabulary: int, prompt: list[int]) -> float:
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    token = _next(llama, context, vocabulary, prompt)
    start = time.perf_counter()
    for _ in range(ANSWER_TOKENS - 1):
        token = _next(llama, context, vocabulary, [token])
    return (ANSWER_TOKENS - 1) / (time.perf_counter() - start)


def _next(llama: Any, context: Any, vocabulary: int, tokens: list[int]) -> int:
    array = (llama.llama_token * len(tokens))(*tokens)
    assert llama.llama_decode(context, llama.llama_batch_get_one(array, len(tokens))) == 0
    row = llama.llama_get_logits_ith(context, -1)
    return int(np.ctypeslib.as_array(row, (vocabulary,)).argmax())


def edgekit(artifact: str, threads: int) -> float:
    """Return the median tokens/s that `edgekit bench` reports."""
    words = ["bench", artifact, "--threads", str(threads), "--rounds", str(ROUNDS), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *words], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(json.loads(done.stdout)["decode_tokens_per_s"])


def main() -> None:
    """Run the turns, or one bare measurement (`--bare`, used by the turns themselves)."""
    from devices.detect import physical_cores

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    file = options.artifact / "model.gguf"
    if options.bare:
        print(bare(str(file), options.threads))
        return
    ratios = []
    for _ in range(options.turns):
        words = [sys.executable, __file__, str(options.artifact), "--bare"]
        words += ["--threads", str(options.threads)]
        alone = float(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
        through = edgekit(str(options.artifact), options.threads)
        ratios.append(through / alone)
        print(f"bare {alone:.1f}, edgekit {through:.1f} tokens/s, ratio {ratios[-1]:.3f}")
    print(f"median ratio {median(ratios):.3f} with {options.threads} threads")


if __name__ == "__main__":
    main()
