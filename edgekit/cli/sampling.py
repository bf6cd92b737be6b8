"""The options of `run` and `chat` that say how the next token is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from runtimes.base import Sampling

Body = TypeVar("Body", bound=Callable[..., Any])


def sampling_options(body: Body) -> Body:
    """Give a command every sampling option, greedy by default; collect them with `to_sampling`."""
    return _options(body, temperature=0.0, top_p=1.0, min_p=0.0)


def chat_sampling_options(body: Body) -> Body:
    """Give a command every sampling option; by default a second answer differs from the first."""
    return _options(body, temperature=0.7, top_p=0.9, min_p=0.05)


def _options(body: Body, *, temperature: float, top_p: float, min_p: float) -> Body:
    options = (
        click.option("--max-tokens", default=512, show_default=True, type=click.IntRange(1)),
        click.option("--temperature", default=temperature, show_default=True, help="0 is greedy."),
        click.option("--top-k", default=0, show_default=True, help="0 keeps all."),
        click.option("--top-p", default=top_p, show_default=True),
        click.option("--min-p", default=min_p, show_default=True),
        click.option("--repetition-penalty", default=1.0, show_default=True),
        click.option("--seed", type=int, help="The same seed gives the same answer."),
        click.option("--stop", multiple=True, help="A text that ends the answer; may be repeated."),
    )
    for option in reversed(options):
        body = option(body)
    return body


def to_sampling(options: dict[str, Any]) -> Sampling:
    """Return the values of `sampling_options` as what a runtime takes."""
    from runtimes.base import Sampling

    return Sampling(**options)
