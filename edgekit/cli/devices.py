"""edgekit devices: this machine, the devices that edgekit knows, and how well it predicts them."""

from __future__ import annotations

import click

from edgekit.cli.output import facts, json_option, print_json, table


@click.command(short_help="Show this machine and the known devices.")
@click.option("--published", is_flag=True, help="Predicted against published speeds, every row.")
@json_option
def devices(published: bool, as_json: bool) -> None:
    """Show what this machine is (memory bandwidth is measured now) and the known profiles."""
    if published:
        _published(as_json)
    else:
        _machines(as_json)


def _machines(as_json: bool) -> None:
    from dataclasses import asdict

    from devices.detect import describe, read_bandwidth_bytes_per_s
    from devices.profile import load_profile, names
    from edgekit.units import format_bytes

    machine = describe()
    bandwidth = read_bandwidth_bytes_per_s()
    profiles = [load_profile(name) for name in names()]
    if as_json:
        this = asdict(machine) | {"bandwidth_bytes_per_s": bandwidth}
        print_json({"this": this, "profiles": [asdict(profile) for profile in profiles]})
        return
    pairs = [
        ("this machine", f"{machine.processor} ({machine.architecture})"),
        ("cores", f"{machine.cores}, {machine.threads} threads"),
        ("memory", format_bytes(machine.memory_bytes)),
        ("bandwidth", f"{bandwidth / 1e9:.1f} GB/s read"),
    ]
    click.echo(facts(pairs) + "\n")
    rows = [
        [
            profile.name,
            profile.machine,
            str(profile.cores),
            format_bytes(profile.usable_memory_bytes),
            f"{profile.memory_bandwidth_gb_per_s:.1f} GB/s",
        ]
        for profile in profiles
    ]
    click.echo(table(["device", "machine", "cores", "usable memory", "bandwidth"], rows))


def _published(as_json: bool) -> None:
    from dataclasses import asdict

    from devices.published import accuracy, compare

    rows = compare()
    medians = accuracy(rows)
    if as_json:
        accuracies = [asdict(item) for item in medians]
        print_json({"rows": [asdict(row) for row in rows], "accuracy": accuracies})
        return
    cells = [
        [
            row.device,
            f"{row.model} {row.scheme}",
            row.figure,
            f"{row.published:.2f}/s",
            f"{row.predicted:.2f}/s",
            f"{row.error:+.0%}",
            "not compared" if row.not_comparable else "fitted" if row.fitted else "",
        ]
        for row in rows
    ]
    click.echo(table(["device", "model", "figure", "published", "predicted", "error", ""], cells))
    for item in medians:
        click.echo(
            f"\n{item.figure}: median error {item.median_error:.0%} of {item.rows} rows, "
            f"{item.median_error_unfitted:.0%} of the {item.unfitted_rows} not fitted on"
        )
    click.echo("\nSources, and why a row is not compared: --json")
