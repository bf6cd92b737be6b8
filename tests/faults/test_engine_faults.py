"""An engine that reads a right file wrongly: check names the last stage, and only that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from edgekit.workflows.certify import session
from runtimes.local import LocalRuntime

from .breaking import named


class WrongEngine:
    """A runtime of which some methods are replaced."""

    def __init__(self, runtime: LocalRuntime, **replaced: Callable[..., Any]) -> None:
        self._runtime = runtime
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._runtime, name)
        wrong = self._replaced.get(name)
        return found if wrong is None else lambda *a, **k: wrong(found, *a, **k)


def later(score: Any, ids: Sequence[int]) -> Any:
    """Give each position the logits of the position before it."""
    return np.roll(score(ids), 1, axis=0)


def hotter(score: Any, ids: Sequence[int]) -> Any:
    return score(ids) * np.float32(1.5)


def silent(score: Any, ids: Sequence[int]) -> Any:
    return np.full_like(score(ids), np.nan)


FAULTS: dict[str, dict[str, Callable[..., Any]]] = {
    "logits of the position before": {"score": later},
    "logits one and a half times as large": {"score": hotter},
    "logits that are not numbers": {"score": silent},
    "other token ids": {"tokenize": lambda found, text, **k: [*found(text, **k), 5]},
    "other prompts": {"render": lambda found, messages: found(messages) + " "},
}


@pytest.mark.parametrize("format_name", ["gguf", "onnx"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_engine_is_named(
    fault: str, format_name: str, fresh: Any, judge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, checkpoint = fresh(format_name, "int8" if format_name == "onnx" else "q8_0")
    load = session.load

    def wrong(*arguments: Any, **options: Any) -> WrongEngine:
        return WrongEngine(load(*arguments, **options), **FAULTS[fault])

    monkeypatch.setattr(session, "load", wrong)
    checked = judge(artifact, checkpoint)
    assert named(checked.stages) == "loaded"
    assert [report.ok for report in checked.stages] == [True, True, True, False]


def test_a_file_that_no_engine_opens_is_named(
    fresh: Any, judge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.errors import InputError

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise InputError("llama.cpp cannot open it")

    artifact, checkpoint = fresh("gguf", "q8_0")
    monkeypatch.setattr(session, "load", refuse)
    checked = judge(artifact, checkpoint)
    assert named(checked.stages) == "loaded"
    assert checked.certificate is None
