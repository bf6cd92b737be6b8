"""Recipes: built-in ones, your own, and what is said about a misspelt one."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.recipe import Recipe, built_in_names
from edgekit.errors import InputError


@pytest.mark.parametrize("name", built_in_names())
def test_every_built_in_recipe_is_whole(name: str) -> None:
    recipe = Recipe.named(name)
    assert recipe.name == name == f"{recipe.format}-{recipe.scheme}"
    assert recipe.description


def test_the_recipes_of_the_demo_are_there() -> None:
    assert {
        "gguf-f16", "gguf-q8_0", "gguf-q4_k_m", "gguf-iq4_nl", "onnx-int8", "onnx-int4"
    } <= set(built_in_names())  # fmt: skip


def test_your_own_recipe_is_read_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'format = "gguf"\nscheme = "iq4_nl"\ncontext_length = 2048\n'
        '[per_tensor]\n"*.mlp.down_proj.weight" = "q6_k"\n'
    )
    recipe = Recipe.named(str(path))
    assert (recipe.name, recipe.context_length) == ("mine", 2048)
    assert recipe.to_dict() == {
        "name": "mine",
        "format": "gguf",
        "scheme": "iq4_nl",
        "per_tensor": {"*.mlp.down_proj.weight": "q6_k"},
        "context_length": 2048,
    }


def test_a_scheme_alone_is_a_recipe() -> None:
    assert Recipe.of("onnx", "int4").to_dict() == {
        "name": "onnx-int4",
        "format": "onnx",
        "scheme": "int4",
    }


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('format = "gguf"\nshceme = "f16"', "unknown key 'shceme'", "did you mean scheme?"),
        ('format = "gguf"\nscheme = "q4_km"', "unknown scheme 'q4_km'", "did you mean q4_k_m?"),
        ('format = "ggfu"\nscheme = "f16"', "unknown format 'ggfu'", "did you mean gguf?"),
        ('format = "gguf"', "scheme is missing", ""),
        ('format = 3\nscheme = "f16"', "format is 3, not a string", ""),
        ('format = "gguf"\nscheme = "f16"\nper_tensor = 3', "not a table", ""),
        (
            'format = "gguf"\nscheme = "f16"\n[per_tensor]\n"*" = "q4k"',
            "unknown tensor type 'q4k'",
            "did you mean q4_k?",
        ),
        ('format = "gguf"\nscheme = "f16"\ncontext_length = 0', "context_length is 0", ""),
        ('format = "gguf"\nscheme = "f16"\ncontext_length = true', "context_length is True", ""),
        ("format = [", "cannot be read as TOML", ""),
    ],
)
def test_a_mistake_names_the_file_and_the_nearest_name(
    text: str, message: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Recipe.named(str(path))
    assert str(path) in caught.value.message
    assert hint in caught.value.hint


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match="unknown recipe 'gguf-q8'") as caught:
        Recipe.named("gguf-q8")
    assert "did you mean gguf-q8_0?" in caught.value.hint


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no recipe .*absent\.toml"):
        Recipe.named(str(tmp_path / "absent.toml"))
