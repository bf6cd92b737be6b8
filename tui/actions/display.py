"""The commands of the screen itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_args

from edgekit.errors import UsageError
from edgekit.settings import Bandwidth, load_settings, save_settings
from tui.setup import NOT_PRIVATE

if TYPE_CHECKING:
    from tui.screen import ChatScreen


async def theme(screen: ChatScreen, name: str) -> None:
    """Change the colours, for this time and the next."""
    from tui.dialogs.themes import ThemeScreen

    app = screen.app
    if app.ansi_color:
        raise UsageError(
            "the chat wears this terminal's own 16 colours, so a theme would change nothing",
            hint="themes need 256 colours, no NO_COLOR, and /bandwidth full at the start",
        )
    if name and name not in app.available_themes:
        known = ", ".join(sorted(app.available_themes))
        raise UsageError(f"there is no theme '{name}'", hint=f"there is: {known}")
    chosen: str | None = name
    if not name:
        chosen = await app.push_screen_wait(ThemeScreen())
    if chosen is None:
        return
    app.theme = chosen
    save_settings(replace(load_settings(), theme=chosen))


async def bandwidth(screen: ChatScreen, mode: str) -> None:
    """Say or change how much is sent to the terminal."""
    app = screen.app
    if mode and mode not in get_args(Bandwidth):
        raise UsageError(f"'{mode}' is not low, full or auto")
    if mode:
        setting = cast(Bandwidth, mode)
        app.use_bandwidth(setting)
        save_settings(replace(load_settings(), bandwidth=setting))
    screen.bar.remark(f"bandwidth: {'low' if app.low_bandwidth else 'full'}")


async def privacy(screen: ChatScreen, _: str) -> None:
    """Show what protects this chat, and what does not."""
    from tui.dialogs.text import TextScreen

    await screen.app.push_screen_wait(TextScreen("Privacy", screen.setup.privacy or NOT_PRIVATE))


async def show_help(screen: ChatScreen, _: str) -> None:
    """Show the keys and the commands."""
    screen.app.action_help()


async def leave(screen: ChatScreen, _: str) -> None:
    """Leave."""
    await screen.app.action_quit()
