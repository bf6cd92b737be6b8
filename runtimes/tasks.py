"""What a model that is no chat answers: typed results, and how they cross a pipe.

It knows no engine. A result from a worker is taken field by field, as all that comes from there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgekit.entities import Entity
from edgekit.errors import EngineFailure, InputError
from edgekit.fields import Fields
from edgekit.task import TaskKind


@dataclass(frozen=True, slots=True)
class Classified:
    """The most likely class, its probability, and those of all classes.

    `prompt_tokens` is how many tokens were read; `cut` whether the text had more.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    prompt_tokens: int
    cut: bool


@dataclass(frozen=True, slots=True)
class FoundEntity(Entity):
    """An entity in a text, its words, and the smallest probability among its tokens."""

    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Found:
    """The entities of a text, in their order; the rest as in `Classified`."""

    entities: tuple[FoundEntity, ...]
    prompt_tokens: int
    cut: bool


@dataclass(frozen=True, slots=True)
class Written:
    """A text made of another one, of `tokens` tokens; the rest as in `Classified`.

    `finish` is "stop", or "length" where the limit was reached.
    """

    text: str
    tokens: int
    finish: str
    prompt_tokens: int
    cut: bool


Result = Classified | Found | Written


def to_wire(result: Result) -> dict[str, Any]:
    """Return `result` as plain JSON."""
    return asdict(result)


def from_wire(kind: TaskKind, document: Any) -> Result:
    """Return what `to_wire` wrote. Raises EngineFailure if it is not that."""
    try:
        fields = Fields(document, "the answer of the model's process")
        read = (fields.count("prompt_tokens"), fields.take("cut", bool))
        match kind:
            case "classes":
                label, probability = fields.take("label", str), fields.number("probability")
                return Classified(label, probability, fields.figures("probabilities"), *read)
            case "entities":
                return Found(tuple(map(_entity, fields.objects("entities"))), *read)
            case "pairs":
                text, finish = fields.take("text", str), fields.take("finish", str)
                return Written(text, fields.count("tokens"), finish, *read)
    except InputError as error:
        raise EngineFailure(error.message, hint="load the model again") from error


def _entity(fields: Fields) -> FoundEntity:
    places = (fields.count("start"), fields.count("end"))
    words = (fields.take("label", str), fields.take("text", str))
    return FoundEntity(*places, *words, fields.number("probability"))
