"""A conversation becomes a prompt through the model's own template, in Jinja's sandbox.

The template is a program that came with the model file: it may neither reach for attributes,
nor run, grow or write without end. The names it may use are those of Hugging Face transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgekit.errors import InputError
from runtimes.base import Message
from runtimes.limits import TimeUp, cpu_limit, memory_limit

MAX_TEMPLATE_CHARACTERS = 256 << 10
MAX_PROMPT_CHARACTERS = 8 << 20
MAX_RENDER_CPU_S = 2.0
MAX_RENDER_BYTES = 256 << 20
MAX_INTEGER_BITS = 4096


class ChatTemplate:
    """One model's chat template. It is compiled when it is first used, not when the model loads:
    a template that nobody needs cannot keep a model from opening.
    """

    def __init__(self, source: str | None, *, model: str, bos_token: str, eos_token: str) -> None:
        """`source` is None where the model has no template; `model` names it in complaints."""
        self._source = source
        self._model = model
        self._names = {"bos_token": bos_token, "eos_token": eos_token}
        self._compiled: Template | None = None

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt for `messages`, up to where the answer begins.

        Raises InputError if there is no template, or it refuses the conversation, breaks the
        sandbox's rules or a limit.
        """
        try:
            with memory_limit(MAX_RENDER_BYTES):
                if self._compiled is None:
                    self._compiled = self._compile()
                with cpu_limit(MAX_RENDER_CPU_S):
                    return self._write(self._compiled, messages)
        except InputError:
            raise
        except TimeUp:
            raise self._broken(f"computes for more than {MAX_RENDER_CPU_S:g} s") from None
        except MemoryError:
            raise self._broken(f"needs more than {MAX_RENDER_BYTES >> 20} MiB") from None
        except RecursionError:
            raise self._broken("calls itself too deeply") from None
        # A template's failure can have any type: it is the template's, never a bug of ours.
        except Exception as error:
            raise self._broken(f"fails: {_first_line(error)}") from error

    def _compile(self) -> Template:
        if self._source is None:
            raise InputError(
                f"the model {self._model} has no chat template, so it cannot hold a conversation",
                hint="it can continue a text as it is",
            )
        if len(self._source) > MAX_TEMPLATE_CHARACTERS:
            raise self._broken(
                f"has {len(self._source)} characters, the most allowed are "
                f"{MAX_TEMPLATE_CHARACTERS}"
            )
        return _environment().from_string(self._source)

    def _write(self, template: Template, messages: Sequence[Message]) -> str:
        """Render piece by piece, so that endless output is noticed before it fills the memory."""
        conversation = [{"role": m.role, "content": m.content} for m in messages]
        pieces: list[str] = []
        length = 0
        for piece in template.generate(
            messages=conversation,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **self._names,
        ):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_PROMPT_CHARACTERS:
                raise self._broken(f"writes more than {MAX_PROMPT_CHARACTERS} characters")
        return "".join(pieces)

    def _broken(self, what: str) -> InputError:
        return InputError(
            f"the chat template of {self._model} {what}",
            hint="convert the model again with another template, or trust this model less",
        )


def _first_line(error: Exception) -> str:
    """Return what went wrong in one short line; a template's own words are kept."""
    text = str(error).strip() or type(error).__name__
    shown = text.splitlines()[0][:200]
    return shown if isinstance(error, TemplateError) else f"{type(error).__name__}: {shown}"


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox in which integers cannot grow without end.

    One product of two huge integers runs in C for hours, where no limit reaches it.
    """

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            times = max(right, 0) if operator == "**" else 1
            if left.bit_length() * times + right.bit_length() > MAX_INTEGER_BITS:
                raise OverflowError(f"an integer of more than {MAX_INTEGER_BITS} bits")
        return super().call_binop(context, operator, left, right)


class _GenerationBlock(Extension):
    """`{% generation %}` marks an assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja reads a plain class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that transformers renders chat templates in, with our limits.

    Source: transformers/utils/chat_template_utils.py, `_compile_jinja_template`. The optimiser
    is off because it would run parts of the template while compiling, outside the time limit.
    """
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=[_GenerationBlock, loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    functions: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    environment.globals.update(functions)
    return environment


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without Jinja's escaping for HTML, as chat templates expect."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
