"""Lineage: what a checkpoint was made from, where edgekit itself made it from another one.

A pruned, healed or trained checkpoint carries a record of its stage: the parent, and how it was
changed. A trained one is meant to answer unlike its parent: nobody measures it against that.
The record is for people and for `edgekit check`; no engine reads it. It changes no weight.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from converters.checkpoint import Checkpoint, read_json
from edgekit.errors import InputError
from edgekit.files import write_atomically

STAGE_FILE = "edgekit-stage.json"
SCHEMA_VERSION = 1
Kind = Literal["pruned", "healed", "trained"]
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Stage:
    """One step from a parent checkpoint to this one.

    `parent` is the absolute path of the parent's folder when the step was made, and
    `parent_digest` what `Checkpoint.digest` said of it. `how` is plain JSON: the method, what was
    removed or trained, the text, the measured divergences.
    """

    kind: Kind
    parent: str
    parent_digest: str
    how: dict[str, Any]


def read_stage(checkpoint: Checkpoint) -> Stage | None:
    """Return the stage of `checkpoint`, None where there is no record: an ordinary checkpoint.

    Raises InputError for a damaged record.
    """
    return read_stage_in(checkpoint.path)


def read_stage_in(folder: Path) -> Stage | None:
    """The same for a folder that need not hold a whole checkpoint."""
    file = folder / STAGE_FILE
    if not file.is_file():
        return None
    match read_json(file):
        case {
            "schema_version": 1,
            "kind": str(kind),
            "parent": str(parent),
            "parent_digest": str(digest),
            "how": dict(how),
        } if kind in get_args(Kind) and _DIGEST.fullmatch(digest) and parent:
            return Stage(cast("Kind", kind), parent, digest, how)
    raise InputError(
        f"{file} is not a record of a stage",
        hint="it was damaged or written by another version: make the checkpoint again",
    )


def write_stage(folder: Path, stage: Stage) -> None:
    """Write the record of `stage` into `folder`. Raises ValueError if `how` is not plain JSON."""
    document = {"schema_version": SCHEMA_VERSION, **asdict(stage)}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / STAGE_FILE, text.encode())
