"""The user's settings: one small JSON file in EDGEKIT_HOME, read strictly.

Knows nothing of what a setting does. A file that cannot be understood is refused, never replaced
by defaults: a mistake in it must not switch privacy mode off.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from edgekit.errors import InputError
from edgekit.files import write_atomically
from edgekit.store import home

SETTINGS_NAME = "settings.json"
MAX_SETTINGS_BYTES = 64 << 10
MAX_THEME_CHARACTERS = 100

Bandwidth = Literal["auto", "low", "full"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user has chosen once for all runs.

    `private` makes privacy mode the default; `theme` is the name of a theme of the chat, empty
    for its own choice; `bandwidth` is how much the chat may redraw.
    """

    private: bool = False
    theme: str = ""
    bandwidth: Bandwidth = "auto"


def settings_path() -> Path:
    """Return the path of the settings, whether the file exists or not."""
    return home() / SETTINGS_NAME


def load_settings() -> Settings:
    """Return the saved settings, or the defaults if there is no file.

    Raises InputError that names the file and the key.
    """
    path = settings_path()
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_SETTINGS_BYTES + 1)
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_SETTINGS_BYTES:
        raise _bad(path, f"has more than {MAX_SETTINGS_BYTES} bytes")
    return _parse(path, data)


def save_settings(settings: Settings) -> None:
    """Write `settings` atomically, readable by their owner only. Raises InputError, GateError."""
    import json

    write_atomically(settings_path(), f"{json.dumps(asdict(settings), indent=2)}\n".encode(), 0o600)


def _parse(path: Path, data: bytes) -> Settings:
    import json

    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _bad(path, "is not JSON") from error
    if not isinstance(document, dict):
        raise _bad(path, "is not a JSON object")
    known = [field.name for field in fields(Settings)]
    for key, value in document.items():
        if key not in known:
            raise _bad(path, f"has an unknown key {key!r:.40}; known are {', '.join(known)}")
        if fault := _fault(key, value):
            raise _bad(path, f"has {value!r:.40} as '{key}', which must be {fault}")
    return Settings(**document)


def _fault(key: str, value: Any) -> str:
    """Return what `key` must be if `value` is not that, else nothing."""
    match key:
        case "private":
            return "" if isinstance(value, bool) else "true or false"
        case "theme":
            fits = isinstance(value, str) and len(value) <= MAX_THEME_CHARACTERS
            return "" if fits else f"a text of at most {MAX_THEME_CHARACTERS} characters"
        case _:
            choices = get_args(Bandwidth)
            return "" if value in choices else "one of " + ", ".join(choices)


def _bad(path: Path, what: str) -> InputError:
    return InputError(f"{path} {what}", hint=f"correct it, or remove {path} to start anew")
