"""A new model: random weights of a known family, and a tokenizer, as an ordinary checkpoint.

What is trained from scratch is then trained as any other checkpoint is. The same configuration and
data give the same folder, so one that a kill left unfinished is simply made again.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from converters.architectures import describe
from converters.checkpoint import Checkpoint
from converters.gguf_vocabulary import read_vocabulary
from converters.special_tokens import special_tokens, token_ids
from devices.detect import memory_bytes
from edgekit.errors import GateError, InputError
from edgekit.extras import need
from edgekit.files import disk_errors, require_space, sha256_file, staged_folder
from edgekit.privacy import quiet
from edgekit.progress import Progress
from edgekit.store import find_checkpoint
from edgekit.train.configuration import Configuration
from edgekit.train.dataset import training_records
from edgekit.train.model_section import ModelSection
from edgekit.train.new_tokenizer import train_tokenizer, write_tokenizer
from edgekit.units import format_bytes

CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip


def make_checkpoint(configuration: Configuration, folder: Path, progress: Progress) -> Checkpoint:
    """Return the untrained model of `configuration` in `folder`, which is made unless it is there.

    Its weights are float32. Raises InputError for bad records, and a tokenizer that cannot be
    taken; GateError where memory or disk are too small.
    """
    if (folder / "config.json").is_file():
        return Checkpoint.open(folder)
    with staged_folder(folder) as staging:
        _make_tokenizer(configuration, staging, progress)
        with progress.task("making the model", 1, unit="models") as advance:
            _make_model(configuration, staging)
            advance(1)
        made = Checkpoint.open(staging)
        rows = describe(made).vocabulary_size
        read_vocabulary(made, rows)  # else it could be trained, and not be converted
    return Checkpoint.open(folder)


def tokenizer_source(configuration: Configuration) -> Path | None:
    """Return the folder of the checkpoint whose tokenizer is taken; None if one is trained."""
    section = configuration.tokenizer
    if section is None or section.checkpoint is None:
        return None
    beside = configuration.path.parent / section.checkpoint
    try:
        named = str(beside) if (beside / "config.json").is_file() else section.checkpoint
        found = find_checkpoint(named)
        if (found / "tokenizer.json").is_file():
            return found
        raise InputError(f"{found} has no tokenizer.json")
    except InputError as error:
        where = configuration.where("tokenizer", "checkpoint")
        raise InputError(f"{where}: {error.message}", error.hint) from error
    except (OSError, RuntimeError) as error:  # a name that is too long, a user there is not
        where = configuration.where("tokenizer", "checkpoint")
        raise InputError(f"{where} is no name of a folder: {error.args[-1]}") from error


def tokenizer_digest(source: Path) -> str:
    """Return a SHA-256 of what is taken from the checkpoint `source`: its tokenizer's files."""
    total = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            total.update(f"{name} {sha256_file(source / name)}\n".encode())
    return total.hexdigest()


def _make_tokenizer(configuration: Configuration, folder: Path, progress: Progress) -> None:
    section, model = configuration.tokenizer, configuration.model
    source = tokenizer_source(configuration)
    if source is not None:
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        if configuration.data.kind == "chat" and Checkpoint(folder, {}, {}).chat_template is None:
            where = configuration.where("tokenizer", "checkpoint")
            raise InputError(f"{where}: {source} has no chat template, and the data is chats")
        return
    if section is None or section.vocabulary is None or model.context is None:
        raise ValueError("a new model has a section [tokenizer]")
    with progress.task("training the tokenizer", None, "records") as advance:
        records = training_records(configuration.data)
        tokenizer = train_tokenizer(records, section.vocabulary, advance)
    chats = configuration.data.kind == "chat"
    write_tokenizer(tokenizer, folder, model.context, chats=chats)


def _make_model(configuration: Configuration, folder: Path) -> None:
    """Write config.json and weights drawn by the seed, as transformers draws them."""
    torch = need("torch", "train")
    with quiet.applied():
        transformers = need("transformers", "train")
        config = _config(transformers, configuration.model, folder)
        with torch.random.fork_rng(devices=[]), disk_errors(folder):
            torch.manual_seed(configuration.train.seed)
            _require_memory(config, folder)
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model.save_pretrained(folder, safe_serialization=True)


def _config(transformers: Any, model: ModelSection, folder: Path) -> Any:
    """Return transformers' configuration of `model`, whose tokenizer lies in `folder`."""
    tokens = Checkpoint(folder, {}, {})  # as far as there is one
    ids = token_ids(tokens)
    rows = max(ids.values()) + 1
    special = special_tokens(tokens, ids, rows)
    settings: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": model.width,
        "intermediate_size": model.feed_forward,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.key_value_heads,
        "max_position_embeddings": model.context,
        "tie_word_embeddings": True,
        "bos_token_id": special.bos,
        "eos_token_id": list(special.stop) if len(special.stop) > 1 else special.eos,
        "pad_token_id": special.pad,
        "rope_theta": 10000.0,
    }
    if model.new == "mistral":
        settings["sliding_window"] = None
    if model.new == "qwen3":
        settings["head_dim"] = (model.width or 0) // (model.heads or 1)
    return getattr(transformers, f"{CLASSES[str(model.new)]}Config")(**settings)


def _require_memory(config: Any, folder: Path) -> None:
    """Raise GateError if the weights alone are more than memory or disk can hold."""
    width, inner = config.hidden_size, config.intermediate_size
    per_layer = 2 * width * width + 3 * width * inner  # at least: two of the four projections
    needed = 4 * (config.vocab_size * width + config.num_hidden_layers * per_layer)
    have = memory_bytes()
    if have and needed > have:
        raise GateError(
            f"the new model's weights need {format_bytes(needed)} and the machine's memory has "
            f"{format_bytes(have)}",
            hint="make it smaller: [model] layers, width, feed_forward",
        )
    require_space(folder, needed)
