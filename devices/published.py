"""Published measurements of boards against what the estimate says of them.

Every row of `published.toml` is predicted and shown, also those that are predicted badly. Rows
that a profile's figure was fitted on are marked: the medians are given with and without them.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, Literal

from devices.estimate import estimate
from devices.model_facts import ModelFacts
from devices.profile import load_profile
from edgekit.errors import InputError

TABLE = Path(__file__).parent / "published.toml"
ANSWER_TOKENS = 128  # what llama-bench and obench.sh generate, about
Figure = Literal["decode", "prefill"]
FIGURES: tuple[Figure, ...] = ("decode", "prefill")
_ROW_KEYS = {
    "device", "model", "decode_tokens_per_s", "prefill_tokens_per_s", "prompt_tokens", "fitted",
    "source", "not_comparable",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """One published figure in tokens/s, and the prediction of it.

    `error` is predicted over published, less one. `fitted`: a figure of the profile was chosen so
    that this row fits. `not_comparable` says why a row does not count, or is empty.
    """

    device: str
    model: str
    scheme: str
    figure: Figure
    published: float
    predicted: float
    error: float
    fitted: bool
    not_comparable: str
    source: str


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Medians of the absolute errors of one figure, over all comparable rows and the unfitted."""

    figure: Figure
    rows: int
    median_error: float
    unfitted_rows: int
    median_error_unfitted: float


def compare(table: Path = TABLE) -> list[Comparison]:
    """Return every published figure with its prediction. Raises InputError for a wrong table."""
    document = _read(table)
    models = {key: _model(table, key, value) for key, value in document["models"].items()}
    found: list[Comparison] = []
    for row in document["rows"]:
        found += _compare_row(table, row, models)
    return found


def accuracy(comparisons: list[Comparison]) -> list[Accuracy]:
    """Return the medians for each figure that some comparable row has."""
    found = []
    for figure in FIGURES:
        rows = [c for c in comparisons if c.figure == figure and not c.not_comparable]
        unfitted = [c for c in rows if not c.fitted]
        if rows:
            found.append(
                Accuracy(figure, len(rows), _median(rows), len(unfitted), _median(unfitted))
            )
    return found


def _median(rows: list[Comparison]) -> float:
    return median(abs(row.error) for row in rows) if rows else 0.0


def _compare_row(
    table: Path, row: dict[str, Any], models: dict[str, ModelFacts]
) -> list[Comparison]:
    if unknown := sorted(row.keys() - _ROW_KEYS):
        raise InputError(f"{table}: a row has the unknown key '{unknown[0]}'")
    if not str(row.get("source", "")).strip():
        raise InputError(f"{table}: the row of {row.get('device')} has no source")
    model = models.get(row["model"])
    if model is None:
        raise InputError(f"{table}: a row names the model '{row['model']}', which is not there")
    prompt_tokens = int(row["prompt_tokens"])
    found = []
    for figure in FIGURES:
        published = row.get(f"{figure}_tokens_per_s")
        if published is None:
            continue
        predicted = _predict(model, row["device"], figure, prompt_tokens)
        found.append(
            Comparison(
                device=row["device"],
                model=model.name,
                scheme=model.scheme,
                figure=figure,
                published=float(published),
                predicted=predicted,
                error=predicted / float(published) - 1,
                fitted=figure in row["fitted"],
                not_comparable=row.get("not_comparable", {}).get(figure, ""),
                source=row["source"],
            )
        )
    return found


def _predict(model: ModelFacts, device: str, figure: Figure, prompt_tokens: int) -> float:
    """Return the prediction; published decode speeds are of an answer to a short prompt."""
    prompt = prompt_tokens if figure == "prefill" else 1
    found = estimate(
        model,
        load_profile(device),
        context_length=prompt + ANSWER_TOKENS,
        prompt_tokens=prompt,
    )
    return found.prefill_tokens_per_s if figure == "prefill" else found.decode_tokens_per_s


def _read(table: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(table.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{table} cannot be read: {error}") from error
    if not isinstance(document.get("models"), dict) or not isinstance(document.get("rows"), list):
        raise InputError(f"{table} has no [models] or no [[rows]]")
    return document


def _model(table: Path, key: str, values: dict[str, Any]) -> ModelFacts:
    values = dict(values)
    if not str(values.pop("source", "")).strip():
        raise InputError(f"{table}: the model '{key}' has no source")
    constant: dict[str, Any] = {
        "format": "gguf",
        "file_bytes": values.get("weight_bytes"),
        "context_length": 8192,
    }
    constant |= {"embedding_bytes": 0, "tied": True}
    known = {item.name for item in fields(ModelFacts)}
    if unknown := sorted(values.keys() - known):
        raise InputError(f"{table}: the model '{key}' has the unknown key '{unknown[0]}'")
    try:
        return ModelFacts(**(constant | values))
    except TypeError as error:
        raise InputError(f"{table}: the model '{key}': {error}") from error
