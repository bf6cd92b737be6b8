"""Recipe: what to make of a checkpoint, and nothing about how. TOML in, strictly checked.

A recipe is a name of `converters/recipes/` or a path to a file of your own.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from converters.schemes import check_tensor_type, scheme_named, unknown
from edgekit.artifact import FORMATS, Format
from edgekit.errors import InputError

BUILT_IN_FOLDER = Path(__file__).parent / "recipes"
MAX_RECIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make.

    `per_tensor` maps a shell pattern of checkpoint tensor names, such as
    `*.mlp.down_proj.weight`, to a tensor type of the format; the first match wins and the
    scheme decides the rest. `context_length` limits the context in tokens; None keeps the
    model's own.
    """

    name: str
    format: Format
    scheme: str
    description: str = ""
    per_tensor: Mapping[str, str] = field(default_factory=dict)
    context_length: int | None = None

    @classmethod
    def of(cls, format_name: str, scheme: str) -> Recipe:
        """Return the plain recipe of one scheme. Raises InputError for an unknown name."""
        known_format = _format(format_name, "")
        return cls(
            f"{known_format}-{scheme}", known_format, scheme_named(known_format, scheme).name
        )

    @classmethod
    def named(cls, name_or_path: str) -> Recipe:
        """Return a built-in recipe, or the one in the file at a path that ends in `.toml`.

        Raises InputError for an unknown name and for anything wrong in the file.
        """
        if name_or_path.endswith(".toml"):
            return cls.read(Path(name_or_path))
        names = built_in_names()
        if name_or_path not in names:
            raise unknown("recipe", name_or_path, names)
        return cls.read(BUILT_IN_FOLDER / f"{name_or_path}.toml")

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Return the recipe in the TOML file `path`. Raises InputError naming file and key."""
        document = _read_toml(path)
        known = list(cls.__dataclass_fields__)
        for key in document:
            if key not in known:
                raise unknown("key", key, known, str(path))
        known_format = _format(_text(document, "format", path), str(path))
        return cls(
            name=_text(document, "name", path, default=path.stem),
            format=known_format,
            scheme=scheme_named(known_format, _text(document, "scheme", path), str(path)).name,
            description=_text(document, "description", path, default=""),
            per_tensor=_per_tensor(document.get("per_tensor", {}), known_format, path),
            context_length=_context_length(document.get("context_length"), path),
        )

    def to_toml(self) -> str:
        """Return the recipe as a TOML file, which `read` takes back as it is."""
        lines = [f"{key} = {_toml(value)}" for key, value in self.to_dict().items()
                 if not isinstance(value, Mapping)]  # fmt: skip
        if self.per_tensor:
            lines += ["", "[per_tensor]"]
            lines += [f"{_toml(name)} = {_toml(kind)}" for name, kind in self.per_tensor.items()]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as the keys of its TOML file, without those that say nothing."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None, {})}


def built_in_names() -> list[str]:
    """Return the names of the recipes that come with edgekit."""
    return sorted(path.stem for path in BUILT_IN_FOLDER.glob("*.toml"))


def _toml(value: object) -> str:
    """Return a string or a number as TOML: its strings take every escape of JSON's."""
    return json.dumps(value, ensure_ascii=False)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, too many for a recipe")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no recipe {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from error


def _text(document: dict[str, Any], key: str, path: Path, default: str | None = None) -> str:
    value = document.get(key, default)
    if value is None:
        raise InputError(f"{path}: {key} is missing")
    if not isinstance(value, str):
        raise InputError(f"{path}: {key} is {value!r:.60}, not a string")
    return value


def _format(name: str, where: str) -> Format:
    match name:
        case "gguf" | "onnx" | "torch":
            return name
    raise unknown("format", name, FORMATS, where)


def _per_tensor(table: Any, known_format: Format, path: Path) -> dict[str, str]:
    if not isinstance(table, dict):
        raise InputError(f"{path}: per_tensor is {table!r:.60}, not a table")
    for pattern, name in table.items():
        check_tensor_type(known_format, str(name), f"{path}: per_tensor, {pattern!r}")
    return table


def _context_length(value: Any, path: Path) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise InputError(f"{path}: context_length is {value!r:.60}, not a number of tokens")
    return value
