"""edgekit bench: how fast an artifact answers on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli.output import facts, json_option, print_json

if TYPE_CHECKING:
    from edgekit.workflows.bench import Bench


@click.command(short_help="Measure load, TTFT, prefill, decode and memory.")
@click.argument("artifact")
@click.option("--prompt-tokens", default=512, show_default=True, type=click.IntRange(1))
@click.option("--answer-tokens", default=64, show_default=True, type=click.IntRange(2))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 1000))
@click.option("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores.")
@click.option("--device", help="Exit 5 if this profile's budget is missed (a name or a file).")
@json_option
def bench(
    artifact: str,
    prompt_tokens: int,
    answer_tokens: int,
    rounds: int,
    threads: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure ARTIFACT from outside its engine; figures are medians over the rounds."""
    from devices.profile import load_profile
    from edgekit.artifact import Artifact
    from edgekit.cli.progress import Bars
    from edgekit.store import find_artifact
    from edgekit.workflows.bench import Workload, enforce, remember
    from edgekit.workflows.bench import bench as bench_artifact

    opened = Artifact.open(find_artifact(artifact))
    profile = None if device is None else load_profile(device)
    workload = Workload(prompt_tokens, answer_tokens, rounds)
    result = bench_artifact(opened, workload, Bars(), threads=threads)
    if workload == Workload() and threads is None:
        remember(opened, result)
    _print(result, as_json)
    if profile is not None:
        enforce(result, profile)


def _print(result: Bench, as_json: bool) -> None:
    from dataclasses import asdict

    from edgekit.units import format_bytes

    if as_json:
        print_json(asdict(result))
        return
    slowest, fastest = result.decode_tokens_per_s_range
    bandwidth = f"{result.bandwidth_bytes_per_s / 1e9:.1f} GB/s read"
    click.echo(
        facts(
            [
                ("load", f"{result.load_s:.2f} s"),
                ("TTFT", f"{result.ttft_s:.3f} s for {result.prompt_tokens} tokens"),
                ("prefill", f"{result.prefill_tokens_per_s:.0f} tokens/s"),
                (
                    "decode",
                    f"{result.decode_tokens_per_s:.1f} tokens/s ({slowest:.1f} to {fastest:.1f})",
                ),
                ("peak memory", format_bytes(result.peak_rss_bytes)),
                ("roofline", f"{result.roofline_share:.0%} of {bandwidth}"),
                ("threads", f"{result.threads}"),
            ]
        )
    )
