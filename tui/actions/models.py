"""The commands of the model: which, under which system prompt, sampled how."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edgekit.errors import InputError
from tui.context import describe
from tui.naming import named
from tui.sampling_settings import changed

if TYPE_CHECKING:
    from tui.conversation import Persona
    from tui.screen import ChatScreen
    from tui.setup import ArtifactChoice


async def model(screen: ChatScreen, name: str) -> None:
    """Change the model; the chat goes on with the new one."""
    from tui.dialogs.artifacts import ArtifactScreen

    choices = await asyncio.to_thread(screen.setup.list_artifacts)
    if name:
        choice: ArtifactChoice | None = named(name, {c.name: c for c in choices}, "artifact")
    else:
        open_now = (c.name for c in choices if screen.model in (c.name, c.path))
        dialog = ArtifactScreen(lambda: choices, next(open_now, screen.model))
        choice = await screen.app.push_screen_wait(dialog)
    if choice is None or screen.model in (choice.name, choice.path):
        return
    if choice.problem:
        raise InputError(f"{choice.name}: {choice.problem}")
    await screen.asking.stopped()
    await screen.save(screen.recorder.set_model, choice.name)
    screen.load_model(choice.name)


async def persona(screen: ChatScreen, name: str) -> None:
    """Choose a saved system prompt for this chat."""
    from tui.dialogs.personas import PersonaScreen

    if name:
        personas = await asyncio.to_thread(screen.setup.store.personas)
        persona: Persona | None = named(name, {p.name: p for p in personas}, "persona")
    else:
        dialog = PersonaScreen(screen.setup.store, screen.recorder.chat.persona)
        persona = await screen.app.push_screen_wait(dialog)
    if persona is not None:
        await screen.save(screen.recorder.set_system, persona.text, persona.name)
        screen.bar.remark(f"persona: {persona.name or 'none'}")


async def system(screen: ChatScreen, text: str) -> None:
    """Set the system prompt of this chat."""
    from tui.dialogs.editor import EditScreen

    if not text:
        dialog = EditScreen("System prompt of this chat", screen.recorder.chat.system)
        answer = await screen.app.push_screen_wait(dialog)
        if answer is None:
            return
        text = answer
    if await screen.save(screen.recorder.set_system, text.strip(), ""):
        screen.bar.remark("the system prompt holds from the next question on")


async def set_sampling(screen: ChatScreen, argument: str) -> None:
    """Change how this chat chooses its next token."""
    from tui.dialogs.sampling import SamplingScreen

    if argument:
        name, _, value = argument.partition(" ")
        sampling = changed(screen.sampling, name, value.strip())
    else:
        chosen = await screen.app.push_screen_wait(SamplingScreen(screen.sampling))
        if chosen is None:
            return
        sampling = chosen
    if await screen.save(screen.recorder.set_sampling, sampling):
        screen.bar.remark("the sampling holds from the next question on")


async def context(screen: ChatScreen, _: str) -> None:
    """Show what the model still sees, and what happens when the context is full."""
    from tui.dialogs.text import TextScreen

    text = await asyncio.to_thread(
        screen.session.use,
        lambda runtime: describe(
            runtime,
            screen.conversation,
            screen.recorder.chat.system,
            screen.attachments,
            screen.sampling.max_tokens,
            screen.asking.fitter,
        ),
    )
    await screen.app.push_screen_wait(TextScreen("Context", text))
