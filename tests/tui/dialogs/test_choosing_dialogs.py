"""The dialogs that choose a model, a persona and the sampling."""

from __future__ import annotations

import pytest

from edgekit.errors import InputError
from runtimes.base import Sampling
from tui.conversation import Persona
from tui.dialogs.artifacts import ArtifactScreen
from tui.dialogs.personas import PersonaEditor, PersonaScreen
from tui.dialogs.sampling import SamplingScreen
from tui.setup import ArtifactChoice

Q4 = "SmolLM2-135M-Instruct-gguf-q4_k_m"
CHOICES = (
    ArtifactChoice("no-template", "/a/0", "gguf", "q8_0", 10**6, 512, problem="no chat template"),
    ArtifactChoice(Q4, "/a/1", "gguf", "q4_k_m", 105_500_000, 8192, 0.063, 0.851, 91.0, 1.01),
    ArtifactChoice("new\x1b[31m", "/a/2", "onnx", "int4", 95_800_000, 8192),
)


async def test_artifacts_are_a_table(opened) -> None:
    async with opened(ArtifactScreen(lambda: CHOICES, Q4)) as (app, pilot, shows):
        await shows(f"> {Q4} *")
        heading, *rows = [line for line in app.text().splitlines() if " MB" in line or "KL" in line]
        ends = {heading.index("tokens/s") + 8, rows[1].index("91.0") + 4}
        ends |= {rows[2].index("not benched") + 11}
        assert len(ends) == 1  # the columns are aligned
        assert heading.index("size") + 4 == rows[1].index("105.5 MB") + 8
        assert "0.0630  85.1%" in rows[1]
        assert "new[31m" in rows[2]
        assert "not checked" in rows[2]
        await shows("context 8192 tokens, first token 1.01 s")
        await pilot.press("down", "enter")
    assert app.results == [CHOICES[2]]


async def test_an_artifact_with_a_problem_cannot_be_chosen(opened) -> None:
    async with opened(ArtifactScreen(lambda: CHOICES, Q4)) as (app, pilot, shows):
        await shows("> Smol")
        await pilot.press("home", "enter")
        await shows("no chat template")
        await shows("this one cannot be used")
        assert app.results == []
        await pilot.press("escape")
    assert app.results == [None]


async def test_no_artifacts_and_a_store_that_fails(opened) -> None:
    async with opened(ArtifactScreen(list)) as (_, pilot, shows):
        await shows("no artifact is installed")
        await pilot.press("down", "enter")

    def fail() -> list[ArtifactChoice]:
        raise InputError("edgekit.json is damaged")

    async with opened(ArtifactScreen(fail)) as (app, pilot, shows):
        await shows("edgekit.json is damaged")
        await pilot.press("enter", "escape")
    assert app.results == [None]


@pytest.fixture
def personas(store):
    store.save_persona(Persona("teacher", "You teach.\nStep by step."))
    store.save_persona(Persona("pirate [bold]\x1b", "Arr"))
    return store


@pytest.mark.parametrize(
    ("keys", "result"),
    [
        (["enter"], Persona("teacher", "You teach.\nStep by step.")),
        (["home", "enter"], Persona("", "")),
        (["escape"], None),
    ],
)
async def test_personas(personas, opened, keys, result) -> None:
    async with opened(PersonaScreen(personas, "teacher")) as (app, pilot, shows):
        await shows("> teacher (in use)")
        assert "pirate [bold] " in app.text()
        await pilot.press(*keys)
    assert app.results == [result]


async def test_a_persona_is_written(personas, opened, until) -> None:
    async with opened(PersonaScreen(personas)) as (app, pilot, shows):
        await shows("teacher")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, PersonaEditor))
        await pilot.press(*"poet", "enter")
        await pilot.press(*"Rhyme", "ctrl+j", *"well", "enter")
        await shows("> poet")
        await pilot.press("enter")
    assert app.results == [Persona("poet", "Rhyme\nwell")]
    assert Persona("poet", "Rhyme\nwell") in personas.personas()


async def test_a_persona_is_changed_and_renamed(personas, opened, until) -> None:
    async with opened(PersonaScreen(personas, "teacher")) as (app, pilot, shows):
        await shows("> teacher")
        await pilot.press("ctrl+e")
        await until(pilot, lambda: isinstance(app.screen, PersonaEditor))
        await pilot.press("!", "shift+tab", "end", *"s", "tab", "enter")
        await shows("> teachers")
    names = {persona.name: persona.text for persona in personas.personas()}
    assert names["teachers"] == "You teach.\nStep by step.!"
    assert "teacher" not in names
    assert len(names) == 2


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (["tab", "x", "enter"], "a persona needs a name"),
        ([*"poet", "tab", "enter"], "a persona needs a text"),
        ([*"teacher", "tab", "x", "enter"], "there is a persona of that name"),
        ([*"None", "tab", "x", "enter"], "stands for no persona"),
    ],
)
async def test_a_persona_needs_a_name_of_its_own(personas, opened, until, keys, sentence) -> None:
    before = personas.personas()
    async with opened(PersonaScreen(personas)) as (app, pilot, shows):
        await shows("teacher")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, PersonaEditor))
        await pilot.press(*keys)
        await shows(sentence)
        await pilot.press("escape")
        await shows("Discard what you typed?")
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, PersonaScreen))
    assert personas.personas() == before


async def test_a_persona_is_deleted_after_asking(personas, opened, until) -> None:
    async with opened(PersonaScreen(personas, "teacher")) as (app, pilot, shows):
        await shows("> teacher")
        await pilot.press("delete")
        await shows("Delete the persona “teacher”?")
        await pilot.press("y")
        await until(pilot, lambda: len(personas.personas()) == 1)
        await pilot.press("home", "delete")  # "none" is no persona
        await pilot.pause()
        assert isinstance(app.screen, PersonaScreen)


async def test_sampling_is_a_form(opened) -> None:
    start = Sampling(temperature=0.7, stop=("x",))
    async with opened(SamplingScreen(start)) as (app, pilot, shows):
        await shows("repetition_penalty 1")
        await shows("max_tokens: at least 1")
        await pilot.press("down", "backspace", "5", "down", "ctrl+u", *"40", "enter")
    assert app.results == [Sampling(temperature=0.5, top_k=40, stop=("x",))]


async def test_sampling_is_checked_while_it_is_typed(opened) -> None:
    async with opened(SamplingScreen(Sampling())) as (app, pilot, shows):
        await pilot.press("down", "down", "down", "ctrl+u", "2")
        await shows("top_p is 2, it should be above 0 and at most 1 (off)")
        await shows("! top_p")
        await pilot.press("up", "up", "up", "enter")
        assert app.results == []
        assert app.focused.id == "top_p"
        await pilot.press("ctrl+u", *"0.9", "enter")
    assert app.results == [Sampling(top_p=0.9)]


@pytest.mark.parametrize(
    ("keys", "result"), [(["escape"], None), (["ctrl+r", "enter"], Sampling())]
)
async def test_sampling_can_be_left_or_reset(opened, keys, result) -> None:
    async with opened(SamplingScreen(Sampling(9, 0.7, 40, 0.9, 0.1, 1.1, seed=7))) as (
        app,
        pilot,
        _,
    ):
        await pilot.press(*keys)
    assert app.results == [result]
