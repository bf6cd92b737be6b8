"""privacy passphrase: find and open the private chats, to seal them anew."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import store
from edgekit.errors import InputError
from tui.store import presence

if TYPE_CHECKING:
    from tui.store.chats import ChatStore


def private_store() -> Path:
    """Return where the private chats are. Raises InputError if there are none."""
    path = store.chats() / presence.PRIVATE_STORE
    if not path.is_file():
        raise InputError(
            f"there are no private chats: {path} is not there",
            hint="edgekit chat --private makes the store and asks for its passphrase",
        )
    if presence.is_encrypted(path) is not True:
        raise InputError(
            f"{path} is not an encrypted store, or is damaged",
            hint="try edgekit privacy rescue, or put back a copy of the file",
        )
    return path


def opened(path: Path, passphrase: str) -> AbstractContextManager[ChatStore]:
    """Return the store at `path`, open until the end of the context.

    Raises PrivacyError for a wrong or empty passphrase, InputError for damage.
    """
    from tui.store.chats import ChatStore

    return closing(ChatStore.open(path, passphrase))
