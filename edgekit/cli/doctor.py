"""edgekit doctor: what is installed, which engines work, what is missing and how to get it."""

from __future__ import annotations

import click

from edgekit.cli.output import json_option, print_json, styled


@click.command(short_help="Say what works here, and how to get what is missing.")
@json_option
def doctor(as_json: bool) -> None:
    """Try every part of edgekit on this machine and say how to get what is missing."""
    from dataclasses import asdict

    from edgekit.workflows.doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    for finding in findings:
        mark = styled("ok     ", fg="green") if finding.works else styled("missing", fg="red")
        click.echo(f"{mark}  {finding.part.ljust(12)}  {finding.detail}")
        if finding.hint:
            click.echo(f"{' ' * 23}{finding.hint}")
