"""Runs on the board and on this machine, with each one's own engines: what does a model say?

python agent.py ARTIFACT OUT.npy [IDS]  prints JSON: the token ids of texts, the greedy answer,
                                        and the ids of prompt and answer; writes the logits of
                                        a fixed text and of IDS, by default those ids
python agent.py ARTIFACT --count TOKENS an engine in this process; asks for a reading of the
                                        instruction counter before and after each token
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

PROMPT = "What is the capital of France?"
EXPECTED = "The capital of France is Paris"
TEXTS = (
    PROMPT,
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 12345",
    "def f(x):\n    return x  +  1  # \t tabs\n",
    "敏捷的棕色狐狸 👩‍🚀 naïve <|im_start|>",
)
SCORED = (
    "The kettle boils at 100 degrees at sea level. On a mountain the pressure is lower, so water "
    "boils earlier and an egg takes longer. def add(left, right): return left + right"
)
ANSWER_TOKENS = 8
MARK = 0x656B  # as in instruction_counter.c


def talk(path: Path, out: Path, said: list[int] | None = None) -> None:
    """Answer, tokenize and score through the same door as `edgekit run`."""
    import numpy as np

    from edgekit.artifact import Artifact
    from runtimes.base import Message, Sampling
    from runtimes.load import load

    runtime = load(Artifact.open(path), context_length=512, threads=1)
    try:
        sampling = Sampling(max_tokens=ANSWER_TOKENS)
        answer = "".join(c.text for c in runtime.generate([Message("user", PROMPT)], sampling))
        prompt = runtime.tokenize(runtime.render([Message("user", PROMPT)]), special=True)
        said = said or [*prompt, *runtime.tokenize(answer)]
        scored = [runtime.score(runtime.tokenize(SCORED)), runtime.score(said)]
        np.save(out, np.concatenate(scored))
        ids = [runtime.tokenize(text, special=True) for text in TEXTS]
        print(json.dumps({"answer": answer, "prompt": prompt, "ids": ids, "said": said}))
    finally:
        runtime.close()


def count(path: Path, tokens: int) -> None:
    """Evaluate a prompt of 16 tokens, then `tokens` more, one at a time, marking each."""
    from edgekit.artifact import Artifact
    from runtimes.load import engine_for

    setpriority = ctypes.CDLL(None).setpriority
    engine = engine_for(Artifact.open(path), context_length=128, threads=1)
    ids = engine.tokenize(SCORED, special=False)
    engine.evaluate(ids[:16])
    setpriority(MARK, 0, 0)
    for number in range(tokens):
        engine.evaluate(ids[16 + number : 17 + number])
        setpriority(MARK, number + 1, 0)


if __name__ == "__main__":
    if sys.argv[2] == "--count":
        count(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        given = json.loads(sys.argv[3]) if len(sys.argv) > 3 else None
        talk(Path(sys.argv[1]), Path(sys.argv[2]), given)
