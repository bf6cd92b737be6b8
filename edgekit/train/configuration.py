"""The configuration of a training run: one TOML file, strictly checked, as typed values.

Every complaint is one sentence with the file, the line and the key. Paths in it are relative to
the file itself. It reads no data and knows no model.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from converters.schemes import unknown
from edgekit.errors import InputError
from edgekit.train.model_section import ModelSection, TokenizerSection, read_model, read_tokenizer
from edgekit.train.personal_data import Scan
from edgekit.train.search_space import EMPTY_SPACE, Sampler, SearchSection, Value, read_space
from edgekit.train.toml_table import Table, place, read_toml
from edgekit.train.trained import Method

Kind = Literal["chat", "text", "preference", "classes", "entities", "pairs"]
Base = Literal["nf4"]
TooLong = Literal["error", "skip", "cut"]
Only = Literal["norms"]
DEFAULT_RATES: dict[Method, float] = {"full": 5e-5, "lora": 1e-3, "norms": 1e-2}
PREFERENCE_RATES: dict[Method, float] = {"full": 1e-6, "lora": 5e-5, "norms": 1e-3}
NEW_RATE = 1e-3  # of a model that begins with random weights


@dataclass(frozen=True, slots=True)
class DataSection:
    """`[data]`: what is learnt.

    `kind` "chat": JSONL, a conversation a line under "messages". "text": JSONL, a document a line
    under "text", or plain text files. "preference": JSONL, the prompt under "messages", two answers
    to it under "chosen" and "rejected". "classes", "entities" and "pairs": JSONL, for models with a
    head, see `edgekit.train.heads.records`. All but plain text may be Parquet too, but for
    entities. Without `evaluation_files`, `evaluation_share` of the
    records is held out. `context`: tokens of a window; None: the model's, but at most 1024.
    `too_long`: what is done with a chat of more. `end_of_text`: the token after each document of
    kind "text"; None: the one that the tokenizer names. `personal_data`: whether e-mail addresses
    and the like are counted, and whether the first ends the run.
    """

    kind: Kind
    files: tuple[Path, ...]
    evaluation_files: tuple[Path, ...] = ()
    evaluation_share: float = 0.05
    context: int | None = None
    too_long: TooLong = "error"
    end_of_text: str | None = None
    personal_data: Scan = "report"


@dataclass(frozen=True, slots=True)
class TrainSection:
    """`[train]`: how it is learnt; it ends after `steps`, `epochs` or `minutes`, whatever is
    first. `only` "norms" trains the gains of the norms alone. `save_seconds`: between states.
    `tensorboard`: the folder for event files, in which each run has one of its name.

    `freeze`: parts that stay as they are, see `edgekit.train.frozen`. `gradient_checkpointing`:
    compute each layer's inner values again when they are needed, in place of keeping them."""

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    learning_rate: float | None = None
    batch_tokens: int = 2048
    clip: float = 1.0
    seed: int = 0
    only: Only | None = None
    save_seconds: float = 180.0
    tensorboard: Path | None = None
    freeze: tuple[str, ...] = ()
    gradient_checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class AdapterSection:
    """`[adapter]`: train low-rank adapters in place of the weights.

    Their product counts `alpha` / `rank` times. `layers`: names of the matrices that get one, or
    patterns such as "*.self_attn.*"; none: all but the head. With `merge` they are added to the
    weights at the end; without, a folder in PEFT's format is left. `base` "nf4": the weights beside
    them have 4 bits while training; at the end the real ones are loaded once more, and the figures
    are of the adapters with those.
    """

    kind: Literal["lora"] = "lora"
    rank: int = 8
    alpha: float = 16.0
    layers: tuple[str, ...] = ()
    merge: bool = True
    base: Base | None = None


@dataclass(frozen=True, slots=True)
class PreferenceSection:
    """`[preference]`: `beta` says how dear it is to move away from the model before training."""

    beta: float = 0.1


@dataclass(frozen=True, slots=True)
class TeacherSection:
    """`[teacher]`: learn from a larger `checkpoint` too; `weight` is its share of the loss, and
    `temperature` flattens both distributions."""

    checkpoint: str
    weight: float = 0.5
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class EvaluateSection:
    """`[evaluate]`: how many `times` the held-out records are judged, beside at the start.

    `answers`: how many held-out chats are answered before and after, with at most
    `answer_tokens` each.
    """

    times: int = 6
    answers: int = 0
    answer_tokens: int = 128


@dataclass(frozen=True, slots=True)
class Configuration:
    """A whole configuration; `path` is the file that it was read from, `text` what it said."""

    path: Path
    text: str
    model: ModelSection
    data: DataSection
    train: TrainSection
    adapter: AdapterSection | None = None
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    preference: PreferenceSection | None = None
    teacher: TeacherSection | None = None
    tokenizer: TokenizerSection | None = None
    search: SearchSection | None = None

    @property
    def method(self) -> Method:
        """Return what is trained."""
        if self.adapter is not None:
            return "lora"
        return "norms" if self.train.only == "norms" else "full"

    @property
    def keeps_adapter(self) -> bool:
        """Return whether an adapter is left, in place of a whole checkpoint."""
        return self.adapter is not None and not self.adapter.merge

    @property
    def learning_rate(self) -> float:
        """Return the peak of the learning rate: as configured, or what suits the method."""
        usual = DEFAULT_RATES if self.preference is None else PREFERENCE_RATES
        rate = usual[self.method] if self.model.new is None else NEW_RATE
        return self.train.learning_rate or rate

    def where(self, section: str, key: str) -> str:
        """Return file, line and key, as they stand in a complaint; key "" is the section itself."""
        return f"{place(self.path, self.text, section, key)}: [{section}] {key}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Return all values that decide what comes out, as plain JSON; paths by their names."""
        found = {
            name: value
            for name, value in asdict(self).items()
            if name not in ("path", "text", "search") and value
        }
        data = found["data"]
        for key in ("files", "evaluation_files"):
            data[key] = [Path(path).name for path in data[key]]
        found["train"]["learning_rate"] = self.learning_rate
        for key in ("save_seconds", "tensorboard"):
            del found["train"][key]
        return {
            s: {k: v for k, v in t.items() if v not in (None, [], ())} for s, t in found.items()
        }


def read_configuration(path: Path) -> Configuration:
    """Return the configuration in the file `path`. Raises InputError for anything wrong in it."""
    return parse_configuration(path, read_toml(path))


def parse_configuration(path: Path, text: str) -> Configuration:
    """Return the configuration that `path` would hold with this text. Raises InputError."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from error
    found = _configured(path, text, document)
    return replace(found, search=_search(path, text, document)) if "search" in document else found


def _configured(path: Path, text: str, document: dict[str, Any]) -> Configuration:
    tables = _tables(path, text, document)
    data, train = tables["data"], tables["train"]
    model = read_model(tables["model"])
    if model.new is not None:
        _check_is_whole(train, tables["adapter"] if "adapter" in document else None)
    return Configuration(
        path=path,
        text=text,
        model=model,
        data=DataSection(
            kind=data.choice("kind", get_args(Kind)),
            files=data.files("files", required=True),
            evaluation_files=data.files("evaluation_files"),
            evaluation_share=data.number("evaluation_share", 0.05, most=0.5),
            context=data.whole("context", None, least=2),
            too_long=data.choice("too_long", get_args(TooLong), "error"),
            end_of_text=data.optional_text("end_of_text"),
            personal_data=data.choice("personal_data", get_args(Scan), "report"),
        ),
        train=_train(train),
        adapter=_adapter(tables["adapter"], train) if "adapter" in document else None,
        evaluate=_evaluate(tables["evaluate"], data),
        preference=_preference(tables["preference"], data),
        teacher=_teacher(tables["teacher"], data) if "teacher" in document else None,
        tokenizer=read_tokenizer(tables["tokenizer"], model),
    )


def _check_is_whole(train: Table, adapter: Table | None) -> None:
    """Raise InputError if a new model would not be trained whole: its weights are random."""
    for table, key in ((train, "only"), (adapter, "")):
        if table is not None and (not key or table.has(key)):
            raise table.error(key, "cannot go with [model] new: random weights are trained whole")


def _train(table: Table) -> TrainSection:
    found = TrainSection(
        steps=table.whole("steps", None, least=1),
        epochs=table.number("epochs", None),
        minutes=table.number("minutes", None),
        learning_rate=table.number("learning_rate", None, most=1.0),
        batch_tokens=table.whole("batch_tokens", 2048, least=1) or 2048,
        clip=table.number("clip", 1.0) or 1.0,
        seed=table.whole("seed", 0, least=0) or 0,
        only=table.choice("only", get_args(Only)) if table.has("only") else None,
        save_seconds=table.number("save_seconds", 180.0) or 180.0,
        tensorboard=table.folder("tensorboard"),
        freeze=table.texts("freeze"),
        gradient_checkpointing=table.flag("gradient_checkpointing", False),
    )
    if found.steps is None and found.epochs is None and found.minutes is None:
        raise table.error("", "says neither steps, epochs nor minutes: the run would have no end")
    return found


def _adapter(table: Table, train: Table) -> AdapterSection:
    if train.has("only"):
        raise train.error("only", "cannot go with [adapter]: they train different weights")
    rank = table.whole("rank", 8, least=1, most=1024) or 8
    return AdapterSection(
        kind=table.choice("kind", ("lora",), "lora"),
        rank=rank,
        alpha=float(table.number("alpha", 2 * rank)),
        layers=table.texts("layers"),
        merge=table.flag("merge", True),
        base=table.choice("base", get_args(Base)) if table.has("base") else None,
    )


def _preference(table: Table, data: Table) -> PreferenceSection | None:
    if data.values.get("kind") == "preference":
        return PreferenceSection(float(table.number("beta", 0.1)))
    if table.values:
        raise table.error("", 'goes only with [data] kind = "preference"')
    return None


def _teacher(table: Table, data: Table) -> TeacherSection:
    if data.values.get("kind") == "preference":
        raise table.error("", 'does not go with [data] kind = "preference"')
    return TeacherSection(
        table.text("checkpoint"),
        weight=float(table.number("weight", 0.5, most=1.0)),
        temperature=float(table.number("temperature", 1.0, most=100.0)),
    )


def _evaluate(table: Table, data: Table) -> EvaluateSection:
    found = EvaluateSection(
        times=table.whole("times", 6, least=1) or 6,
        answers=table.whole("answers", 0, least=0) or 0,
        answer_tokens=table.whole("answer_tokens", 128, least=1, most=1 << 16) or 128,
    )
    if found.answers and data.values.get("kind") != "chat":
        raise table.error("answers", 'asks for answers, and only [data] kind = "chat" has any')
    return found


SECTIONS: dict[str, Any] = {
    "model": ModelSection,
    "data": DataSection,
    "train": TrainSection,
    "adapter": AdapterSection,
    "evaluate": EvaluateSection,
    "preference": PreferenceSection,
    "teacher": TeacherSection,
    "tokenizer": TokenizerSection,
    "search": SearchSection,
}


def _search(path: Path, text: str, document: dict[str, Any]) -> SearchSection:
    table = _tables(path, text, document)["search"]
    space, pruner = table.values.get("space"), table.values.get("pruner", True)
    sampler = table.choice("sampler", get_args(Sampler), "tpe")
    trials, minutes = table.whole("trials", None, least=1), table.number("minutes", None)
    if trials is None and minutes is None and sampler != "grid":
        raise table.error("", "says neither trials nor minutes: the search would have no end")
    if type(pruner) is not bool:
        raise table.error("pruner", f"is {pruner!r:.60}, not true or false")
    if not space:
        raise table.error("space", EMPTY_SPACE)
    if not isinstance(space, dict):
        raise table.error("space", f"is {space!r:.60}, not a section [search.space]")
    without = {name: values for name, values in document.items() if name != "search"}

    def accept(name: str, value: Value) -> str:
        """Say why the configuration would refuse `value` in place of that of the key `name`."""
        section, _, key = name.partition(".")
        if not key or (section in SECTIONS and section not in without):
            return f"the file has no section [{section}]" if key else "it is no section.key"
        changed = without | {section: without.get(section, {}) | {key: value}}
        try:
            _configured(path, "", changed)
        except InputError as error:
            return " ".join([error.message.removeprefix(f"{path}: "), error.hint]).rstrip()
        return ""

    parameters = read_space(space, sampler, Table(path, text, "search.space", space).error, accept)
    return SearchSection(sampler, trials, minutes, pruner, parameters)


def _tables(path: Path, text: str, document: dict[str, Any]) -> dict[str, Table]:
    """Return a table for each section; unknown sections and keys are errors."""
    for name, values in document.items():
        where = place(path, text, "", name)
        if name not in SECTIONS:
            raise unknown("section", name, SECTIONS, where)
        if not isinstance(values, dict):
            raise InputError(f"{where}: {name} is {values!r:.60}, not a section [{name}]")
        known = [found.name for found in fields(SECTIONS[name])]
        for key in values:
            if key not in known:
                raise unknown(f"key in [{name}]", key, known, place(path, text, name, key))
    for name in ("model", "data", "train"):
        if name not in document:
            raise InputError(f"{path}: the section [{name}] is missing")
    return {name: Table(path, text, name, document.get(name, {})) for name in SECTIONS}
