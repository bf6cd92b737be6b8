"""Templates render as transformers renders them; a hostile one is stopped and named."""

from __future__ import annotations

import resource
import sys
import time

import pytest

from edgekit.errors import InputError
from runtimes import chat_template as module
from runtimes.base import Message
from runtimes.chat_template import ChatTemplate

CONVERSATION = [
    Message("system", "Be brief."),
    Message("user", "What's <b>2 + 2</b>?\n"),
    Message("assistant", " 4 \"four\" 'vier' Ω "),
    Message("user", "Danke"),
]
ORDINARY = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
        "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "lines": (
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {{- messages[0]['content'] | trim }}\n"
        "    {%- set loop_messages = messages[1:] %}\n"
        "{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n"
        "{% for message in loop_messages %}\n"
        "    {% if loop.index0 > 5 %}{% break %}{% endif %}\n"
        "{{ bos_token }}[{{ message.role | upper }}] {{ message.content }}{{ eos_token }}\n"
        "{% endfor %}\n"
    ),
    "namespace and json": (
        "{% set ns = namespace(seen=false) %}{% for m in messages %}"
        "{% if not ns.seen and m.role == 'user' %}{% set ns.seen = true %}{{ m | tojson }}"
        "{{ m.content | tojson(indent=2) }}{% endif %}{% endfor %}{{ tools is none }}{{ unk }}"
    ),
    "generation block": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x }}{% else %}{{ m.content }}"
        "{% endif %}{% endfor %}"
    ),
    "macro": (
        "{% macro turn(m) %}<{{ m.role }}>{{ caller() if caller else m['content'] }}{% endmacro %}"
        "{% for m in messages %}{{ turn(m) }}{% endfor %}{{ '%s' % 'x' }}{{ 'ab' * 3 }}{{ 2 ** 8 }}"
    ),
}


def render(source: str | None, messages: list[Message] | None = None) -> str:
    template = ChatTemplate(source, model="tiny", bos_token="<s>", eos_token="</s>")
    return template.render(CONVERSATION if messages is None else messages)


@pytest.mark.parametrize("name", ORDINARY)
def test_it_renders_as_transformers_does(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    conversation = [{"role": m.role, "content": m.content} for m in CONVERSATION]
    expected, _ = render_jinja_template(
        [conversation],
        chat_template=ORDINARY[name],
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    assert render(ORDINARY[name]) == expected[0]


def test_strftime_now_is_today() -> None:
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")


def test_a_refusal_is_told_in_the_templates_own_words() -> None:
    with pytest.raises(InputError, match="of tiny fails: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_no_template_is_an_input_error_with_a_way_out() -> None:
    with pytest.raises(InputError, match="tiny has no chat template") as caught:
        render(None)
    assert "continue a text" in caught.value.hint


HOSTILE = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "item access": "{{ ''['__class__']['__mro__'] }}",
    "globals of a function": "{{ raise_exception.__globals__['json'] }}",
    "the environment": "{{ self._TemplateReference__context.environment.x }}",
    "format string": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "map attribute": "{{ ['']|map(attribute='__class__')|map(attribute='__mro__')|list|first }}",
    "generator frame": "{{ (messages|map('upper')).gi_frame.f_globals }}",
    "changing the messages": "{{ messages.append(1) }}",
    "changing one message": "{{ messages[0].update({'role': 'x'}) }}",
    "reading a file": "{% include '/etc/passwd' %}",
    "importing": "{% import 'os' as os %}{{ os.getcwd() }}",
    "syntax": "{% for %}",
    "deep nesting": "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "division": "{{ 1 / 0 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "large range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
        "{% endfor %}{% endfor %}{% endfor %}"
    ),
    "a loop in a filter": "{{ range(99999)|map('center', 99999)|map('length')|sum }}",
    "endless output": "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "a giant string": "{{ 'x' * 10**11 }}",
    "a giant format": "{{ '%99999999999d' % 1 }}",
    "a giant padding": "{{ 'x'|center(10**11) }}",
    "doubling": (
        "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}"
        "{% endfor %}"
    ),
    "doubling in a list": (
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}"
        "{% endfor %}"
    ),
    "a giant power": "{{ 9 ** (9 ** 9) }}",
    "a constant power": "{% if 10 ** (10 ** 10) %}{% endif %}",
    "squaring": (
        "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_an_input_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RENDER_CPU_S", 0.3)
    before = (sys.gettrace(), resource.getrlimit(resource.RLIMIT_AS))
    start = time.thread_time()
    with pytest.raises(InputError) as caught:
        render(HOSTILE[name])
    assert "chat template of tiny" in caught.value.message
    assert len(caught.value.message) < 400
    assert time.thread_time() - start < 5
    assert (sys.gettrace(), resource.getrlimit(resource.RLIMIT_AS)) == before


def test_an_attribute_that_is_blocked_shows_nothing() -> None:
    assert render("{{ ''|attr('__class__') }}{{ ''.__class__ }}{{ ''['__class__'] }}") == ""


def test_an_endless_loop_is_stopped_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RENDER_CPU_S", 0.2)
    with pytest.raises(InputError, match=r"computes for more than 0\.2 s"):
        render(HOSTILE["nested loops"])


def test_endless_output_and_memory_are_named() -> None:
    with pytest.raises(InputError, match="writes more than 8388608 characters"):
        render(HOSTILE["endless output"])
    with pytest.raises(InputError, match="needs more than 256 MiB"):
        render(HOSTILE["a giant string"])
    with pytest.raises(InputError, match="calls itself too deeply"):
        render(HOSTILE["recursion"])


def test_a_giant_template_is_refused_before_it_is_read() -> None:
    with pytest.raises(InputError, match="has 300000 characters, the most allowed are 262144"):
        render("x" * 300_000)


def test_a_long_conversation_is_no_attack() -> None:
    long = [Message("user", "word " * 2000), Message("assistant", "ok")] * 200
    assert len(render(ORDINARY["chatml"], long)) > 2_000_000


def test_a_message_is_never_a_template() -> None:
    assert render("{{ messages[0].content }}", [Message("user", "{{ 7*7 }}{% x %}")]) == (
        "{{ 7*7 }}{% x %}"
    )
