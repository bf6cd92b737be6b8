"""The settings file: what is saved comes back, and what cannot be understood is named."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.settings import MAX_SETTINGS_BYTES, Settings, load_settings, save_settings


def test_without_a_file_there_are_defaults(edgekit_home: Path) -> None:
    assert load_settings() == Settings(private=False, theme="", bandwidth="auto")
    assert list(edgekit_home.iterdir()) == []


def test_what_is_saved_comes_back(edgekit_home: Path) -> None:
    settings = Settings(private=True, theme="nord", bandwidth="low")
    save_settings(settings)
    assert load_settings() == settings
    path = edgekit_home / "settings.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in edgekit_home.iterdir()] == ["settings.json"]
    assert json.loads(path.read_text()) == {"private": True, "theme": "nord", "bandwidth": "low"}


def test_a_file_with_some_keys_is_filled_up(edgekit_home: Path) -> None:
    (edgekit_home / "settings.json").write_text('{"private": true}')
    assert load_settings() == Settings(private=True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "has more than|is not JSON"),
        ("[" * 5_000, "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"privat": true}', "has an unknown key 'privat'; known are private, theme, bandwidth"),
        ('{"private": 1}', "has 1 as 'private', which must be true or false"),
        ('{"private": "false"}', "which must be true or false"),
        ('{"private": null}', "which must be true or false"),
        ('{"theme": 3}', "has 3 as 'theme'"),
        ('{"theme": "' + "x" * 101 + '"}', "as 'theme', which must be a text of at most 100"),
        ('{"bandwidth": "medium"}', "which must be one of auto, low, full"),
        ('{"bandwidth": ["low"]}', "which must be one of auto, low, full"),
    ],
)
def test_a_bad_file_is_named_with_its_key(edgekit_home: Path, text: str, complaint: str) -> None:
    path = edgekit_home / "settings.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=complaint) as caught:
        load_settings()
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 400


def test_a_huge_file_is_not_read(edgekit_home: Path) -> None:
    with (edgekit_home / "settings.json").open("wb") as stream:
        stream.truncate(MAX_SETTINGS_BYTES * 1000)
    with pytest.raises(InputError, match="has more than 65536 bytes"):
        load_settings()


def test_a_folder_in_its_place_is_named(edgekit_home: Path) -> None:
    (edgekit_home / "settings.json").mkdir()
    with pytest.raises(InputError, match=r"settings\.json cannot be read: Is a directory"):
        load_settings()
