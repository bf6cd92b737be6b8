"""Personas: system prompts with a name. Choose, write, change and delete them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from edgekit.errors import EdgekitError
from tui.clean import clean, clean_line
from tui.conversation import Persona
from tui.dialogs.ask import ConfirmScreen
from tui.dialogs.editor import EDITOR_KEYS, Editor, discards
from tui.dialogs.frame import Dialog
from tui.dialogs.line_input import LineInput
from tui.dialogs.lists import ListDialog
from tui.dialogs.rows import Rows

if TYPE_CHECKING:
    from tui.store.chats import ChatStore

Changed = TypeVar("Changed")
NONE = Persona("", "")
NONE_NAME = "none"
NAME_WIDTH = 20


class PersonaScreen(ListDialog[Persona]):
    """Lists the personas of `store`; `current` is the name of the one in use. The result is the
    one to use, `Persona("", "")` for none of them, or None to change nothing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "new", "new"),
        Binding("ctrl+e,f2", "edit", "edit"),
        Binding("delete,ctrl+d", "delete", "delete"),
    ]
    keys = (
        ("Enter", "use"),
        ("Ctrl+N", "new"),
        ("Ctrl+E", "edit"),
        ("Delete", "delete"),
        ("Esc", "close"),
    )
    other_lines = 6

    def __init__(self, store: ChatStore, current: str = "") -> None:
        super().__init__("Personas")
        self._store, self._current = store, current
        self._personas = [NONE]

    def body(self) -> ComposeResult:
        """Show the list."""
        yield Rows()

    def on_mount(self) -> None:
        """Read the personas while the box is drawn."""
        self.rows.show(1, self._row)
        self.run_worker(self._read(self._current))

    async def _read(self, chosen: str) -> None:
        """Show the personas as they are stored now, with the one named `chosen` chosen."""
        try:
            personas = await self.in_thread(self._store.personas)
        except EdgekitError as error:
            self.remark(error.message)
            return
        self._personas = [NONE, *sorted(personas, key=lambda p: p.name.casefold())]
        names = [persona.name for persona in self._personas]
        index = names.index(chosen) if chosen in names else self.rows.chosen
        self.rows.show(len(names), self._row, chosen=index)

    def _row(self, index: int, width: int) -> list[Content]:
        persona = self._personas[index]
        here = " (in use)" if persona.name == self._current else ""
        name = Content(clean_line(persona.name) or NONE_NAME).stylize("bold") + here
        text = clean_line(persona.text) if persona is not NONE else "no system prompt"
        column = max(NAME_WIDTH, name.cell_length)
        return [(name.truncate(column, pad=True) + "  " + text).truncate(width, ellipsis=True)]

    def _chosen(self) -> Persona | None:
        """Return the chosen persona, None for the entry that is none."""
        return self._personas[self.rows.chosen] if self.rows.chosen else None

    async def action_choose(self) -> None:
        """Close with the chosen persona."""
        self.dismiss(self._personas[self.rows.chosen])

    @work
    async def action_new(self) -> None:
        """Write a persona."""
        await self._edit(NONE)

    @work
    async def action_edit(self) -> None:
        """Change the chosen persona."""
        if (persona := self._chosen()) is not None:
            await self._edit(persona)

    async def _edit(self, old: Persona) -> None:
        taken = {persona.name for persona in self._personas if persona.name != old.name}
        new = await self.app.push_screen_wait(PersonaEditor(old, taken))
        if new is None or new == old:
            return
        if await self._change(self._store.save_persona, new):
            # Only when the new one is safe. A new name must not leave the old one behind.
            if old.name and old.name != new.name:
                await self._change(self._store.delete_persona, old.name)
            await self._read(new.name)

    @work
    async def action_delete(self) -> None:
        """Delete the chosen persona, after asking."""
        if (persona := self._chosen()) is None:
            return
        detail = "The chats that use it keep its text."
        confirm = ConfirmScreen(f"Delete the persona “{persona.name}”?", detail=detail)
        if await self.app.push_screen_wait(confirm):
            await self._change(self._store.delete_persona, persona.name)
            await self._read("")

    async def _change(self, change: Callable[[Changed], None], value: Changed) -> bool:
        """Return whether the store could do it; if not, say why."""
        try:
            await self.in_thread(change, value)
        except EdgekitError as error:
            self.remark(error.message)
            return False
        return True


class PersonaEditor(Dialog[Persona]):
    """Edits a name, which must not be one of `taken`, and a system prompt of several lines."""

    keys = (("Tab", "name or text"), *EDITOR_KEYS)
    gives_way = "Editor"
    other_lines = 7

    def __init__(self, persona: Persona, taken: set[str]) -> None:
        super().__init__("Edit the persona" if persona.name else "New persona")
        self._persona, self._taken = persona, taken

    def body(self) -> ComposeResult:
        """Show the name above the text."""
        yield LineInput(self._persona.name, "Name", {"enter": "text", "down": "text"})
        yield Static(Content("What the model is told before every question:"), classes="note-line")
        yield Editor(self._persona.text, "You are a patient teacher.")

    def on_mount(self) -> None:
        """Begin with what is most likely to be typed."""
        if self._persona.name:
            self.query_one(Editor).focus()

    def action_text(self) -> None:
        """Go on to the text."""
        self.query_one(Editor).focus()

    def _edited(self) -> Persona:
        name = clean_line(self.query_one(LineInput).value)
        return Persona(name, self.query_one(Editor).text.strip())

    @on(Editor.Accepted)
    def _accepted(self, event: Editor.Accepted) -> None:
        event.stop()
        persona = self._edited()
        if problem := self._problem(persona):
            self.remark(problem)
            self.query_one(Editor if persona.name and not persona.text else LineInput).focus()
        else:
            self.dismiss(persona)

    def _problem(self, persona: Persona) -> str:
        if not persona.name:
            return "a persona needs a name"
        if persona.name.lower() == NONE_NAME:
            return f"“{NONE_NAME}” stands for no persona: choose another name"
        if persona.name in self._taken:
            return "there is a persona of that name: choose another"
        return "" if persona.text else "a persona needs a text"

    def action_cancel(self) -> None:
        """Close without a result."""
        self._leave()

    @work
    async def _leave(self) -> None:
        before = Persona(clean_line(self._persona.name), clean(self._persona.text).strip())
        if self._edited() == before or await discards(self):
            self.dismiss(None)
