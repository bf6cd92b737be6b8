"""chat: choose an artifact and open the terminal chat on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgekit.artifact import MANIFEST_NAME, Artifact
from edgekit.errors import InputError
from edgekit.extras import need
from edgekit.store import artifacts, find_artifact
from runtimes.base import Runtime, Sampling
from runtimes.load import load


def chat(
    name_or_path: str | None,
    sampling: Sampling,
    *,
    system: str | None = None,
    context: int | None = None,
    threads: int | None = None,
    plain: bool = False,
    echo: bool = False,
) -> int:
    """Open the chat and return its exit code; without a name, on the artifact made last.

    Raises InputError if there is no artifact, or it has no chat template.
    """
    opener: Callable[[], Runtime]
    if echo:
        from runtimes.echo import EchoRuntime

        title, opener = "echo", EchoRuntime
    else:
        artifact = _chattable(Artifact.open(_choose(name_or_path)))
        title = artifact.manifest.name
        opener = partial(load, artifact, context_length=context, threads=threads)
    if plain:
        from tui.plain import run_plain

        return run_plain(opener, sampling, system, title=title)
    need("textual", "chat")
    from tui.app import run_chat

    run_chat(opener, title, sampling, system)
    return 0


def _choose(name_or_path: str | None) -> Path:
    if name_or_path is not None:
        return find_artifact(name_or_path)
    made = sorted(artifacts().glob(f"[!.]*/{MANIFEST_NAME}"), key=lambda path: path.stat().st_mtime)
    if not made:
        raise InputError("the store holds no artifact", hint="make one: edgekit demo")
    return made[-1].parent


def _chattable(artifact: Artifact) -> Artifact:
    if artifact.manifest.chat_template is None:
        raise InputError(
            f"{artifact.manifest.name} has no chat template: it only continues text",
            hint="edgekit run continues a text",
        )
    return artifact
