"""Tiny encoders and a tiny T5 with random weights, and languages that can be learnt by rule."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgekit.progress import NoProgress
from edgekit.train.configuration import read_configuration
from edgekit.workflows.train import FineTuned, run_training

# Of what the names of people and of places are made.
SYLLABLES = {"PERSON": ("ka", "lo", "mi", "ten", "ni"), "PLACE": ("ru", "sa", "vel", "dor", "pa")}
GOOD, BAD, PLAIN = ("fine", "lovely", "great"), ("awful", "poor", "dull"), ("grey", "tall", "wide")
FILLERS = ("the", "film", "was", "we", "thought", "it", "really", "a", "long", "evening", "with")
# Each row is a part of a sentence, in its order; the other language says the parts backwards.
WORDS = (
    {"one": "uno", "two": "due", "three": "tre", "four": "fir", "five": "lim"},
    {"red": "ros", "blue": "blu", "green": "vert", "black": "ner", "white": "alb"},
    {"cats": "gat", "dogs": "can", "birds": "ucel", "fish": "pes", "mice": "sor"},
    {"eat": "man", "run": "cor", "sleep": "dorm", "sing": "cant", "jump": "salt"},
)

Documents = list[dict[str, Any]]


def class_records(count: int, seed: int = 1) -> Documents:
    """Return texts whose class a single word among fillers decides."""
    generator, kinds, found = random.Random(seed), {"good": GOOD, "bad": BAD, "plain": PLAIN}, []
    for _ in range(count):
        label = generator.choice(sorted(kinds))
        words = generator.choices(FILLERS, k=generator.randint(3, 9))
        words.insert(generator.randint(0, len(words)), generator.choice(kinds[label]))
        found.append({"text": " ".join(words), "label": label})
    return found


def entity_records(count: int, seed: int = 2) -> Documents:
    """Return texts with names of people and of places, each of its own syllables."""
    generator, found = random.Random(seed), []
    for _ in range(count):
        text, entities = "", []
        for _ in range(generator.randint(1, 3)):
            text += " ".join(generator.choices(FILLERS, k=generator.randint(1, 3))) + " "
            label = generator.choice(sorted(SYLLABLES))
            name = "".join(generator.choices(SYLLABLES[label], k=generator.randint(2, 3)))
            entities.append({"start": len(text), "end": len(text) + len(name), "label": label})
            text += f"{name.capitalize()}, "
        found.append({"text": text + "indeed.", "entities": entities})
    return found


def pair_records(count: int, seed: int = 3) -> Documents:
    """Return sentences, and what they are in a language of other words in another order."""
    generator, found = random.Random(seed), []
    for _ in range(count):
        words = [generator.choice(sorted(part)) for part in WORDS]
        said = [part[word] for part, word in zip(WORDS, words, strict=True)]
        found.append({"source": " ".join(words), "target": " ".join(reversed(said))})
    return found


RECORDS: dict[str, Callable[..., Documents]] = {
    "classes": class_records,
    "entities": entity_records,
    "pairs": pair_records,
}


def write_wordpiece(folder: Path) -> int:
    """Train BERT's kind of tokenizer on the records; return the vocabulary's size."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(lowercase=False)
    texts = [r["text"] for r in class_records(300) + entity_records(300)]
    tokenizer.train_from_iterator(texts, vocab_size=300, show_progress=False)
    tokenizer._tokenizer.post_processor = _template(tokenizer, "[CLS] $A [SEP]")
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())


def write_byte_level(folder: Path) -> int:
    """Train RoBERTa's kind of tokenizer on the records; return the vocabulary's size."""
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing

    tokenizer = ByteLevelBPETokenizer(add_prefix_space=True)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    texts = [r["text"] for r in class_records(300) + entity_records(300)]
    tokenizer.train_from_iterator(
        texts, vocab_size=500, special_tokens=special, show_progress=False
    )
    tokenizer._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())


def write_unigram(folder: Path) -> int:
    """Write T5's kind of tokenizer, with the records' words and letters; return its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = sorted({word for part in WORDS for pair in part.items() for word in pair})
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "\u2581": -9.0}
    pieces |= {f"\u2581{word}": -3.0 for word in words}
    pieces |= dict.fromkeys(sorted(set("".join(words))), -9.0)
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = _template(tokenizer, "$A </s>")
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())


def _template(tokenizer: Any, single: str) -> Any:
    from tokenizers.processors import TemplateProcessing

    special = [word for word in single.split() if word != "$A"]
    return TemplateProcessing(
        single, None, [(word, tokenizer.token_to_id(word)) for word in special]
    )


def build_base(folder: Path, family: str, **overrides: Any) -> Path:
    """Save a model of `family` with random weights, and without a head, into `folder`."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip
    match family:
        case "bert":
            config = transformers.BertConfig(
                **(shape | {"vocab_size": write_wordpiece(folder)} | overrides)
            )
            model = transformers.BertForMaskedLM(config)
        case "distilbert":
            size = write_wordpiece(folder)
            config = transformers.DistilBertConfig(
                vocab_size=size, dim=32, n_layers=2, n_heads=2, hidden_dim=64,
                max_position_embeddings=64, **overrides,
            )  # fmt: skip
            model = transformers.DistilBertForMaskedLM(config)
        case "roberta":
            config = transformers.RobertaConfig(
                **(shape | {"vocab_size": write_byte_level(folder)} | overrides)
            )
            model = transformers.RobertaForMaskedLM(config)
        case "t5":
            size = write_unigram(folder)
            settings = {"d_model": 48, "d_kv": 16, "d_ff": 96, "num_layers": 1, "num_heads": 3,
                        "decoder_start_token_id": 0, "dropout_rate": 0.0}  # fmt: skip
            config = transformers.T5Config(vocab_size=size, **(settings | overrides))
            model = transformers.T5ForConditionalGeneration(config)
        case _:
            raise AssertionError(family)
    model.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def make_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that builds a tiny checkpoint of a family, once for each."""
    built: dict[str, Path] = {}

    def make(family: str, **overrides: Any) -> Path:
        key = f"{family} {sorted(overrides.items())}"
        if key not in built:
            folder = tmp_path_factory.mktemp(family) / f"tiny-{family}"
            built[key] = build_base(folder, family, **overrides)
        return built[key]

    return make


def write_lines(file: Path, documents: Sequence[dict[str, Any]]) -> None:
    """Write JSONL."""
    file.write_text("".join(json.dumps(d) + "\n" for d in documents), encoding="utf-8")


def configured(folder: Path, base: Path, kind: str, count: int = 60, **train: Any) -> Path:
    """Write records of `kind`, and a configuration beside them; return its path."""
    write_lines(folder / f"{kind}.jsonl", RECORDS[kind](count))
    settings = {"steps": 8, "learning_rate": 3e-3, "batch_tokens": 128} | train
    times = settings.pop("times", 2)
    (folder / "run.toml").write_text(
        f'[model]\ncheckpoint = "{base}"\n'
        f'[data]\nkind = "{kind}"\nfiles = ["{kind}.jsonl"]\nevaluation_share = 0.25\n'
        "[train]\n"
        + "".join(f"{key} = {value}\n" for key, value in settings.items())
        + f"[evaluate]\ntimes = {times}\n"
    )
    return folder / "run.toml"


def trained(config: Path, out: Path, progress: Any = None, **options: Any) -> FineTuned:
    """Train as the file says."""
    found = read_configuration(config)
    return run_training(found, out, progress=progress or NoProgress(), **options)
