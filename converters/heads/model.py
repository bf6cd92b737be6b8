"""A checkpoint with a head: of which kind it is, its labels, and the transformers model in float32.

The families are those that were tried from training to the device. It knows neither training nor
ONNX.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from converters.checkpoint import Checkpoint
from converters.reference import load_tokenizer
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.privacy import quiet
from edgekit.task import IN_WORDS, TaskKind, check_labels

FAMILIES: dict[TaskKind, tuple[str, ...]] = {
    "classes": ("bert", "distilbert", "roberta", "llama"),
    "entities": ("bert", "distilbert", "roberta"),
    "pairs": ("t5",),
}
AUTO_CLASSES: dict[TaskKind, str] = {
    "classes": "AutoModelForSequenceClassification",
    "entities": "AutoModelForTokenClassification",
    "pairs": "AutoModelForSeq2SeqLM",
}
ENDINGS: dict[str, TaskKind] = {
    "ForSequenceClassification": "classes",
    "ForTokenClassification": "entities",
    "ForConditionalGeneration": "pairs",
}
USUAL_CONTEXT = 512  # of models whose positions have no end


def kind_of(checkpoint: Checkpoint) -> TaskKind | None:
    """Return what `checkpoint` does, None if it has no head for a task of these."""
    names = checkpoint.config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def require_family(checkpoint: Checkpoint, kind: TaskKind) -> None:
    """Raise InputError unless models of the family of `checkpoint` can be of this kind."""
    family = checkpoint.config.get("model_type")
    if family not in FAMILIES[kind]:
        raise InputError(
            f"{checkpoint.path} is of the family {family!r:.60}, and one that {IN_WORDS[kind]} "
            "cannot be made of it",
            hint=f"the families for that are {', '.join(FAMILIES[kind])}",
        )


def labels_of(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the outputs in their order. Raises InputError for a head without."""
    where = f"{checkpoint.path / 'config.json'}: id2label"
    found = checkpoint.config.get("id2label")
    if not isinstance(found, dict) or set(found) != {str(n) for n in range(len(found))}:
        raise InputError(f"{where} does not name the outputs 0, 1, 2 and so on")
    labels = [found[str(number)] for number in range(len(found))]
    check_labels(labels, where)
    if checkpoint.config.get("problem_type") not in (None, "single_label_classification"):
        raise InputError(
            f"{checkpoint.path / 'config.json'}: problem_type is "
            f"{checkpoint.config['problem_type']!r:.60}, and only one label a text is supported"
        )
    return labels


def longest_text(checkpoint: Checkpoint) -> int | None:
    """Return the most tokens that a text may have, with those at its ends; None: no limit."""
    if checkpoint.config.get("model_type") == "t5":  # relative positions
        return None
    longest = required_count(checkpoint, "max_position_embeddings")
    if checkpoint.config.get("model_type") == "roberta":  # positions begin behind the padding's
        longest -= padding_of(checkpoint) + 1
    return longest


def required_count(checkpoint: Checkpoint, key: str) -> int:
    """Return a number from the configuration. Raises InputError if it has none, or below 1."""
    value = checkpoint.config.get(key)
    if type(value) is not int or value < 1:
        raise InputError(f"{checkpoint.path / 'config.json'} has no {key}")
    return value


def padding_of(checkpoint: Checkpoint) -> int:
    """Return the token that fills up shorter texts. Raises InputError where it is unsaid."""
    value = checkpoint.config.get("pad_token_id")
    if value is None and checkpoint.config.get("model_type") in ("bert", "distilbert", "t5"):
        return 0  # the default of their configurations
    if value is None and checkpoint.config.get("model_type") == "roberta":
        return 1
    if type(value) is not int or not 0 <= value < required_count(checkpoint, "vocab_size"):
        raise InputError(f"{checkpoint.path / 'config.json'} has no pad_token_id")
    return value


def text_tokenizer(checkpoint: Checkpoint) -> Any:
    """Return the tokenizer as a text meets it: nothing cut off, and nothing in a text is special.

    Raises InputError for a bad file.
    """
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_headed(
    checkpoint: Checkpoint, kind: TaskKind, labels: Sequence[str] = (), seed: int | None = None
) -> Any:
    """Return the transformers model of `kind`, float32, ready to compute.

    With a `seed`, a head that the checkpoint lacks is made anew for `labels`. Raises InputError
    where the checkpoint cannot be loaded, or other weights than a head's are missing.
    """
    require_family(checkpoint, kind)
    with quiet.applied():  # the hub's switches are read when transformers is imported
        torch = need("torch", "convert")
        with torch.random.fork_rng():
            torch.manual_seed(seed or 0)
            model, missing = _loaded(checkpoint, kind, labels)
    strange = [name for name in missing if seed is None or not _is_head(model, name)]
    if strange:
        raise InputError(
            f"{checkpoint.path}: tensor {sorted(strange)[0]} is missing, or of another shape than "
            f"{checkpoint.architecture} needs"
        )
    return model.eval()


def _loaded(checkpoint: Checkpoint, kind: TaskKind, labels: Sequence[str]) -> tuple[Any, set[str]]:
    """Return the model and the names of the weights that the checkpoint has not, or not so."""
    torch, transformers = need("torch", "convert"), need("transformers", "convert")
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that a head is new is no news
    named: Mapping[str, Any] = {}
    if labels:
        named = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: number for number, label in enumerate(labels)},
            "problem_type": None,
        }
    try:
        model, report = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(
            checkpoint.path,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **named,
        )
    except (ValueError, KeyError, OSError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"transformers cannot load {checkpoint.path}: {error}") from error
    finally:
        logger.setLevel(level)
    mismatched = {name for name, *_ in report["mismatched_keys"]}
    return model, set(report["missing_keys"]) | mismatched


def _is_head(model: Any, name: str) -> bool:
    """Return whether a weight is made for the task: the head's own, or the pooler before it."""
    return not name.startswith(f"{model.base_model_prefix}.") or ".pooler." in name
