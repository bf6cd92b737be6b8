"""edgekit bundle: all that a device without a network needs, in one signed folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import facts, json_option, print_json, table

if TYPE_CHECKING:
    from edgekit.installer.bundle import Bundle
    from edgekit.workflows.bundle.build import BuiltBundle

BUILD = "build"


class BuildsByDefault(click.Group):
    """A group that builds when its first word is none of its commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the building command before arguments that name no command."""
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = [BUILD, *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=BuildsByDefault,
    short_help="Make an offline install for a device.",
    subcommand_metavar="ARTIFACT... --device NAME -o OUT | verify | keygen",
)
def bundle() -> None:
    """Make one signed folder that installs edgekit and ARTIFACTs on a device with no network.

    On the device: python3 install.py. No compiler and no package index are needed there.
    `edgekit bundle build --help` lists the options.
    """


@bundle.command(name=BUILD, short_help="Make a bundle (the default).")
@click.argument("artifacts", nargs=-1)
@click.option("--device", required=True, help="A device's name, or a profile's file.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path))
@click.option("--python", help="The Python on the device, such as 3.11; default: the profile's.")
@click.option(
    "--format", "formats", multiple=True, help="gguf or onnx; default: what the artifacts need."
)
@click.option("--context", type=click.IntRange(min=2), help="Tokens the memory must be enough for.")
@click.option("--key", type=click.Path(path_type=Path), help="A private key made by keygen.")
@click.option(
    "--wheelhouse",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of wheels to take before the cache and the network.",
)
@click.option("--tar", is_flag=True, help="Write OUT.tar beside the folder.")
@click.option("--replace", is_flag=True, help="Replace the bundle if it exists.")
@json_option
def build(
    artifacts: tuple[str, ...],
    device: str,
    out: Path,
    python: str | None,
    formats: tuple[str, ...],
    context: int | None,
    key: Path | None,
    wheelhouse: Path | None,
    tar: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Make a bundle of ARTIFACTs, paths or names in the store, for a device.

    Wheels are fetched for the device, each pinned by its SHA-256; llama.cpp is compiled for it
    once. With no ARTIFACT the bundle brings the engines and the chat alone.
    """
    from devices.profile import load_profile
    from edgekit.cli.progress import Bars
    from edgekit.store import find_artifact
    from edgekit.workflows.bundle.build import build as build_bundle
    from edgekit.workflows.bundle.targets import default_python

    profile = load_profile(device)
    built = build_bundle(
        [find_artifact(artifact) for artifact in artifacts],
        profile,
        out,
        python=python or default_python(profile),
        key=key,
        progress=Bars(),
        formats=formats,
        context_length=context,
        wheelhouse=wheelhouse,
        replace=replace,
        tar=tar,
    )
    _print_built(built, as_json)


@bundle.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--trust", help="The public key that must have signed it: hex, or a file.")
@json_option
def verify(folder: Path, trust: str | None, as_json: bool) -> None:
    """Check the signature and every file of the bundle FOLDER.

    Without --trust any key will do: then compare the fingerprint with the builder's.
    """
    from edgekit.cli.progress import Bars
    from edgekit.workflows.bundle.verify import verify_bundle

    found = verify_bundle(folder, trust, Bars())
    if as_json:
        print_json(_verified(found, trusted=trust is not None))
    else:
        click.echo(facts(_told(found, trusted=trust is not None)))


@bundle.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Default: into the store.")
@json_option
def keygen(out: Path | None, as_json: bool) -> None:
    """Make a key that signs bundles. A file that exists is never overwritten.

    Keep the private key; give the public key or its fingerprint to whoever installs.
    """
    from edgekit.workflows.bundle.keys import default_key, fingerprint, make_key

    key = make_key(out or default_key())
    document = {
        "key": str(key.path),
        "public_key": key.public.hex(),
        "fingerprint": fingerprint(key.public),
    }
    _print(document, as_json)


def _print(document: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        click.echo(facts([(name.replace("_", " "), text) for name, text in document.items()]))


def _verified(found: Bundle, *, trusted: bool) -> dict[str, Any]:
    manifest = found.manifest
    return {
        "path": str(found.folder),
        "id": found.id,
        "name": manifest.name,
        "device": manifest.device,
        "machine": manifest.machine,
        "python": manifest.python,
        "files": len(manifest.files),
        "bytes": sum(file.bytes for file in manifest.files),
        "fingerprint": found.fingerprint,
        "trusted": trusted,
    }


def _told(found: Bundle, *, trusted: bool) -> list[tuple[str, str]]:
    from edgekit.units import format_bytes

    manifest = found.manifest
    size = format_bytes(sum(file.bytes for file in manifest.files))
    trust = "yes, the key is the one of --trust"
    return [
        ("bundle", f"{found.folder}: {manifest.name}, {found.id}"),
        ("for", f"{manifest.device}: {manifest.machine}, Python {manifest.python}"),
        ("files", f"{len(manifest.files)}, {size}, each as it was signed"),
        ("signed by", found.fingerprint),
        ("trusted", trust if trusted else "not asked: compare the line above with the builder's"),
    ]


def _print_built(built: BuiltBundle, as_json: bool) -> None:
    manifest = built.manifest
    if built.key.made:
        click.echo(f"a key that signs bundles was made: {built.key.path}; keep it", err=True)
    wheels = [
        {"name": w.name, "version": w.version, "bytes": w.path.stat().st_size} for w in built.wheels
    ]
    if as_json:
        print_json(
            {
                "path": str(built.path),
                "tar": str(built.tar) if built.tar else None,
                "name": manifest.name,
                "device": manifest.device,
                "machine": manifest.machine,
                "python": manifest.python,
                "glibc": list(manifest.glibc),
                "bytes": built.total_bytes,
                "installed_bytes": manifest.installed_bytes,
                "memory_bytes": manifest.memory_bytes,
                "artifacts": list(manifest.artifacts),
                "wheels": wheels,
                "key": str(built.key.path),
                "public_key": built.key.public.hex(),
                "fingerprint": built.fingerprint,
            }
        )
        return
    _print_table(built, wheels)


def _print_table(built: BuiltBundle, wheels: list[dict[str, Any]]) -> None:
    from edgekit.units import format_bytes

    manifest = built.manifest
    artifact_bytes = sum(f.bytes for f in manifest.files if f.path.startswith("artifacts/"))
    rows = [[w["name"], w["version"], format_bytes(w["bytes"])] for w in wheels]
    click.echo(table(["wheel", "version", "size"], rows))
    click.echo()
    glibc = ".".join(map(str, manifest.glibc))
    pairs = [
        ("bundle", str(built.path)),
        ("for", f"{manifest.device}: {manifest.machine}, Python {manifest.python}, glibc {glibc}"),
        (
            "size",
            f"{format_bytes(built.total_bytes)}, {format_bytes(artifact_bytes)} of it artifacts",
        ),
        ("installed", format_bytes(manifest.installed_bytes)),
        ("signed by", built.fingerprint),
        ("next", "carry it to the device; there: python3 install.py"),
    ]
    if built.tar is not None:
        pairs.insert(1, ("archive", str(built.tar)))
    click.echo(facts(pairs))
