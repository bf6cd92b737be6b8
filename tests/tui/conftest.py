"""A runtime that follows a script, a clock that only it moves, and the app around them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtimes.base import Chunk, Message, Sampling

FIRST_TOKEN_S = 0.5
TOKEN_S = 0.05

# What a script is made of: a piece of text is one token, an exception is raised, an event is
# waited for, and a `Finish` ends the answer otherwise than by "stop".
Step = Any


class ManualClock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Finish(str):
    """The finish of the last chunk."""


class ScriptedAnswer:
    """An iterator of chunks that another thread may close, also while it waits."""

    def __init__(self, runtime: ScriptedRuntime, steps: Sequence[Step], prompt_tokens: int) -> None:
        self._steps = list(steps)
        self._runtime = runtime
        self._prompt_tokens = prompt_tokens
        self._started = False
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        while self._steps and isinstance(self._steps[0], threading.Event):
            gate = self._steps.pop(0)
            while not gate.wait(0.02) and not self.closed.is_set():
                pass
        if self.closed.is_set() or not self._steps:
            raise StopIteration
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        self._runtime.clock.now += TOKEN_S if self._started else FIRST_TOKEN_S
        self._started = True
        finish: Any = "stop" if not self._steps else None
        if self._steps and isinstance(self._steps[0], Finish):
            finish = str(self._steps.pop(0))
        return Chunk(step, 1, self._prompt_tokens, 0, finish)

    def close(self) -> None:
        self.closed.set()


class ScriptedRuntime:
    """Answers the first question by the first script, and so on. A token is a byte of UTF-8."""

    context_length = 4096
    threads = 1

    def __init__(self, *scripts: Sequence[Step], clock: ManualClock | None = None) -> None:
        self.scripts = list(scripts)
        self.clock = clock or ManualClock()
        self.asked: list[list[Message]] = []
        self.samplings: list[Sampling] = []
        self.closed = False

    def generate(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[Chunk]:
        self.asked.append(list(messages))
        self.samplings.append(sampling)
        return self._answer(self.render(messages))

    def complete(self, token_ids: Sequence[int], sampling: Sampling) -> Iterator[Chunk]:
        return self._answer(self.detokenize(token_ids))

    def _answer(self, prompt: str) -> ScriptedAnswer:
        return ScriptedAnswer(self, self.scripts.pop(0), len(self.tokenize(prompt)))

    def score(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        return np.zeros((len(token_ids), 256), np.float32)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return list(text.encode())

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode(errors="replace")

    def render(self, messages: Sequence[Message]) -> str:
        return "".join(f"{message.role}: {message.content}\n" for message in messages)

    def save_state(self, path: Path) -> int:
        path.write_bytes(b"")
        return 0

    def load_state(self, path: Path) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def scripted() -> type[ScriptedRuntime]:
    return ScriptedRuntime


@pytest.fixture
def finish() -> type[Finish]:
    return Finish


@pytest.fixture
def manual_clock() -> type[ManualClock]:
    return ManualClock


@pytest.fixture
def make_setup() -> Callable[..., Any]:
    """Return a function that makes a ChatSetup around a runtime, with a store in memory."""
    from edgekit.settings import Settings
    from tui.setup import ChatSetup
    from tui.store.chats import ChatStore

    def make(runtime: ScriptedRuntime, **options: Any) -> ChatSetup:
        opener = options.pop("opener", None)
        defaults = {
            "open_runtime": opener or (lambda name: runtime),
            "model": "tiny q4_k_m",
            "list_artifacts": list,
            "sampling": Sampling(temperature=0.7),
            "system": "",
            "store": options.pop("store", None) or ChatStore.open(None),
            "settings": Settings(bandwidth="full"),
        }
        return ChatSetup(**(defaults | options))

    return make


@pytest.fixture
def chat_with(
    monkeypatch: pytest.MonkeyPatch, make_setup: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a function that builds the app around a runtime, in a terminal with all colours."""
    from tui.app import ChatApp

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def build(runtime: ScriptedRuntime, **options: Any) -> ChatApp:
        return ChatApp(make_setup(runtime, **options), clock=runtime.clock)

    return build


@pytest.fixture
def until() -> Callable[..., Any]:
    """Return a coroutine function that lets the app run until a condition holds."""

    async def wait(pilot: Any, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            await asyncio.sleep(0.005)
            if condition():
                await pilot.pause()
                return
        raise AssertionError("the condition never came true")

    return wait
