"""What a chat starts with, on the screen and in lines: the models, the store, the choices made.

The roof fills it in. Plain data: opens nothing, knows no widget and no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtimes.base import Sampling

if TYPE_CHECKING:
    from edgekit.settings import Settings
    from runtimes.base import Runtime
    from tui.store.chats import ChatStore

NOT_PRIVATE = (
    "This chat is not private: it is stored unencrypted, and nothing but edgekit's own care keeps "
    "it on this machine. For a private one: edgekit chat --private"
)


@dataclass(frozen=True, slots=True)
class ArtifactChoice:
    """An installed artifact, as a list shows it.

    The figures are None until `edgekit check` (`kld_mean` in nats, `top1_agreement` from 0 to 1)
    or `edgekit bench` (`decode_tokens_per_s`, `ttft_s` in seconds) has measured them. `problem`
    says why it cannot be chatted with, or is empty.
    """

    name: str
    path: str
    format: str
    scheme: str
    bytes: int
    context_length: int
    kld_mean: float | None = None
    top1_agreement: float | None = None
    decode_tokens_per_s: float | None = None
    ttft_s: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ChatSetup:
    """How a chat begins.

    `open_runtime` opens an artifact by its name and raises EdgekitError; `model` is the name to
    begin with. `privacy` is the text of /privacy, empty in a chat that is not private. `resume`
    is the id of the chat to open, `draft` what was typed in it and not sent. `exports` is set in
    private mode, where it is the one folder that exports can be written to.
    """

    open_runtime: Callable[[str], Runtime]
    model: str
    list_artifacts: Callable[[], Sequence[ArtifactChoice]]
    sampling: Sampling
    system: str
    store: ChatStore
    settings: Settings
    privacy: str = ""
    resume: str | None = None
    draft: str = ""
    exports: Path | None = None
