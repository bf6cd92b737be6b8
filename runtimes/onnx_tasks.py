"""Understanding by ONNX Runtime: a class, entities, or a text made of another one.

It needs onnxruntime, tokenizers and numpy, and loads whatever files it is given: their graphs are
checked before (see runtimes.task_client). One text at a time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifact import Artifact
from edgekit.entities import Offsets, spans_of, trimmed
from edgekit.errors import EngineFailure, InputError, UsageError
from edgekit.extras import need
from edgekit.task import IN_WORDS, Task, TaskKind
from runtimes.json_tokenizer import JsonTokenizer
from runtimes.tasks import Classified, Found, FoundEntity, Result, Written

SILENT = 4  # only fatal messages: errors reach us as exceptions
PAST, PRESENT = "past_key_values.", "present."
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Read:
    """The tokens of a text, where they are in it, and whether it was cut."""

    ids: list[int]
    offsets: list[Offsets]
    is_end: list[bool]
    cut: bool


class OnnxTask:
    """One model with its tokenizer."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        """Open the graphs and the tokenizer of `artifact`.

        Raises InputError if it has no task, or ONNX Runtime refuses a file; MissingExtraError.
        """
        manifest = artifact.manifest
        if manifest.task is None:
            raise InputError(f"{manifest.name} is a model for chats", hint="edgekit chat")
        self._task: Task = manifest.task
        self._name, self._context = manifest.name, manifest.context_length
        self._vocabulary, self._stop = manifest.vocabulary_size, set(manifest.stop_token_ids)
        self._tokenizer = JsonTokenizer(artifact.path / "tokenizer.json", "onnx")
        # read once, when the library is imported: 1.29 and later would report to their maker
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        library = need("onnxruntime", "onnx")
        self._model = _Graph(library, artifact.entry, threads)
        self._decoder: _Graph | None = None
        if self._task.decoder is not None:
            self._decoder = _Graph(library, artifact.path / self._task.decoder, threads)

    def answer(self, text: str, max_tokens: int) -> Result:
        """Return what the model is for; `max_tokens` limits a text that is written."""
        match self._task.kind:
            case "classes":
                return self.classify(text)
            case "entities":
                return self.entities(text)
            case "pairs":
                return self.translate(text, max_tokens)

    def classify(self, text: str) -> Classified:
        """Return of which class `text` is. Raises UsageError, InputError, EngineFailure."""
        self._require("classes")
        read = self._read(text)
        chances = _softmax(self._logits(read, (1, len(self._task.labels)))[0])
        best = int(chances.argmax())
        by_label = dict(zip(self._task.labels, map(float, chances), strict=True))
        return Classified(
            self._task.labels[best], float(chances[best]), by_label, len(read.ids), read.cut
        )

    def entities(self, text: str) -> Found:
        """Return the entities in `text`. Raises UsageError, InputError, EngineFailure."""
        self._require("entities")
        read = self._read(text)
        shape = (1, len(read.ids), len(self._task.labels))
        chances = _softmax(self._logits(read, shape)[0])
        places = [place for place, is_end in enumerate(read.is_end) if not is_end]
        best = chances.argmax(-1)
        found = []
        for span in spans_of([self._task.labels[best[place]] for place in places]):
            tokens = places[span.start : span.end]
            start = trimmed(text, *read.offsets[tokens[0]])[0]
            end = trimmed(text, *read.offsets[tokens[-1]])[1]
            chance = float(min(chances[place, best[place]] for place in tokens))
            if start < end:
                found.append(FoundEntity(start, end, span.label, text[start:end], chance))
        return Found(tuple(found), len(read.ids), read.cut)

    def translate(self, text: str, max_tokens: int) -> Written:
        """Return the text that is made of `text`, the most likely token at each step.

        The encoder runs once; the decoder once a token, with the keys and values of those before.
        Raises UsageError, InputError, EngineFailure.
        """
        self._require("pairs")
        decoder, token = self._decoder, self._task.start_token_id
        if decoder is None or token is None:
            raise InputError(f"{self._name} names no decoder", hint="convert the model again")
        read = self._read(text)
        inputs = self._inputs(read.ids)
        states = self._model.run(inputs)["last_hidden_state"]
        fixed: Arrays = {
            "encoder_attention_mask": inputs["attention_mask"], "encoder_hidden_states": states,
        }  # fmt: skip
        past, written = decoder.empty_past(), list[int]()
        while len(written) < max_tokens:
            step = np.array([[token]], dtype=np.int64)
            begun = np.array([bool(written)])
            said = decoder.run({**fixed, **past, "input_ids": step, "use_cache_branch": begun})
            token = int(_of_shape(said["logits"], (1, 1, self._vocabulary))[0, 0].argmax())
            if token in self._stop:
                break
            written.append(token)
            past = _next_past(past, said, first=len(written) == 1)
        words = self._tokenizer.text(written)
        finish = "stop" if token in self._stop else "length"
        return Written(words, len(written), finish, len(read.ids), read.cut)

    def _require(self, kind: TaskKind) -> None:
        if self._task.kind != kind:
            raise UsageError(f"{self._name} {IN_WORDS[self._task.kind]}, and nothing else")

    def _read(self, text: str) -> _Read:
        encoding, cut = self._tokenizer.whole(text, self._context)
        if not encoding.ids or not text.strip():
            raise InputError("the text is empty: there is nothing to read")
        if max(encoding.ids) >= self._vocabulary:
            raise InputError(
                f"the tokenizer of {self._name} makes token {max(encoding.ids)}, and the model has "
                f"{self._vocabulary}", hint="convert the model again",
            )  # fmt: skip
        ends = [bool(mark) for mark in encoding.special_tokens_mask]
        return _Read(encoding.ids, encoding.offsets, ends, cut)

    def _inputs(self, ids: list[int]) -> Arrays:
        tokens = np.array([ids], dtype=np.int64)
        return {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "token_type_ids": np.zeros_like(tokens),
        }

    def _logits(self, read: _Read, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return _of_shape(self._model.run(self._inputs(read.ids))["logits"], shape)


class _Graph:
    """One ONNX graph; inputs and outputs go by their names."""

    def __init__(self, library: Any, path: Path, threads: int) -> None:
        options = library.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = SILENT
        # a pattern is kept for every shape that was seen, and every text has a shape of its own
        options.enable_mem_pattern = False
        try:
            self._session = library.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library raises nothing more precise
            raise InputError(
                f"ONNX Runtime cannot open {path}: {error}", hint="convert the model again"
            ) from error
        self._path = path
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> _Outputs:
        """Return the outputs; arrays that the graph does not ask for are left out."""
        wanted = {name: array for name, array in arrays.items() if name in self._inputs}
        try:
            values = self._session.run(self._outputs, wanted)
        except Exception as error:  # the library raises nothing more precise
            raise EngineFailure(f"ONNX Runtime could not run {self._path}: {error}") from error
        return _Outputs(self._path, dict(zip(self._outputs, values, strict=True)))

    def empty_past(self) -> Arrays:
        """Return keys and values of no token, for each input that takes some."""
        found: Arrays = {}
        for name, value in self._inputs.items():
            if name.startswith(PAST):
                heads, size = value.shape[1], value.shape[3]
                if type(heads) is not int or type(size) is not int:
                    raise InputError(f"{self._path}: the input {name!r:.80} has no fixed size")
                found[name] = np.zeros((1, heads, 1, size), dtype=np.float32)
        return found


class _Outputs:
    """The outputs of one run, by name."""

    def __init__(self, path: Path, arrays: Arrays) -> None:
        self._path, self._arrays = path, arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._arrays:
            raise InputError(
                f"{self._path} has no output {name!r:.80}", hint="convert the model again"
            )
        return self._arrays[name]


def _next_past(past: Arrays, said: _Outputs, *, first: bool) -> Arrays:
    """Return the past of the next step: the encoder's part comes from the first step alone."""
    return {
        name: said[PRESENT + name.removeprefix(PAST)] if first or ".decoder." in name else array
        for name, array in past.items()
    }


def _of_shape(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if array.shape != shape:
        raise InputError(
            f"the model's logits have the shape {array.shape}, its manifest says {shape}",
            hint="convert the model again",
        )
    return array


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return probabilities over the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    chances: NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return chances
