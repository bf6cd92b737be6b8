"""What commands print: one JSON document for programs, or an aligned table for people."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

Body = TypeVar("Body", bound=Callable[..., Any])


def json_option(body: Body) -> Body:
    """Give a command the option `--json`, passed as `as_json`."""
    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    return option(body)


def print_json(document: Any) -> None:
    """Print `document` as the one JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def styled(text: str, **style: Any) -> str:
    """Return `text` in a colour or weight of `click.style`, plain where NO_COLOR is set."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table: the first column to the left, the others to the right."""
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = [_line(headings, widths), "  ".join("-" * width for width in widths)]
    lines += [_line(row, widths) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return names and values, one pair a line, the values aligned."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in pairs)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    aligned = [first[0].ljust(first[1])] + [cell.rjust(width) for cell, width in others]
    return "  ".join(aligned)
