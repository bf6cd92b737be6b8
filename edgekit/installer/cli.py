"""The command line of the installer: parse, call one function, print. Exit codes as edgekit's.

    install.py [--prefix DIR] [--trust HEX_OR_FILE] [--systemd] [--desktop] [--json]
    edgekit-device status|verify|upgrade BUNDLE|rollback|uninstall [--json]

stdout is the result, stderr the narration.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .errors import InstallerError, UsageError
from .install import Options, install
from .narration import Narration, format_bytes
from .outside import UNIT_NAME, Wishes
from .prefix import Prefix, default_prefix
from .remove import rollback, uninstall
from .status import status, verify_installed

INTERRUPTED = 130
_DAMAGED = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    mask = os.umask(0o022)
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except InstallerError as error:
        _complain(error.message, error.hint)
        return error.exit_code
    except OSError as error:
        place = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        _complain(f"the system refuses: {(error.strerror or str(error)).lower()}{place}")
        return _DAMAGED
    except KeyboardInterrupt:
        _complain("interrupted", "run the same command again: it goes on where it was")
        return INTERRUPTED
    finally:
        os.umask(mask)


def _complain(message: str, hint: str = "") -> None:
    print(f"error: {message}" + (f"\n\nhint: {hint}" if hint else ""), file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """Reports like the rest of edgekit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


_COMMANDS = {
    "install": "install the bundle that this file lies in",
    "status": "what is installed",
    "verify": "hash every installed file",
    "upgrade": "install another bundle and keep this version as the previous one",
    "rollback": "go back to the previous version",
    "uninstall": "remove everything but your own files",
}


def _parser(command: str) -> _Parser:
    program = "install.py" if command == "install" else f"edgekit-device {command}"
    parser = _Parser(prog=program, description=_COMMANDS[command], allow_abbrev=False)
    if command == "upgrade":
        parser.add_argument("bundle", metavar="BUNDLE", help="the folder of the new bundle")
    parser.add_argument(
        "--prefix",
        type=Path,
        default=None,
        help="the installation's folder (default: /opt/edgekit, or ~/.local/opt/edgekit)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    if command in ("install", "upgrade"):
        _add_install_options(parser)
    return parser


def _add_install_options(parser: _Parser) -> None:
    add = parser.add_argument
    add("--trust", default="", metavar="HEX_OR_FILE", help="the key that the bundle must be of")
    add("--systemd", action="store_true", help="write a unit that verifies the files at boot")
    add("--desktop", action="store_true", help="write a desktop entry that opens the chat")
    add(
        "--systemd-folder", type=Path, metavar="DIR", help="where units are, if not the usual place"
    )
    add("--desktop-folder", type=Path, metavar="DIR", help="where entries are, if elsewhere")
    add("--no-compile", action="store_true", help="install sooner, and start slower")
    add(
        "--first-start-timeout",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="how long the first answers may take (default: 1800)",
    )


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help") and _is_installed():
        print("edgekit-device: what to do with an installed edgekit\n")
        print("\n".join(f"  {name:10} {what}" for name, what in list(_COMMANDS.items())[1:]))
        return 0
    command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "install"
    if command not in _COMMANDS:
        raise UsageError(f"there is no command {command!r:.40}", f"known: {', '.join(_COMMANDS)}")
    options = _parser(command).parse_args(arguments)
    prefix = Prefix((options.prefix or default_prefix()).expanduser().absolute())
    facts = _call(command, options, prefix, Narration())
    if options.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
    else:
        _print(command, facts)
    return _DAMAGED if command == "verify" and facts["current"]["faults"] else 0


def _is_installed() -> bool:
    """Return whether this copy lies in an installed version, not in a bundle."""
    return (Path(__file__).resolve().parent.parent / "installed.json").is_file()


def _call(
    command: str, options: argparse.Namespace, prefix: Prefix, narration: Narration
) -> dict[str, Any]:
    if command == "status":
        return status(prefix)
    if command == "verify":
        return verify_installed(prefix, narration)
    if command == "rollback":
        return rollback(prefix, narration)
    if command == "uninstall":
        return uninstall(prefix, narration)
    own_bundle = Path(__file__).resolve().parent.parent
    bundle = Path(options.bundle) if command == "upgrade" else own_bundle
    return install(bundle.absolute(), prefix, _options(options), narration)


def _options(options: argparse.Namespace) -> Options:
    wishes = Wishes(
        systemd=options.systemd,
        desktop=options.desktop,
        systemd_folder=options.systemd_folder and options.systemd_folder.absolute(),
        desktop_folder=options.desktop_folder and options.desktop_folder.absolute(),
    )
    return Options(options.trust, options.first_start_timeout, not options.no_compile, wishes)


def _print(command: str, facts: dict[str, Any]) -> None:
    lines = {
        "install": _installed_lines,
        "upgrade": _installed_lines,
        "status": _status_lines,
        "verify": _verify_lines,
        "rollback": _rollback_lines,
        "uninstall": _uninstall_lines,
    }[command](facts)
    print("\n".join(lines))


def _rollback_lines(facts: dict[str, Any]) -> list[str]:
    return [f"current is version {facts['id']} again"]


def _uninstall_lines(facts: dict[str, Any]) -> list[str]:
    return [f"edgekit is removed from {facts['prefix']}"]


def _installed_lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"edgekit {facts['edgekit']} with {facts['name']} is installed: version {facts['id']}"]
    lines.append(f"signed by the key with the fingerprint {facts['fingerprint']}")
    lines += [f"wrote {path}" for path in facts["outside"]]
    if any(path.endswith(UNIT_NAME) for path in facts["outside"]):
        user = "" if os.geteuid() == 0 else "--user "
        lines.append(f"to check the files at each boot: systemctl {user}enable {UNIT_NAME}")
    lines.append(f"try: {facts['program']} chat")
    return lines


def _status_lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"prefix    {facts['prefix']}"]
    for link in ("current", "previous"):
        version = facts[link]
        if version is None:
            lines.append(f"{link:9} none")
        elif "fault" in version:
            lines.append(f"{link:9} {version['id']}: {version['fault']}")
        else:
            what = f"edgekit {version['edgekit']}, {version['name']} for {version['device']}"
            lines.append(f"{link:9} {version['id']}: {what}, {format_bytes(version['bytes'])}")
    lines += [f"trusted   {key}" for key in facts["trusted"]]
    lines += [
        f"leftover  {name} (the next install or rollback removes it)" for name in facts["leftovers"]
    ]
    return lines


def _verify_lines(facts: dict[str, Any]) -> list[str]:
    lines = []
    for link in ("current", "previous"):
        if facts[link] is not None:
            checked = facts[link]
            state = f"{len(checked['faults'])} faults" if checked["faults"] else "right"
            count = f"{checked['files']} files, {format_bytes(checked['bytes'])}"
            lines.append(f"{link:9} {checked['id']}: {state} ({count})")
            lines += [f"  {fault}" for fault in checked["faults"]]
    return lines
