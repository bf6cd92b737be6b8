"""GGUF files through llama.cpp: the low-level functions, one sequence, one KV cache.

Not llama-cpp-python's `Llama` class: it holds logits of the whole context and cannot be
interrupted. Loads whatever file it is given: the header was checked before (see runtimes.load).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifact import Artifact
from edgekit.errors import EngineFailure, InputError
from runtimes import llama_library
from runtimes.crew import Crew
from runtimes.engine import Interrupted
from runtimes.state_file import StateHeader, open_state, write_state

# Tokens per decode call. On two EPYC cores 256 prefill a tenth faster than 128 and no slower than
# 512 (135M model), with half the logits buffer of 512 (49 MB for 49,152 tokens).
BATCH_TOKENS = 256
_ABORTED = 2
_SEQUENCE = 0


class GgufEngine:
    """One GGUF model with its context; runtimes.engine.Engine says what each method means."""

    def __init__(self, artifact: Artifact, *, context_length: int, threads: int) -> None:
        """Map the artifact's file and set up a context of `context_length` tokens, KV in float16.

        Raises InputError if llama.cpp refuses the file, MissingExtraError if it is not installed.
        """
        self._context_length = context_length
        self._threads = threads
        self._crew = Crew(threads)
        self._crew_size = threads
        self._model_sha256 = next(
            file.sha256 for file in artifact.manifest.files if file.path == artifact.manifest.entry
        )
        self._model: Any = None
        self._context: Any = None
        self._tokens: list[int] = []
        self._llama = llama_library.load()
        self._switch = llama_library.AbortSwitch(self._llama)
        self._open_model(artifact.entry)
        self._open_context(artifact.entry)
        self._vocabulary = self._llama.llama_model_get_vocab(self._model)
        self._vocabulary_size = int(self._llama.llama_vocab_n_tokens(self._vocabulary))
        self._batch = _Batch(self._llama)
        self._logits_address = 0
        self._logits: NDArray[np.float32]
        self._piece = ctypes.create_string_buffer(64)

    def _open_model(self, path: Path) -> None:
        parameters = self._llama.llama_model_default_params()
        parameters.load_mode = self._llama.LLAMA_LOAD_MODE_MMAP
        self._model = self._llama.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise InputError(
                f"llama.cpp cannot open {path}: {llama_library.last_complaint()}",
                hint="convert the model again",
            )

    def _open_context(self, path: Path) -> None:
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = self._context_length
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = self._threads
        # Flash attention where the device has it. On CPUs it decodes a tenth faster and is closer
        # to a float32 cache than plain attention (KL 4e-7 against 7e-7, 135M model in float32).
        parameters.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_AUTO
        parameters.no_perf = True
        parameters.abort_callback = self._switch.callback
        parameters.abort_callback_data = self._switch.data
        self._context = self._llama.llama_init_from_model(self._model, parameters)
        if not self._context:
            self.close()
            raise InputError(
                f"llama.cpp cannot make a context of {self._context_length} tokens for {path}: "
                f"{llama_library.last_complaint()}",
                hint="ask for a shorter context",
            )
        self._memory = self._llama.llama_get_memory(self._context)

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
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            ids = (ctypes.c_int32 * room)()
            count = self._llama.llama_tokenize(
                self._vocabulary, data, len(data), ids, room, False, special
            )
            if count >= 0:
                return ids[:count]
            room = -count

    def token_bytes(self, token_id: int) -> bytes:
        while True:
            count = self._llama.llama_token_to_piece(
                self._vocabulary, token_id, self._piece, len(self._piece), 0, True
            )
            if count >= 0:
                return self._piece.raw[:count]
            self._piece = ctypes.create_string_buffer(-count)

    def evaluate(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        self._switch.reset()
        for start in range(0, len(token_ids), BATCH_TOKENS):
            self._decode(token_ids[start : start + BATCH_TOKENS], every_logit=False)
        row = self._llama.llama_get_logits_ith(self._context, -1)
        address = ctypes.addressof(row.contents)
        if address != self._logits_address:  # the same memory for every token of an answer
            self._logits_address = address
            self._logits = np.ctypeslib.as_array(row, (self._vocabulary_size,))
        return self._logits

    def _decode(self, token_ids: Sequence[int], *, every_logit: bool) -> None:
        """Append at most BATCH_TOKENS tokens to the cache. Raises Interrupted, EngineFailure."""
        if (threads := self._crew.size()) != self._crew_size:
            self._crew_size = threads
            self._llama.llama_set_n_threads(self._context, threads, threads)
        batch = self._batch.fill(token_ids, len(self._tokens), every_logit=every_logit)
        result = self._llama.llama_decode(self._context, batch)
        if result == 0:
            self._tokens.extend(token_ids)
            return
        self.truncate(len(self._tokens))
        if result == _ABORTED:
            raise Interrupted
        raise EngineFailure(
            f"llama.cpp could not process {len(token_ids)} tokens after {len(self._tokens)} "
            f"(code {result}): {llama_library.last_complaint()}"
        )

    def truncate(self, length: int) -> None:
        kept = self._llama.llama_memory_seq_rm(self._memory, _SEQUENCE, length, -1)
        if not kept:  # a recurrent memory cannot go back, it can only begin again
            self._llama.llama_memory_clear(self._memory, True)
            length = 0
        del self._tokens[length:]

    def score(self, token_ids: Sequence[int], out: NDArray[np.float32]) -> None:
        self._switch.reset()
        self.truncate(0)
        for start in range(0, len(token_ids), BATCH_TOKENS):
            piece = token_ids[start : start + BATCH_TOKENS]
            self._decode(piece, every_logit=True)
            rows = self._llama.llama_get_logits(self._context)
            shape = (len(piece), self._vocabulary_size)
            out[start : start + len(piece)] = np.ctypeslib.as_array(rows, shape)

    def interrupt(self) -> None:
        self._switch.stop()

    def save_state(self, path: Path) -> None:
        size = int(self._llama.llama_state_seq_get_size(self._context, _SEQUENCE))

        def fill(mapped: mmap.mmap, offset: int) -> None:
            payload = (ctypes.c_uint8 * size).from_buffer(mapped, offset)
            written = self._llama.llama_state_seq_get_data(self._context, payload, size, _SEQUENCE)
            del payload  # the file cannot be unmapped while something points into it
            if written != size:
                raise EngineFailure(f"llama.cpp wrote {written} bytes of state instead of {size}")

        header = StateHeader(llama_library.version(), self._model_sha256, self._tokens, size)
        write_state(path, header, fill)

    def load_state(self, path: Path) -> None:
        with open_state(
            path,
            llama_library.version(),
            self._model_sha256,
            self._context_length,
            self._vocabulary_size,
        ) as (header, mapped, offset):
            self.truncate(0)
            if not self._restore(mapped, offset, header):
                self.truncate(0)
                raise InputError(
                    f"llama.cpp refuses the saved state {path}: {llama_library.last_complaint()}",
                    hint="remove it: the conversation is processed again",
                )
            self._tokens.extend(header.tokens)

    def _restore(self, mapped: mmap.mmap, offset: int, header: StateHeader) -> bool:
        """Hand the payload to llama.cpp; return whether it used all of it for all tokens."""
        payload = (ctypes.c_uint8 * header.payload_bytes).from_buffer(mapped, offset)
        used = self._llama.llama_state_seq_set_data(
            self._context, payload, header.payload_bytes, _SEQUENCE
        )
        last = self._llama.llama_memory_seq_pos_max(self._memory, _SEQUENCE)
        return bool(used == header.payload_bytes and last == len(header.tokens) - 1)

    def close(self) -> None:
        if self._context:
            self._llama.llama_free(self._context)
            self._context = None
        if self._model:
            self._llama.llama_model_free(self._model)
            self._model = None


class _Batch:
    """llama.cpp's batch for one sequence, its arrays made once and owned by numpy."""

    def __init__(self, llama: Any) -> None:
        self._tokens = np.zeros(BATCH_TOKENS, np.int32)
        self._positions = np.zeros(BATCH_TOKENS, np.int32)
        self._sequence_counts = np.ones(BATCH_TOKENS, np.int32)
        self._wanted = np.zeros(BATCH_TOKENS, np.int8)
        self._sequence = ctypes.c_int32(_SEQUENCE)
        sequence = ctypes.pointer(self._sequence)
        self._sequences = (ctypes.POINTER(ctypes.c_int32) * BATCH_TOKENS)(
            *[sequence] * BATCH_TOKENS
        )
        int32 = ctypes.POINTER(ctypes.c_int32)
        self._batch = llama.llama_batch(
            token=self._tokens.ctypes.data_as(int32),
            pos=self._positions.ctypes.data_as(int32),
            n_seq_id=self._sequence_counts.ctypes.data_as(int32),
            seq_id=self._sequences,
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, token_ids: Sequence[int], position: int, *, every_logit: bool) -> Any:
        """Return the batch of `token_ids` from `position` on; logits of all or of the last."""
        count = self._batch.n_tokens = len(token_ids)
        if count == 1:  # every token of an answer comes this way
            self._tokens[0], self._positions[0] = token_ids[0], position
        else:
            self._tokens[:count] = token_ids
            self._positions[:count] = range(position, position + count)
            self._wanted[:count] = every_logit
        self._wanted[count - 1] = True
        return self._batch
