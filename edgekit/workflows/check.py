"""check: run an artifact in its own engine and certify how far it is from its checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.divergence import CompactRows, Comparison, compare
from converters.reference import (
    Passage,
    Reference,
    Window,
    measure_reference,
    render_dialogues,
    targets,
)
from edgekit.artifact import Artifact, Certificate
from edgekit.errors import GateError, InputError
from edgekit.progress import Progress
from edgekit.store import cache
from runtimes.base import Message, Role, Runtime
from runtimes.load import load

BUILT_IN_KINDS = ("prose", "code", "languages", "figures")
BUILT_IN_WINDOWS = 2
MAX_TEXT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What an artifact must reach; None asks for nothing."""

    max_kld: float | None = None
    min_top1: float | None = None


def check(
    artifact: Artifact,
    checkpoint: Checkpoint,
    text: Path | None,
    progress: Progress,
) -> Artifact:
    """Measure `artifact` against `checkpoint`, store the certificate, return the artifact with it.

    `text` replaces the built-in texts. Raises InputError if the artifact was made from another
    checkpoint, or its vocabulary differs.
    """
    if artifact.manifest.source.checkpoint_digest != checkpoint.digest():
        raise InputError(
            f"{artifact.manifest.name} was not made from {checkpoint.path}",
            hint="name the checkpoint it was converted from",
        )
    passages = built_in_passages(checkpoint) if text is None else [_user_passage(text)]
    reference = measure_reference(
        checkpoint,
        passages + _parity_passages(),
        cache() / "references",
        progress,
        windows_per_kind=BUILT_IN_WINDOWS if text is None else None,
    )
    runtime = load(artifact, context_length=_context_length(artifact, reference))
    try:
        prompts_equal = _prompts_equal(checkpoint, runtime)
        certificate = _certify(artifact, reference, runtime, prompts_equal, progress)
    finally:
        runtime.close()
    return artifact.certified(certificate)


def enforce(certificate: Certificate, limits: Limits) -> None:
    """Raise GateError if the certificate misses a limit; the message has both numbers."""
    hint = "choose a recipe with more bits, or accept a wider limit"
    if limits.max_kld is not None and certificate.kld_mean > limits.max_kld:
        found, wanted = certificate.kld_mean, limits.max_kld
        raise GateError(f"mean KL divergence is {found:.5f}, at most {wanted} was asked", hint)
    if limits.min_top1 is not None and certificate.top1_agreement < limits.min_top1:
        found, wanted = certificate.top1_agreement, limits.min_top1
        raise GateError(f"top-1 agreement is {found:.4f}, at least {wanted} was asked", hint)


def built_in_passages(checkpoint: Checkpoint) -> list[Passage]:
    """Return the texts that edgekit brings, and conversations if the checkpoint has a template."""
    folder = files("edgekit.workflows") / "texts"
    passages = [Passage(k, (folder / f"{k}.txt").read_text("utf-8")) for k in BUILT_IN_KINDS]
    if checkpoint.chat_template is not None:
        rendered = render_dialogues(checkpoint, _dialogues(), prompt=False)
        passages += [Passage("dialogue", text, special=True) for text in rendered]
    return passages


def _dialogues() -> list[list[dict[str, str]]]:
    """Return the built-in conversations, as lists of role and content."""
    text = (files("edgekit.workflows") / "texts" / "dialogue.json").read_text("utf-8")
    conversations: list[list[dict[str, str]]] = json.loads(text)
    return conversations


def _parity_passages() -> list[Passage]:
    """Return lines that tokenizers disagree on, with special tokens meant and not meant."""
    text = (files("edgekit.workflows") / "texts" / "odd.txt").read_text("utf-8")
    lines = text.split("\n")
    return [
        Passage("odd", line, special, measured=False) for line in lines for special in (False, True)
    ]


def _user_passage(path: Path) -> Passage:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, more than {MAX_TEXT_BYTES}")
        return Passage(path.name, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}", hint="convert the text first") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _certify(
    artifact: Artifact,
    reference: Reference,
    runtime: Runtime,
    prompts_equal: bool,
    progress: Progress,
) -> Certificate:
    comparisons = _compare_windows(reference, runtime, progress)
    divergence = np.concatenate([c.divergence for c in comparisons])
    next_tokens = np.concatenate([c.target_log for c in comparisons])
    source_next_tokens = reference.rows.target_log
    return Certificate(
        checkpoint_digest=artifact.manifest.source.checkpoint_digest,
        text_sha256=_text_digest(reference.passages),
        positions=len(divergence),
        token_ids_equal=prompts_equal and _token_ids_equal(reference, runtime),
        kld_mean=float(divergence.mean()),
        kld_standard_error=float(divergence.std() / np.sqrt(len(divergence))),
        kld_p99=float(np.quantile(divergence, 0.99)),
        top1_agreement=float(np.concatenate([c.same_top1 for c in comparisons]).mean()),
        perplexity=_perplexity(next_tokens),
        perplexity_source=_perplexity(source_next_tokens),
        noise_floor=reference.noise_floor,
        by_kind=_by_kind(reference.windows, comparisons),
    )


def _compare_windows(
    reference: Reference, runtime: Runtime, progress: Progress
) -> list[Comparison]:
    comparisons: list[Comparison] = []
    first = 0
    total = sum(len(window.token_ids) for window in reference.windows)
    with progress.task("running the artifact", total, unit="tokens") as advance:
        for window in reference.windows:
            logits = runtime.score(window.token_ids)[:-1]
            rows = reference.rows.part(first, first + len(logits))
            _require_same_vocabulary(rows, logits)
            comparisons.append(compare(rows, logits, targets(window)))
            first += len(logits)
            advance(len(window.token_ids))
    return comparisons


def _require_same_vocabulary(rows: CompactRows, logits: NDArray[np.float32]) -> None:
    largest = max(rows.top_ids.max(), rows.tail_ids.max())
    if largest >= logits.shape[1]:
        raise InputError(
            f"the artifact has {logits.shape[1]} tokens, the checkpoint predicts token {largest}"
        )


def _token_ids_equal(reference: Reference, runtime: Runtime) -> bool:
    """Compare the engine's own tokenizer with the checkpoint's, also on lines that are hard."""
    for passage, ids in zip(reference.passages, reference.passage_ids, strict=True):
        if tuple(runtime.tokenize(passage.text, special=passage.special)) != ids:
            return False
    return True


def _prompts_equal(checkpoint: Checkpoint, runtime: Runtime) -> bool:
    """Compare the prompts that the runtime renders with those of the checkpoint's template."""
    if checkpoint.chat_template is None:
        return True
    prompts = [d[:-1] if d[-1]["role"] == "assistant" else d for d in _dialogues()]
    expected = render_dialogues(checkpoint, prompts, prompt=True)
    found = [runtime.render([_message(turn) for turn in prompt]) for prompt in prompts]
    return found == expected


def _message(turn: dict[str, str]) -> Message:
    return Message(cast(Role, turn["role"]), turn["content"])


def _context_length(artifact: Artifact, reference: Reference) -> int:
    longest = max(len(window.token_ids) for window in reference.windows)
    return min(artifact.manifest.context_length, longest)


def _perplexity(log_probabilities: NDArray[np.float32]) -> float:
    return float(np.exp(-log_probabilities.astype(np.float64).mean()))


def _by_kind(
    windows: Sequence[Window], comparisons: Sequence[Comparison]
) -> dict[str, dict[str, float]]:
    kinds: dict[str, list[Comparison]] = {}
    for window, comparison in zip(windows, comparisons, strict=True):
        kinds.setdefault(window.kind, []).append(comparison)
    return {
        kind: {
            "positions": float(sum(len(c.divergence) for c in parts)),
            "kld_mean": float(np.concatenate([c.divergence for c in parts]).mean()),
            "top1_agreement": float(np.concatenate([c.same_top1 for c in parts]).mean()),
        }
        for kind, parts in kinds.items()
    }


def _text_digest(passages: Sequence[Passage]) -> str:
    digest = hashlib.sha256()
    for passage in passages:
        digest.update(f"{passage.kind}\0{passage.special}\0{passage.text}\0".encode())
    return digest.hexdigest()
