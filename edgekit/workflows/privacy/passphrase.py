"""privacy passphrase: seal the private chats anew under another passphrase."""

from __future__ import annotations

from pathlib import Path

from edgekit import store
from edgekit.errors import InputError
from tui.store import presence


def private_store() -> Path:
    """Return where the private chats are. Raises InputError if there are none."""
    path = store.chats() / "private.db"
    if not path.is_file():
        raise InputError(
            f"there are no private chats: {path} is not there",
            hint="edgekit chat --private makes the store and asks for its passphrase",
        )
    if presence.is_encrypted(path) is not True:
        raise InputError(
            f"{path} is not an encrypted store, or is damaged",
            hint="put back a copy of the file; without its header no passphrase opens it",
        )
    return path


def change(path: Path, old: str, new: str) -> None:
    """Change the passphrase of the store at `path`; a kill leaves the old or the new one working.

    Raises PrivacyError for a wrong or empty passphrase, InputError for damage.
    """
    from tui.store.chats import ChatStore

    chats = ChatStore.open(path, old)
    try:
        chats.change_passphrase(new)
    finally:
        chats.close()
