"""Reference: what the checkpoint itself, in float32 torch, answers on a measuring text.

The logits are kept compactly and cached, so that ten artifacts of one checkpoint cost one pass
of torch. The text is a list of passages, each of a kind (prose, code, ...); it knows nothing of
artifacts or engines.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.divergence import CompactRows, compact, compare, join
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.files import write_atomically
from edgekit.privacy import quiet
from edgekit.progress import Progress

if TYPE_CHECKING:
    import torch

WINDOW_TOKENS = 512
NOISE_TOKENS = 192
CACHE_VERSION = 3


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of one kind.

    `special` says whether special tokens in it are meant as such. One that is not `measured`
    only proves token parity.
    """

    kind: str
    text: str
    special: bool = False
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive tokens of one passage, fed to the model from an empty context."""

    kind: str
    token_ids: tuple[int, ...]


def side_by_side(windows: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token ids of `windows`, int64 [windows, longest], and which of them are theirs.

    Shorter windows are filled up behind their end, where a causal model does not look.
    """
    torch = need("torch", "convert")
    lengths = torch.tensor([len(window.token_ids) for window in windows])
    longest = int(lengths.max())
    ids = torch.zeros(len(windows), longest, dtype=torch.long)
    for row, window in enumerate(windows):
        ids[row, : len(window.token_ids)] = torch.tensor(window.token_ids)
    return ids, torch.arange(longest)[None] < lengths[:, None]


@dataclass(frozen=True, slots=True)
class Reference:
    """The checkpoint's side of a comparison.

    `passages` with their `passage_ids` prove token parity; `windows` with `rows` (all positions
    but the last of each window, in order) measure divergence. `noise_floor` is the divergence,
    in nats per position, of the checkpoint against itself through the same path.
    """

    passages: tuple[Passage, ...]
    passage_ids: tuple[tuple[int, ...], ...]
    windows: tuple[Window, ...]
    rows: CompactRows
    noise_floor: float


def measure_reference(
    checkpoint: Checkpoint,
    passages: Sequence[Passage],
    cache_folder: Path,
    progress: Progress,
    *,
    windows_per_kind: int | None = None,
    window_tokens: int = WINDOW_TOKENS,
) -> Reference:
    """Return the reference of `checkpoint` on `passages`; from `cache_folder` where it is known.

    `windows_per_kind` bounds how much of each kind of text is measured, in windows of
    `window_tokens`, or of the context where that is shorter. Needs torch and transformers unless
    it is cached. Raises InputError if the checkpoint cannot be loaded or the texts are too short
    to measure anything.
    """
    tokenizer = load_tokenizer(checkpoint)
    ids = tuple(tuple(encode(tokenizer, passage)) for passage in passages)
    length = _window_length(checkpoint, window_tokens)
    windows = tuple(_windows(passages, ids, length, windows_per_kind))
    if not windows:
        raise InputError("the text is shorter than two tokens", hint="give a longer text")
    file = cache_folder / f"{_key(checkpoint, windows)}.npz"
    found = _load(file)
    if found is None:
        found = _run(checkpoint, windows, progress)
        _save(file, *found)
    rows, noise_floor = found
    return Reference(tuple(passages), ids, windows, rows, noise_floor)


def targets(window: Window) -> NDArray[np.int32]:
    """Return the token that follows each position but the last: int32, [length - 1]."""
    return np.array(window.token_ids[1:], dtype=np.int32)


def render_dialogues(
    checkpoint: Checkpoint, dialogues: Sequence[Sequence[dict[str, str]]], *, prompt: bool
) -> list[str]:
    """Return each list of messages as the checkpoint's own chat template writes it.

    With `prompt`, the text ends where the assistant's answer would begin. transformers renders,
    so that the runtime's own renderer has something to be checked against.
    """
    tokenizer = _transformers_tokenizer(checkpoint.path)
    return [
        str(tokenizer.apply_chat_template(d, tokenize=False, add_generation_prompt=prompt))
        for d in dialogues
    ]


@lru_cache(maxsize=1)
def _transformers_tokenizer(path: Path) -> Any:
    with quiet.applied():
        transformers = need("transformers", "convert")
        return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Return the tokenizer of tokenizers, the library. Raises InputError for a bad file."""
    tokenizers = need("tokenizers", "convert")
    file = checkpoint.path / "tokenizer.json"
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{file} is not a tokenizer: {error}") from error


def encode(tokenizer: Any, passage: Passage) -> list[int]:
    """Return the token ids of a passage, with nothing added at its ends."""
    tokenizer.encode_special_tokens = not passage.special
    return list(tokenizer.encode(passage.text, add_special_tokens=False).ids)


def _window_length(checkpoint: Checkpoint, window_tokens: int) -> int:
    context = checkpoint.config.get("max_position_embeddings", window_tokens)
    return min(window_tokens, int(context))


def _windows(
    passages: Sequence[Passage], ids: Sequence[Sequence[int]], length: int, limit: int | None
) -> Iterator[Window]:
    """Cut the tokens of each kind, joined, into at most `limit` windows of at most `length`."""
    kinds: dict[str, list[int]] = {}
    for passage, passage_ids in zip(passages, ids, strict=True):
        if passage.measured:
            kinds.setdefault(passage.kind, []).extend(passage_ids)
    for kind, kind_ids in kinds.items():
        for first in range(0, len(kind_ids), length)[:limit]:
            piece = kind_ids[first : first + length]
            if len(piece) > 1:
                yield Window(kind, tuple(piece))


def _key(checkpoint: Checkpoint, windows: Sequence[Window]) -> str:
    text = json.dumps([CACHE_VERSION, checkpoint.digest(), [w.token_ids for w in windows]])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _run(
    checkpoint: Checkpoint, windows: Sequence[Window], progress: Progress
) -> tuple[CompactRows, float]:
    model = load_model(checkpoint)
    parts: list[CompactRows] = []
    noise: list[NDArray[np.float64]] = []
    seen: set[str] = set()
    total = sum(len(window.token_ids) for window in windows)
    rng = np.random.default_rng(0)
    with progress.task("running the checkpoint in float32", total, unit="tokens") as advance:
        for window in windows:
            logits = _logits(model, window.token_ids)
            parts.append(compact(logits, targets(window), rng))
            if window.kind not in seen:  # the beginning of each kind tells the floor
                seen.add(window.kind)
                beginning = Window(window.kind, window.token_ids[:NOISE_TOKENS])
                again = _logits_in_two_steps(model, beginning.token_ids)
                rows = parts[-1].part(0, len(again))
                noise.append(compare(rows, again, targets(beginning)).divergence)
            advance(len(window.token_ids))
    return join(parts), float(np.concatenate(noise).mean())


def load_model(checkpoint: Checkpoint) -> Any:
    """Return the transformers model in float32, ready to compute. Raises InputError."""
    with quiet.applied():  # the hub's switches are read when transformers is imported
        return _loaded(checkpoint)


def _loaded(checkpoint: Checkpoint) -> Any:
    torch = need("torch", "convert")
    transformers = need("transformers", "convert")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint.path,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"transformers cannot load {checkpoint.path}: {error}") from error
    return model.eval()


def _logits(model: Any, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the logits of all positions but the last: [length - 1, vocabulary]."""
    import torch

    with torch.inference_mode():
        output = model(torch.tensor([token_ids]), use_cache=False).logits[0, :-1]
    return _to_numpy(output)


def _logits_in_two_steps(model: Any, token_ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the same logits by another order of sums: half the tokens, then the rest."""
    import torch

    half = len(token_ids) // 2
    with torch.inference_mode():
        first = model(torch.tensor([token_ids[:half]]), use_cache=True)
        rest = model(torch.tensor([token_ids[half:]]), past_key_values=first.past_key_values)
        output = torch.cat([first.logits[0], rest.logits[0]])[:-1]
    return _to_numpy(output)


def _to_numpy(logits: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = logits.numpy()
    return array


def _load(file: Path) -> tuple[CompactRows, float] | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            rows = CompactRows(*(arrays[field.name] for field in fields(CompactRows)))
            return rows, float(arrays["noise_floor"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None  # absent or damaged: it is only a cache


def _save(file: Path, rows: CompactRows, noise_floor: float) -> None:
    buffer = io.BytesIO()
    arrays = {field.name: getattr(rows, field.name) for field in fields(CompactRows)}
    np.savez_compressed(buffer, noise_floor=np.float64(noise_floor), **arrays)
    write_atomically(file, buffer.getvalue())
