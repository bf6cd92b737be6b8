"""chat: choose an artifact, open the store of chats, and start the terminal chat on both."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import store
from edgekit.artifact import Artifact
from edgekit.errors import EdgekitError, InputError, PrivacyError
from edgekit.extras import need
from edgekit.privacy import quiet
from edgekit.settings import Bandwidth, load_settings
from edgekit.store import find_artifact
from edgekit.task import IN_WORDS, require_chat
from runtimes.base import Runtime, Sampling
from tui.clean import clean_line
from tui.recorder import DRAFT, OPEN
from tui.setup import ArtifactChoice, ChatSetup
from tui.store.presence import PLAIN_STORE, PRIVATE_STORE

if TYPE_CHECKING:
    from edgekit.privacy.lock import LockReport
    from tui.store.chats import ChatStore

ECHO = "echo"
Unlock = Callable[[Path, "Callable[[str], ChatStore]"], "ChatStore"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for.

    `lock` is the one that this process is under, None if the chat is not private; `unlock` is
    given the encrypted store's path and what opens it with a passphrase, and returns it opened.
    `temporary` stores nothing; `resume` goes on with the last chat.
    """

    sampling: Sampling
    system: str = ""
    context: int | None = None
    threads: int | None = None
    plain: bool = False
    echo: bool = False
    temporary: bool = False
    resume: bool = False
    bandwidth: Bandwidth | None = None
    lock: LockReport | None = None
    unlock: Unlock | None = None


def chat(name_or_path: str | None, wish: Wish) -> int:
    """Open the chat and return its exit code; without a name, on the artifact made last.

    Raises InputError if there is no artifact, or it has no chat template, or the store of chats
    is damaged; PrivacyError for a wrong passphrase.
    """
    quiet.apply()  # before Textual and the engines, which read their switches when imported
    model = ECHO if wish.echo else _choose(name_or_path)
    alone = not _store_in_use(wish)
    with_store = _open_store(wish)
    try:
        return _start(_setup(model, wish, with_store, alone), wish)
    finally:
        with_store.close()


def _start(setup: ChatSetup, wish: Wish) -> int:
    if wish.plain:
        from tui.plain import run_plain

        _tell_damage(setup.store)
        return run_plain(setup)
    need("textual", "chat")
    from tui.app import run_chat

    run_chat(setup)
    return 0


def _tell_damage(chats: ChatStore) -> None:
    """Say on stderr what of the store cannot be read; on the screen, the screen does."""
    from tui.store.database import RESCUE_HINT

    if damage := chats.damage:
        for sentence in damage:
            print(f"damaged: {clean_line(sentence)}", file=sys.stderr)
        print(f"hint: {RESCUE_HINT}", file=sys.stderr)


def _open_store(wish: Wish) -> ChatStore:
    need("cryptography", "chat")
    from tui.store.chats import ChatStore

    if wish.temporary:
        return ChatStore.open(None)
    if wish.lock is not None:
        if wish.unlock is None:
            raise PrivacyError("a private chat needs a passphrase", hint="or store nothing of it")
        path = private_store()
        return wish.unlock(path, partial(ChatStore.open, path))
    return ChatStore.open(store.chats() / PLAIN_STORE)


def _store_in_use(wish: Wish) -> bool:
    """Return whether another window chats: what is open and typed there is not left over."""
    from tui.store.presence import in_use

    return in_use(private_store() if wish.lock is not None else store.chats() / PLAIN_STORE)


def private_store() -> Path:
    """Return the path of the encrypted store of chats."""
    return store.chats() / PRIVATE_STORE


def _setup(model: str, wish: Wish, chats: ChatStore, alone: bool) -> ChatSetup:
    from dataclasses import replace

    settings = load_settings()
    if wish.bandwidth is not None:
        settings = replace(settings, bandwidth=wish.bandwidth)
    return ChatSetup(
        open_runtime=_opener(wish),
        model=model,
        list_artifacts=list_artifacts,
        sampling=wish.sampling,
        system=wish.system,
        store=chats,
        settings=settings,
        privacy=privacy_text(wish.lock, wish.temporary) if wish.lock else "",
        resume=_resumed(chats, wish, alone),
        draft=(chats.note(DRAFT) or "") if alone else "",
        exports=store.home() / "exports" if wish.lock else None,
    )


def privacy_text(lock: LockReport, temporary: bool) -> str:
    """Return what /privacy shows: what protects a private chat, and what does not."""
    held = {
        "kernel": "The kernel refuses every socket to this program, its threads and its children.",
        "namespace": "WEAKER LOCK: this program is alone in a network with no way out.",
        "python": "WEAKER LOCK: only Python code is kept from sockets, native code is not.",
    }[lock.strength]
    lines = [held]
    if lock.namespace and lock.strength == "kernel":
        lines.append("It is also in a network namespace of its own, with no way out.")
    if lock.landlock_abi:
        lines.append(f"The kernel lets it write files in {', '.join(lock.writable)} only.")
    lines += [f"Left open: {name}." for name in lock.left_open]
    lines += [f"Missing here: {sentence}" for sentence in lock.missing]
    lines.append(
        "Nothing of this chat is stored: it is gone when you quit."
        if temporary
        else "Chats, titles, attachments and personas are encrypted on the disk."
    )
    return "\n\n".join(
        [
            *lines,
            "Not covered: what your screen, terminal, clipboard or SSH connection carry; files "
            "that you export; memory that the system writes to swap; other programs of yours.",
            "edgekit privacy check tries to get out, and shows what happens.",
        ]
    )


def _resumed(chats: ChatStore, wish: Wish, alone: bool) -> str | None:
    """Return the chat that was open when the program was killed, or the last one if asked for.

    A pipe goes on only if asked: its answers must not depend on what went before.
    """
    listed = chats.chats()
    left_open = chats.note(OPEN)
    if alone and (wish.resume or sys.stdin.isatty()) and left_open in {chat.id for chat in listed}:
        return left_open
    return listed[0].id if wish.resume and listed else None


def _opener(wish: Wish) -> Callable[[str], Runtime]:
    if wish.echo:
        from runtimes.echo import EchoRuntime

        return lambda _: EchoRuntime()
    return partial(_open, wish)


def _open(wish: Wish, name: str) -> Runtime:
    from runtimes.load import load

    artifact = Artifact.open(find_artifact(name))
    require_chat(name, artifact.manifest.task)
    if problem := _problem(artifact):
        raise InputError(f"{name}: {problem}", hint="edgekit run continues a text")
    return load(artifact, context_length=wish.context, threads=wish.threads)


def list_artifacts() -> list[ArtifactChoice]:
    """Return each artifact by name, with what `check` and `bench` measured of it."""
    return [_choice(path) for path in store.list_artifacts()]


def _choice(folder: Path) -> ArtifactChoice:
    try:
        artifact = Artifact.open(folder)
    except EdgekitError as error:
        return ArtifactChoice(folder.name, str(folder), "", "", 0, 0, problem=error.message)
    from edgekit.workflows.bench import recall

    manifest, certificate, speed = artifact.manifest, artifact.manifest.certificate, None
    speed = recall(artifact)
    return ArtifactChoice(
        name=folder.name,
        path=str(folder),
        format=manifest.format,
        scheme=manifest.scheme,
        bytes=manifest.total_bytes,
        context_length=manifest.context_length,
        kld_mean=certificate.kld_mean if certificate else None,
        top1_agreement=certificate.top1_agreement if certificate else None,
        decode_tokens_per_s=speed.decode_tokens_per_s if speed else None,
        ttft_s=speed.ttft_s if speed else None,
        problem=_problem(artifact),
    )


def _problem(artifact: Artifact) -> str:
    task = artifact.manifest.task
    if task is not None:
        return f"it is no model to talk to: it {IN_WORDS[task.kind]}"
    if artifact.manifest.chat_template is None:
        return "it has no chat template: it only continues text"
    return ""


def _choose(name_or_path: str | None) -> str:
    """Return the name, or the path, of an artifact that can chat."""
    if name_or_path is None:
        chosen = store.default_artifact()
        if chosen is None:
            raise InputError("the store holds no artifact", hint="make one: edgekit demo")
        name_or_path = chosen.name
    artifact = Artifact.open(find_artifact(name_or_path))
    require_chat(name_or_path, artifact.manifest.task)
    if problem := _problem(artifact):
        raise InputError(f"{name_or_path}: {problem}", hint="edgekit run continues a text")
    return name_or_path
