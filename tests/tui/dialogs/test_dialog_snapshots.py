"""What the dialogs look like, also in 16 colours. After a wanted change: `--snapshot-update`."""

from __future__ import annotations

import pytest

from runtimes.base import Sampling
from tui.commands import COMMANDS
from tui.conversation import Persona
from tui.dialogs.artifacts import ArtifactScreen
from tui.dialogs.ask import AskScreen, ConfirmScreen
from tui.dialogs.chats import ChatListScreen
from tui.dialogs.editor import EditScreen
from tui.dialogs.palette import PaletteScreen
from tui.dialogs.personas import PersonaEditor, PersonaScreen
from tui.dialogs.redaction import RedactionScreen
from tui.dialogs.sampling import SamplingScreen
from tui.dialogs.text import TextScreen
from tui.redaction import find
from tui.setup import ArtifactChoice

COLOURS = pytest.mark.parametrize("few_colours", [False, True], ids=["full", "ansi"])
NAME = "SmolLM2-135M-Instruct"
CHOICES = (
    ArtifactChoice(f"{NAME}-gguf-q4_k_m", "/artifacts/a", "gguf", "q4_k_m", 105_500_000, 8192,
                   0.063, 0.851, 91.0, 1.01),
    ArtifactChoice(f"{NAME}-onnx-int4", "/artifacts/b", "onnx", "int4", 95_800_000, 8192),
    ArtifactChoice("gpt2", "/artifacts/c", "gguf", "q8_0", 144_800_000, 1024, problem="no text"),
)  # fmt: skip


@pytest.fixture
def look(show, until, snap_compare):
    """Return a function that opens a dialog, waits for `text` and compares the screen."""

    def compare(dialog, text: str, *keys: str, few_colours: bool = False) -> bool:
        app = show(dialog, few_colours=few_colours)

        async def run(pilot) -> None:
            await until(pilot, lambda: app.screen is dialog)
            await pilot.press(*keys)
            await until(pilot, lambda: text in app.text())

        return snap_compare(app, terminal_size=(80, 24), run_before=run)

    return compare


@COLOURS
def test_chats(look, store, at_noon, few_colours) -> None:
    dialog = ChatListScreen(store, "chat1", now=at_noon)
    assert look(dialog, "3 chats", "down", few_colours=few_colours)


@COLOURS
def test_hits(look, store, at_noon, few_colours) -> None:
    dialog = ChatListScreen(store, "chat1", now=at_noon)
    assert look(dialog, "2 found", *"minutes", few_colours=few_colours)


@COLOURS
def test_confirm(look, few_colours) -> None:
    dialog = ConfirmScreen("Delete “Eggs” for good?", detail="Its versions go with it.")
    assert look(dialog, "Delete “Eggs”", few_colours=few_colours)


@COLOURS
def test_artifacts(look, few_colours) -> None:
    dialog = ArtifactScreen(lambda: CHOICES, CHOICES[0].name)
    assert look(dialog, "> Smol", few_colours=few_colours)


@COLOURS
def test_sampling(look, few_colours) -> None:
    keys = ("down", "down", "down", "ctrl+u", "2")
    assert look(SamplingScreen(Sampling()), "top_p is 2", *keys, few_colours=few_colours)


def test_ask(look) -> None:
    assert look(AskScreen("Title of this chat", "Eggs"), "Eggs")


def test_personas(look, store) -> None:
    store.save_persona(Persona("teacher", "You teach.\nStep by step."))
    store.save_persona(Persona("translator", "You translate into plain English. " * 5))
    assert look(PersonaScreen(store, "teacher"), "> teacher")


def test_persona(look) -> None:
    assert look(PersonaEditor(Persona("teacher", "You teach."), set()), "You teach.")


def test_palette(look) -> None:
    assert look(PaletteScreen(COMMANDS), "/export", *"ex")


def test_redaction(look) -> None:
    findings = find("jane@example.org, again jane@example.org, or from 192.0.2.44")
    assert look(RedactionScreen(findings, "/home/jane/eggs.md"), "[e-mail 1]")


def test_text(look) -> None:
    assert look(TextScreen("Context", "\n".join(f"line {n}" for n in range(40))), "line 1")


def test_editor(look) -> None:
    assert look(EditScreen("Ask in other words", "How long?\nAnd how hot?"), "how hot")
