"""Models of torch and bitsandbytes through transformers: one sequence, one KV cache.

For machines with a GPU, and as the reference in checks: on a processor everything but codes is
float32, which every one of them computes well, on a GPU 16 bits. Loads whatever folder it is
given: it was checked before (see runtimes.load).
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devices.detect import describe
from edgekit.artifact import Artifact
from edgekit.errors import EngineFailure, GateError, InputError
from edgekit.extras import need
from edgekit.privacy.quiet import refuse_hub_kernels
from edgekit.torch_folder import TorchFolder, read_folder
from runtimes.engine import Interrupted
from runtimes.json_tokenizer import JsonTokenizer
from runtimes.state_file import StateHeader, identity_of, open_state, write_state
from runtimes.torch_cache import PARTS, TorchCache

if TYPE_CHECKING:
    from pathlib import Path

EXTRA = "torch"
# A cancel is noticed before each matrix, so that many operations may pass until it is. The
# number of tokens in a run follows from that and from nothing else: what is computed must not
# depend on how busy a machine is, and LLM.int8 looks at all tokens of a run together.
LONGEST_STEP_OPERATIONS = 2 << 30
BATCH_TOKENS, FEWEST_BATCH_TOKENS = 256, 16
LEAST_FEATURE = {"x86_64": "avx2", "AMD64": "avx2"}  # bitsandbytes' library is built for it


class TorchEngine:
    """One torch model with its cache; runtimes.engine.Engine says what each method means."""

    def __init__(self, artifact: Artifact, *, context_length: int, threads: int) -> None:
        """Load the artifact's folder and tokenizer, on the first GPU if there is one.

        Raises InputError if transformers refuses the folder, GateError for a processor that
        bitsandbytes cannot use, MissingExtraError if a library is not installed.
        """
        self._context_length = context_length
        self._threads = threads
        self._model_sha256 = identity_of(artifact)
        self._tokens: list[int] = []
        self._stopped = False
        self._tokenizer = JsonTokenizer(artifact.path / "tokenizer.json", EXTRA)
        folder = read_folder(artifact.path)
        self._torch: Any = _library(folder)
        self._torch.set_num_threads(threads)
        self._device, self._dtype = _place(self._torch, folder)
        self._model: Any = _load(folder, self._device, self._dtype)
        self._cache = self._reserve(folder)
        self._batch_tokens, self._head_tokens = _batch_tokens(folder), _head_tokens(folder)
        self._vocabulary_size = folder.config.vocabulary_size
        self._row = np.empty(self._vocabulary_size, dtype=np.float32)
        self._listen(folder)

    def _reserve(self, folder: TorchFolder) -> TorchCache:
        config = folder.config
        size = (PARTS * config.layers, config.kv_heads, self._context_length, config.head_dim)
        try:
            memory = self._torch.empty(size, dtype=self._dtype, device=self._device)
        except RuntimeError as error:  # torch's own errors of memory are of this kind
            raise GateError(
                f"a context of {self._context_length} tokens does not fit the memory of "
                f"{self._device}",
                hint="ask for a shorter context",
            ) from error
        return TorchCache(memory)

    def _listen(self, folder: TorchFolder) -> None:
        """Look for an interrupt before every matrix of every layer, and before the last one."""
        matrices = {name.removesuffix(".weight") for name in folder.matrices()}
        for name, module in self._model.named_modules():
            if name in matrices or name == "lm_head":
                module.register_forward_pre_hook(self._raise_if_stopped)

    def _raise_if_stopped(self, *_: object) -> None:
        if self._stopped:
            raise Interrupted

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
        self._stopped = False
        before = len(self._tokens)
        try:
            for piece in self._pieces(token_ids):
                hidden = self._run(piece)
            self._row[:] = self._logits(hidden[-1:])[0]
        except Interrupted:
            self.truncate(before)
            raise
        return self._row

    def score(self, token_ids: Sequence[int], out: NDArray[np.float32]) -> None:
        self._stopped = False
        self.truncate(0)
        start = 0
        for piece in self._pieces(token_ids):
            hidden = self._run(piece)
            for first in range(0, len(piece), self._head_tokens):
                rows = self._logits(hidden[first : first + self._head_tokens])
                out[start : start + len(rows)] = rows
                start += len(rows)

    def _pieces(self, token_ids: Sequence[int]) -> Iterator[Sequence[int]]:
        for start in range(0, len(token_ids), self._batch_tokens):
            yield token_ids[start : start + self._batch_tokens]

    def _run(self, token_ids: Sequence[int]) -> Any:
        """Append tokens to the cache; return their last hidden states, [tokens, hidden]."""
        total = len(self._tokens) + len(token_ids)
        if total > self._context_length:
            raise InputError(f"{total} tokens do not fit a context of {self._context_length}")
        torch = self._torch
        with torch.inference_mode(), _failures(len(token_ids)):
            hidden = self._model.model(
                input_ids=torch.tensor([list(token_ids)], device=self._device),
                cache_position=torch.arange(len(self._tokens), total, device=self._device),
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state[0]
        self._tokens.extend(token_ids)
        self._cache.length = total
        return hidden

    def _logits(self, hidden: Any) -> NDArray[np.float32]:
        """Return the logits of hidden states, [tokens, vocabulary]."""
        with self._torch.inference_mode(), _failures(len(hidden)):
            logits: NDArray[np.float32] = self._model.lm_head(hidden).float().cpu().numpy()
        return logits

    def truncate(self, length: int) -> None:
        del self._tokens[length:]
        self._cache.length = len(self._tokens)

    def interrupt(self) -> None:
        self._stopped = True

    def save_state(self, path: Path) -> None:
        count = len(self._tokens)
        size = count * self._cache.bytes_per_token

        def fill(mapped: mmap.mmap, offset: int) -> None:
            for part in self._cache.values[:, :, :count]:
                data = part.contiguous().cpu().view(self._torch.uint8).numpy().tobytes()
                mapped[offset : offset + len(data)] = data
                offset += len(data)

        header = StateHeader(self._version(), self._model_sha256, list(self._tokens), size)
        write_state(path, header, fill)

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
            self._restore(mapped, offset, count)
            self._tokens[:] = header.tokens
            self._cache.length = count

    def _restore(self, mapped: mmap.mmap, offset: int, count: int) -> None:
        size = count * self._cache.bytes_per_token // len(self._cache.values)
        for part in self._cache.values[:, :, :count]:
            data = bytearray(mapped[offset : offset + size])
            if data:
                part[...] = self._torch.frombuffer(data, dtype=self._dtype).view(part.shape)
            offset += size

    def _version(self) -> str:
        name = str(self._dtype).removeprefix("torch.")
        return f"torch {self._torch.__version__}, {name}"

    def close(self) -> None:
        self._model = None
        self._cache.values = self._cache.values.new_empty(0)
        self._tokens.clear()


def _library(folder: TorchFolder) -> Any:
    """Return torch, with all that this folder needs installed and quiet.

    Raises MissingExtraError, GateError.
    """
    refuse_hub_kernels()
    # nothing is compiled behind our back, which would start programs and write files
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    torch = need("torch", EXTRA)
    _import_without_a_socket("urllib3.util.connection")
    if folder.config.kind is not None:
        _require_processor()
        need("accelerate", EXTRA)
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        need("bitsandbytes", EXTRA)
    return torch


def _import_without_a_socket(module: str) -> None:
    """Import what transformers imports, and what would find out by a socket whether IPv6 works."""
    before, socket.has_ipv6 = socket.has_ipv6, False
    try:
        need(module, EXTRA)
    finally:
        socket.has_ipv6 = before


def _require_processor() -> None:
    """Raise GateError if bitsandbytes' library would die here."""
    machine = describe()
    feature = LEAST_FEATURE.get(machine.architecture)
    if feature and machine.features and feature not in machine.features:
        raise GateError(
            f"bitsandbytes needs a processor with {feature}, this is {machine.processor}",
            hint="convert the checkpoint to gguf, which runs on every processor",
        )


def _place(torch: Any, folder: TorchFolder) -> tuple[Any, Any]:
    """Return the device and the type that everything but codes has there."""
    if not torch.cuda.is_available():
        return torch.device("cpu"), torch.float32
    device = torch.device("cuda", torch.cuda.current_device())
    if folder.config.float_name == "float32":
        return device, torch.float32
    return device, torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _load(folder: TorchFolder, device: Any, dtype: Any) -> Any:
    """Return the model on `device`. Raises InputError for whatever transformers does not like."""
    transformers = need("transformers", EXTRA)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder.path,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        # transformers moves quantised models itself
        model = model.to(device) if folder.config.kind is None else model
    except Exception as error:  # the library raises nothing more precise
        raise InputError(
            f"transformers cannot load {folder.path}: {error}", hint="convert the model again"
        ) from error
    if wrong := [name for names in found.values() for name in names]:
        raise InputError(
            f"{folder.path} is not the model that its configuration describes: {wrong[0]}",
            hint="convert the model again",
        )
    for module in model.modules():
        if hasattr(module, "compute_dtype"):  # nf4 matrices: the file says what GPUs do best
            module.compute_dtype = dtype
    return model.eval()


def _batch_tokens(folder: TorchFolder) -> int:
    """Return how many tokens one matrix may multiply at once: a power of two."""
    largest = max(rows * columns for rows, columns in folder.matrices().values())
    return max(FEWEST_BATCH_TOKENS, min(BATCH_TOKENS, _fitting_tokens(largest)))


def _head_tokens(folder: TorchFolder) -> int:
    """Return for how many tokens logits are computed at once."""
    config = folder.config
    return min(BATCH_TOKENS, _fitting_tokens(config.vocabulary_size * config.hidden))


def _fitting_tokens(weights: int) -> int:
    """Return the power of two of tokens that a matrix multiplies within one step, at least 1."""
    return 1 << max(0, (LONGEST_STEP_OPERATIONS // (2 * weights)).bit_length() - 1)


@contextmanager
def _failures(tokens: int) -> Iterator[None]:
    """Turn what torch raises, such as a GPU's lack of memory, into one sentence."""
    try:
        yield
    except RuntimeError as error:
        raise EngineFailure(f"torch could not process {tokens} tokens: {error}") from error
