"""ONNX models through plain ONNX Runtime: one session, one sequence, one KV cache.

The graph is edgekit's own (see converters.onnx_graph): attention appends to the cache in place,
and an optional input says from which position on logits are wanted. Loads whatever file it is
given: the graph was checked before (see runtimes.load).
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifact import Artifact
from edgekit.errors import EngineFailure, InputError
from edgekit.extras import need
from runtimes.engine import Interrupted
from runtimes.json_tokenizer import JsonTokenizer
from runtimes.state_file import StateHeader, identity_of, open_state, write_state

# Tokens per run. A cancel is noticed between two operators, so a run must not be so long that
# one of its operators is felt.
BATCH_TOKENS, FEWEST_BATCH_TOKENS = 128, 16
LONGEST_RUN_S = 3.0
SILENT = 4  # only fatal messages: errors reach us as exceptions
PARTS = ("key", "value")
FIRST_LOGIT = "first_logit"


class OnnxEngine:
    """One ONNX model with its cache; runtimes.engine.Engine says what each method means."""

    def __init__(self, artifact: Artifact, *, context_length: int, threads: int) -> None:
        """Open the artifact's graph and tokenizer; the cache is float32.

        Raises InputError if ONNX Runtime refuses the file or the graph is not edgekit's,
        MissingExtraError if a library is not installed.
        """
        self._context_length = context_length
        self._threads = threads
        self._model_sha256 = identity_of(artifact)
        self._tokens: list[int] = []
        self._tokenizer = JsonTokenizer(artifact.path / "tokenizer.json", "onnx")
        # read once, when the library is imported: 1.29 and later would report to their maker
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        self._library = need("onnxruntime", "onnx")
        self._session: Any = self._open(artifact.entry)
        self._cache = _Cache(self._session, context_length)
        self._vocabulary_size = int(self._session.get_outputs()[0].shape[-1])
        self._binding = self._session.io_binding()
        self._cache.bind(self._binding)
        self._mask = np.ones(context_length, dtype=np.int64)
        self._first_logit = np.zeros(1, dtype=np.int64)
        self._bind_input(FIRST_LOGIT, self._first_logit, [1])
        self._row = np.empty(self._vocabulary_size, dtype=np.float32)
        self._batch_tokens = BATCH_TOKENS
        self._options = self._library.RunOptions()

    def _open(self, path: Path) -> Any:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = SILENT
        # a pattern is kept for every shape that was seen, and every token has a shape of its own
        options.enable_mem_pattern = False
        try:
            session = self._library.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library raises nothing more precise
            raise InputError(
                f"ONNX Runtime cannot open {path}: {error}", hint="convert the model again"
            ) from error
        optional = [value.name for value in session.get_overridable_initializers()]
        if optional != [FIRST_LOGIT]:
            raise InputError(
                f"{path} is not a graph of edgekit's: it has no input {FIRST_LOGIT}",
                hint="make one with edgekit convert",
            )
        return session

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def vocabulary_size(self) -> int:
        return self._vocabulary_size

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def cached_tokens(self) -> Sequence[int]:
        return self._tokens

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        return self._tokenizer.ids(text, special=special)

    def token_bytes(self, token_id: int) -> bytes:
        return self._tokenizer.token_bytes(token_id)

    def evaluate(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        self._options = self._library.RunOptions()
        before = len(self._tokens)
        start = 0
        while start < len(token_ids):
            piece = token_ids[start : start + self._batch_tokens]
            try:
                self._run(piece, len(piece) - 1, self._row)
            except Interrupted:
                self.truncate(before)
                raise
            start += len(piece)
        return self._row

    def score(self, token_ids: Sequence[int], out: NDArray[np.float32]) -> None:
        self._options = self._library.RunOptions()
        self.truncate(0)
        start = 0
        while start < len(token_ids):
            piece = token_ids[start : start + self._batch_tokens]
            self._run(piece, 0, out[start : start + len(piece)])
            start += len(piece)

    def _run(self, token_ids: Sequence[int], first_logit: int, out: NDArray[np.float32]) -> None:
        """Append tokens to the cache; write the logits from `first_logit` on into `out`."""
        count, total = len(token_ids), len(self._tokens) + len(token_ids)
        if total > self._context_length:
            raise InputError(f"{total} tokens do not fit a context of {self._context_length}")
        if self._options.terminate:
            raise Interrupted
        ids = np.array(token_ids, dtype=np.int64)
        self._first_logit[0] = first_logit
        self._bind_input("input_ids", ids, [1, count])
        self._bind_input("attention_mask", self._mask, [1, total])
        shape = [1, count - first_logit, self._vocabulary_size]
        self._binding.bind_output("logits", "cpu", 0, np.float32, shape, out.ctypes.data)
        begin = time.perf_counter()
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # the library raises nothing more precise
            if self._options.terminate:
                raise Interrupted from None
            raise EngineFailure(
                f"ONNX Runtime could not process {count} tokens: {error}"
            ) from error
        self._tokens.extend(token_ids)
        if time.perf_counter() - begin > LONGEST_RUN_S:
            self._batch_tokens = max(FEWEST_BATCH_TOKENS, self._batch_tokens // 2)

    def _bind_input(self, name: str, values: NDArray[np.int64], shape: list[int]) -> None:
        """Bind the memory of `values`, no copy: it must live until the run is over."""
        self._binding.bind_input(name, "cpu", 0, np.int64, shape, values.ctypes.data)

    def truncate(self, length: int) -> None:
        # what lies beyond the length is overwritten before it is read
        del self._tokens[length:]

    def interrupt(self) -> None:
        self._options.terminate = True

    def save_state(self, path: Path) -> None:
        count = len(self._tokens)
        size = count * self._cache.bytes_per_token

        def fill(mapped: mmap.mmap, offset: int) -> None:
            saved = self._cache.saved(mapped, offset, count)
            saved[...] = self._cache.values[:, :, :count]
            del saved  # the file cannot be unmapped while something points into it

        write_state(
            path, StateHeader(self._version(), self._model_sha256, self._tokens, size), fill
        )

    def load_state(self, path: Path) -> None:
        limits = (self._context_length, self._vocabulary_size)
        with open_state(path, self._version(), self._model_sha256, *limits) as opened:
            header, mapped, offset = opened
            count = len(header.tokens)
            if header.payload_bytes != count * self._cache.bytes_per_token:
                raise InputError(
                    f"the saved state {path} has {header.payload_bytes} bytes, "
                    f"{count} tokens need {count * self._cache.bytes_per_token}",
                    hint="remove it: the conversation is processed again",
                )
            saved = self._cache.saved(mapped, offset, count)
            self._cache.values[:, :, :count] = saved
            del saved
            self._tokens[:] = header.tokens

    def _version(self) -> str:
        return f"onnxruntime {self._library.__version__}"

    def close(self) -> None:
        self._binding = None
        self._session = None


class _Cache:
    """Keys and values of every layer: float32 [2 * layers, kv_heads, context, head_dim].

    One anonymous mapping: a page costs memory once a token's keys are written to it, so a long
    context that is not used costs nothing, and nothing is copied when it grows.
    """

    def __init__(self, session: Any, context_length: int) -> None:
        names = [value.name for value in session.get_inputs()]
        shapes = {value.name: value.shape for value in session.get_inputs()}
        self._layers = sum(name.startswith("past_key_values.") for name in names) // len(PARTS)
        _, heads, _, head_dim = shapes["past_key_values.0.key"]
        shape = (len(PARTS) * self._layers, heads, context_length, head_dim)
        self.bytes_per_token = 4 * shape[0] * heads * head_dim
        memory = mmap.mmap(-1, max(1, context_length * self.bytes_per_token))
        self.values: NDArray[np.float32] = np.frombuffer(memory, dtype=np.float32).reshape(shape)

    def bind(self, binding: Any) -> None:
        """Give the session the same memory as past and as present of each layer."""
        for index, buffer in enumerate(self.values):
            name = f"{index // len(PARTS)}.{PARTS[index % len(PARTS)]}"
            place = ("cpu", 0, np.float32, [1, *buffer.shape], buffer.ctypes.data)
            binding.bind_input(f"past_key_values.{name}", *place)
            binding.bind_output(f"present.{name}", *place)

    def saved(self, mapped: mmap.mmap, offset: int, count: int) -> NDArray[np.float32]:
        """Return `count` tokens' keys and values that lie packed in a mapped file."""
        parts, heads, _, head_dim = self.values.shape
        items = parts * heads * count * head_dim
        packed = np.frombuffer(mapped, dtype=np.uint8, offset=offset, count=4 * items)
        return packed.view(np.float32).reshape(parts, heads, count, head_dim)
