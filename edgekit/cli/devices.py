"""edgekit devices: this machine, and the devices that edgekit knows."""

from __future__ import annotations

import click

from edgekit.cli.output import facts, json_option, print_json, table


@click.command(short_help="Show this machine and the known devices.")
@json_option
def devices(as_json: bool) -> None:
    """Show what this machine is (memory bandwidth is measured now) and the known profiles."""
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
