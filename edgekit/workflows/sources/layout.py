"""Which files of a folder or repository make a checkpoint in the Hugging Face layout.

It judges names only; what is inside the files is for `converters.checkpoint` to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgekit.errors import InputError
from edgekit.workflows.sources.record import RECORD_NAME

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WEIGHTS = re.compile(r"[\w.-]+\.safetensors")
# Adapters, Mistral's second copy, and the state of an optimiser are weights of something else.
_MODEL_WEIGHTS = re.compile(r"model[\w.-]*\.safetensors")
_BESIDE_WEIGHTS = re.compile(
    r"[\w.-]+\.json|tokenizer\.model|merges\.txt|vocab\.txt|chat_template\.jinja"
    r"|(LICEN[CS]E|NOTICE)[\w.-]*|README\.md"
)
# A trainer's diary and another format's index: of no use to a converter.
_UNWANTED = re.compile(
    r"trainer_state\.json|pytorch_model\.bin\.index\.json|consolidated[\w.-]*\.json"
)
_OTHER_WEIGHTS = re.compile(r"[\w.-]+\.(bin|pt|pth|ckpt|gguf|onnx|h5|msgpack)")


def pick_files(names: Iterable[str], where: str) -> list[str]:
    """Return, sorted, the names that belong to a checkpoint; only files at the top level do.

    `where` names the place in an error. Raises InputError if there are no safetensors weights
    or no `config.json`.
    """
    plain = sorted(n for n in set(names) if _NAME.fullmatch(n) and n != RECORD_NAME)
    weights = _pick_weights(plain)
    if not weights:
        raise _no_weights(plain, where)
    if "config.json" not in plain:
        raise InputError(
            f"{where} holds no config.json",
            hint="a checkpoint is a folder in the Hugging Face layout",
        )
    beside = [n for n in plain if _BESIDE_WEIGHTS.fullmatch(n) and not _UNWANTED.fullmatch(n)]
    return sorted(weights + beside)


def _pick_weights(names: list[str]) -> list[str]:
    model = [name for name in names if _MODEL_WEIGHTS.fullmatch(name)]
    return model or [name for name in names if _WEIGHTS.fullmatch(name)]


def _no_weights(names: list[str], where: str) -> InputError:
    others = [name for name in names if _OTHER_WEIGHTS.fullmatch(name)]
    if not others:
        return InputError(
            f"{where} holds no safetensors weights",
            hint="a checkpoint is a folder in the Hugging Face layout",
        )
    if others[0].endswith(".gguf"):
        return InputError(
            f"{where} holds no safetensors weights, but {others[0]}",
            hint="pull the .gguf file itself",
        )
    return InputError(
        f"{where} holds no safetensors weights, only {others[0]}: "
        "pickled weights are refused, because reading them runs their author's code",
        hint="save it again in Python: model.save_pretrained(folder, safe_serialization=True)",
    )
