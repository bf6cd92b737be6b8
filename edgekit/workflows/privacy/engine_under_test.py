"""Uses one engine inside its locked worker: imports it, and lets a model answer if there is one.

The attempts are made in the middle of the answer, when the engine has its threads and its memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from edgekit.errors import EdgekitError
from runtimes.wire import Frame

QUESTION = "Which way is out?"
ANSWER_TOKENS = 8
CONTEXT_TOKENS = 256
# The libraries of each engine, for the case that no model makes it load them.
LIBRARIES = {
    "gguf": ("llama_cpp",),
    "onnx": ("onnxruntime", "tokenizers"),
    "torch": ("torch", "transformers", "bitsandbytes", "accelerate", "tokenizers"),
}


def use(request: Frame, attempts: Callable[[], None]) -> Frame:
    """Call `attempts` once and return how far the engine came.

    `state` is "answered", or "imported" where the store holds no artifact that could answer.
    """
    for library in LIBRARIES[request["engine"]]:
        importlib.import_module(library)
    if not request["artifact"]:
        attempts()
        return {"state": "imported", "answer_tokens": 0, "detail": "no artifact to run"}
    try:
        answer = _Answer(Path(request["artifact"]))
    except EdgekitError as error:
        attempts()
        return {"state": "imported", "answer_tokens": 0, "detail": error.message}
    tokens = answer.read(attempts)
    return {"state": "answered", "answer_tokens": tokens, "detail": ""}


class _Answer:
    """A few tokens of an artifact; a model with no chat template continues the question."""

    def __init__(self, path: Path) -> None:
        from edgekit.artifact import Artifact
        from runtimes.base import Message, Sampling
        from runtimes.load import check, open_local

        artifact = Artifact.open(path)
        check(artifact)
        context = min(CONTEXT_TOKENS, artifact.manifest.context_length)
        self._runtime = runtime = open_local(artifact, context, threads=2)
        if artifact.manifest.chat_template is None:
            ids = runtime.tokenize(QUESTION)
        else:
            ids = runtime.prompt([Message("user", QUESTION)])
        sampling = Sampling(max_tokens=ANSWER_TOKENS, ignore_stop_tokens=True)
        self._chunks = runtime.complete(ids, sampling)

    def read(self, attempts: Callable[[], None]) -> int:
        """Read the answer to its end; call `attempts` after the first piece. Return its tokens."""
        tokens = 0
        for number, chunk in enumerate(self._chunks):
            tokens += chunk.tokens
            if number == 0:
                attempts()
        return tokens
