"""The configuration of a training run: one TOML file, strictly checked, as typed values.

Every complaint is one sentence with the file, the line and the key. Paths in it are relative to
the file itself. It reads no data and knows no model.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from converters.schemes import unknown
from edgekit.errors import InputError
from edgekit.train.trained import Method

MAX_BYTES = 1 << 20
Kind = Literal["chat", "text", "classes", "entities", "pairs"]
TooLong = Literal["error", "skip", "cut"]
Only = Literal["norms"]
DEFAULT_RATES: dict[Method, float] = {"full": 5e-5, "lora": 1e-3, "norms": 1e-2}
_Choice = TypeVar("_Choice", bound=str)


@dataclass(frozen=True, slots=True)
class ModelSection:
    """`[model]`: the `checkpoint` to begin with, a folder or a name in the store."""

    checkpoint: str


@dataclass(frozen=True, slots=True)
class DataSection:
    """`[data]`: what is learnt.

    `kind` "chat": JSONL, a conversation a line under "messages". "text": JSONL, a document a line
    under "text", or plain text files. "classes", "entities" and "pairs": JSONL, for models with a
    head, see `edgekit.train.heads.records`. Without `evaluation_files`, `evaluation_share` of the
    records is held out. `context`: tokens of a window; None: the model's, but at most 1024.
    `too_long`: what is done with a chat of more. `end_of_text`: the token after each document of
    kind "text"; None: the one that the tokenizer names.
    """

    kind: Kind
    files: tuple[Path, ...]
    evaluation_files: tuple[Path, ...] = ()
    evaluation_share: float = 0.05
    context: int | None = None
    too_long: TooLong = "error"
    end_of_text: str | None = None


@dataclass(frozen=True, slots=True)
class TrainSection:
    """`[train]`: how it is learnt; it ends after `steps`, `epochs` or `minutes`, whatever is
    first. `only` "norms" trains the gains of the norms alone. `save_seconds`: between states."""

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    learning_rate: float | None = None
    batch_tokens: int = 2048
    clip: float = 1.0
    seed: int = 0
    only: Only | None = None
    save_seconds: float = 180.0


@dataclass(frozen=True, slots=True)
class AdapterSection:
    """`[adapter]`: train low-rank adapters in place of the weights; they are merged at the end."""

    kind: Literal["lora"] = "lora"
    rank: int = 8


@dataclass(frozen=True, slots=True)
class EvaluateSection:
    """`[evaluate]`: how many `times` the held-out records are judged, beside at the start."""

    times: int = 6


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

    @property
    def method(self) -> Method:
        """Return what is trained."""
        if self.adapter is not None:
            return "lora"
        return "norms" if self.train.only == "norms" else "full"

    @property
    def learning_rate(self) -> float:
        """Return the peak of the learning rate: as configured, or what suits the method."""
        return self.train.learning_rate or DEFAULT_RATES[self.method]

    def where(self, section: str, key: str) -> str:
        """Return file, line and key, as they stand in a complaint."""
        return f"{_where(self.path, self.text, section, key)}: [{section}] {key}"

    def to_dict(self) -> dict[str, Any]:
        """Return all values that decide what comes out, as plain JSON; paths by their names."""
        found = {
            name: value
            for name, value in asdict(self).items()
            if name not in ("path", "text") and value
        }
        data = found["data"]
        for key in ("files", "evaluation_files"):
            data[key] = [Path(path).name for path in data[key]]
        found["train"]["learning_rate"] = self.learning_rate
        del found["train"]["save_seconds"]
        return {s: {k: v for k, v in t.items() if v not in (None, [])} for s, t in found.items()}


def read_configuration(path: Path) -> Configuration:
    """Return the configuration in the file `path`. Raises InputError for anything wrong in it."""
    text = _read(path)
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from error
    tables = _tables(path, text, document)
    data, train = tables["data"], tables["train"]
    return Configuration(
        path=path,
        text=text,
        model=ModelSection(tables["model"].text("checkpoint")),
        data=DataSection(
            kind=data.choice("kind", get_args(Kind)),
            files=data.files("files", required=True),
            evaluation_files=data.files("evaluation_files"),
            evaluation_share=data.number("evaluation_share", 0.05, most=0.5),
            context=data.whole("context", None, least=2),
            too_long=data.choice("too_long", get_args(TooLong), "error"),
            end_of_text=data.optional_text("end_of_text"),
        ),
        train=_train(train),
        adapter=_adapter(tables["adapter"], train) if "adapter" in document else None,
        evaluate=EvaluateSection(tables["evaluate"].whole("times", 6, least=1) or 6),
    )


def _train(table: _Table) -> TrainSection:
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
    )
    if found.steps is None and found.epochs is None and found.minutes is None:
        raise table.error("", "says neither steps, epochs nor minutes: the run would have no end")
    return found


def _adapter(table: _Table, train: _Table) -> AdapterSection:
    if train.has("only"):
        raise train.error("only", "cannot go with [adapter]: they train different weights")
    rank = table.whole("rank", 8, least=1, most=1024) or 8
    return AdapterSection(table.choice("kind", ("lora",), "lora"), rank)


SECTIONS: dict[str, Any] = {
    "model": ModelSection,
    "data": DataSection,
    "train": TrainSection,
    "adapter": AdapterSection,
    "evaluate": EvaluateSection,
}


def _tables(path: Path, text: str, document: dict[str, Any]) -> dict[str, _Table]:
    """Return a table for each section; unknown sections and keys are errors."""
    for name, values in document.items():
        where = _where(path, text, "", name)
        if name not in SECTIONS:
            raise unknown("section", name, SECTIONS, where)
        if not isinstance(values, dict):
            raise InputError(f"{where}: {name} is {values!r:.60}, not a section [{name}]")
        known = [found.name for found in fields(SECTIONS[name])]
        for key in values:
            if key not in known:
                raise unknown(f"key in [{name}]", key, known, _where(path, text, name, key))
    for name in ("model", "data", "train"):
        if name not in document:
            raise InputError(f"{path}: the section [{name}] is missing")
    return {name: _Table(path, text, name, document.get(name, {})) for name in SECTIONS}


@dataclass(frozen=True, slots=True)
class _Table:
    """One section: takes typed values out of it, and names the place in every complaint."""

    path: Path
    source: str
    name: str
    values: dict[str, Any]

    def has(self, key: str) -> bool:
        return key in self.values

    def error(self, key: str, what: str) -> InputError:
        name = f"[{self.name}] {key}".rstrip()
        return InputError(f"{_where(self.path, self.source, self.name, key)}: {name} {what}")

    def text(self, key: str) -> str:
        found = self.optional_text(key)
        if found is None:
            raise self.error(key, "is missing")
        return found

    def optional_text(self, key: str) -> str | None:
        value = self.values.get(key)
        if key in self.values and (not isinstance(value, str) or not value):
            raise self.error(key, f"is {value!r:.60}, not a text")
        return value

    def choice(self, key: str, known: Sequence[_Choice], default: _Choice | None = None) -> _Choice:
        if key not in self.values and default is not None:
            return default
        value = self.text(key)
        for name in known:
            if value == name:
                return name
        where = _where(self.path, self.source, self.name, key)
        raise unknown(f"[{self.name}] {key}", value, known, where)

    def whole(
        self, key: str, default: int | None, *, least: int, most: int = 1 << 31
    ) -> int | None:
        value = self.values.get(key, default)
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise self.error(key, f"is {value!r:.60}, not a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: Any, *, most: float = math.inf) -> Any:
        """Return a number above 0 and at most `most`, or `default`."""
        value = self.values.get(key, default)
        if key in self.values and not (
            type(value) in (int, float) and 0 < value <= most and math.isfinite(value)
        ):
            limit = "" if most == math.inf else f" and at most {most:g}"
            raise self.error(key, f"is {value!r:.60}, not a number above 0{limit}")
        return value

    def files(self, key: str, *, required: bool = False) -> tuple[Path, ...]:
        names = self.values.get(key, [])
        listed = isinstance(names, list) and all(isinstance(n, str) and n for n in names)
        if not listed or (required and not names):
            what = f"is {names!r:.60}, not" if key in self.values else "is missing: give"
            raise self.error(key, f'{what} a list of files, such as ["chats.jsonl"]')
        paths = tuple(self._file(key, name) for name in names)
        if len(set(paths)) != len(paths):
            raise self.error(key, "names a file twice")
        return paths

    def _file(self, key: str, name: str) -> Path:
        try:
            path = self.path.parent / Path(name).expanduser()
            if path.is_file():
                return path
        except (OSError, RuntimeError):  # a name that is too long, a user that there is not
            pass
        raise self.error(key, f"names {name:.200}, which is not a file")


def _where(path: Path, text: str, section: str, key: str) -> str:
    """Return the file, and the line of `key` in `section` where a look at the text tells it.

    That of the section if the key is missing; `section` "" looks among the sections themselves.
    tomllib gives no lines but for bad syntax. A text over several lines could look like a key, so
    a file with one gets no numbers.
    """
    if '"""' in text or "'''" in text:
        return str(path)
    current, begin = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*[\"']?([^\]\"']+?)[\"']?\s*\]", line)
        entry = re.match(r"\s*[\"']?([^\"'=\[#]+?)[\"']?\s*=", line)
        if header is not None:
            current = header.group(1)
            begin = number if not begin and current == (section or key) else begin
        elif entry is not None and (current, entry.group(1)) == (section, key):
            return f"{path}, line {number}"
    return f"{path}, line {begin}" if begin else str(path)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, too many to be read")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
