"""Install and upgrade: check everything, stage, prove, switch, prune, in this order.

Nothing outside the staging folder changes before the new version has proved itself, and a run
that is stopped anywhere is finished or swept by the next one.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import smoke
from .bundle import Bundle, open_bundle, verify
from .contents import Contents, Item, contents
from .disk import (
    PROGRAM_MODE,
    locked,
    make_folders,
    remove_file,
    remove_if_empty,
    remove_tree,
    require_links,
    sync_path,
    sync_tree,
    write_atomically,
)
from .errors import BundleError, InstallerError, disk_errors
from .installed import check_version, read_list, write_list
from .machine import check_disk, check_machine, interpreter
from .narration import Narration, format_bytes
from .outside import Wishes, made_folders, remember_folders, write_outside
from .prefix import Prefix, prune, recover, remove_version, switch
from .scripts import DEVICE_SCRIPT, EDGEKIT_SCRIPT
from .stage import LINK_BYTES, Staged, fill, linkable
from .trust import require_trust, trust_key


@dataclass(frozen=True)
class Options:
    """What the command line asks for. `trust` is text or a file; the timeout is in seconds."""

    trust: str = ""
    first_start_timeout_s: float = 1800.0
    compile: bool = True
    wishes: Wishes = field(default_factory=Wishes)


def install(
    bundle_folder: Path, prefix: Prefix, options: Options, narration: Narration
) -> dict[str, Any]:
    """Install a bundle, or switch to it. Returns the facts for --json.

    Raises BundleError, LimitError or UsageError; then the version before is untouched.
    """
    bundle = open_bundle(bundle_folder)
    require_trust(bundle, prefix, options.trust)
    manifest = bundle.manifest
    total = sum(file.bytes for file in manifest.files)
    verify(bundle, narration.counting(f"checking {len(manifest.files)} files", total))
    for note in check_machine(manifest):
        narration.say(note)
    held = contents(bundle, interpreter())
    check_disk(prefix.path, _needed_bytes(prefix, bundle, held), len(held.items))
    made = make_folders(prefix.path)
    try:
        with locked(
            prefix.lock, lambda: narration.say("another installer is at work: waiting")
        ) as lock:
            return _Installation(bundle, held, prefix, options, narration, lock).run(made)
    except InstallerError:
        _remove_unused(prefix, made)
        raise


def _needed_bytes(prefix: Prefix, bundle: Bundle, held: Contents) -> int:
    staged = prefix.staging(bundle.id)
    there = sum(_size(staged / item.path) for item in held.items)
    return max(0, held.disk_bytes - there - linkable(held.items, _Same(prefix)))


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _remove_unused(prefix: Prefix, made: list[Path]) -> None:
    """After a first installation that failed, leave nothing of what it, or a run before, made."""
    made = sorted({*made, *made_folders(prefix)})
    if not made or os.path.lexists(prefix.path / "current") or not prefix.path.is_dir():
        return
    remove_if_empty(prefix.versions)
    if set(os.listdir(prefix.path)) <= {prefix.lock.name, prefix.outside.name}:
        remove_file(prefix.lock)
        remove_file(prefix.outside)
        for folder in reversed(made):
            remove_if_empty(folder)


class _Same:
    """Finds the same file in the versions that are there, by their lists."""

    def __init__(self, prefix: Prefix) -> None:
        self._known: dict[tuple[int, str], Path] = {}
        for name in {prefix.linked("current"), prefix.linked("previous"), *prefix.names()} - {""}:
            self._learn(prefix.version(name))

    def _learn(self, version: Path) -> None:
        try:
            listed = read_list(version)
        except BundleError:
            return
        for path, found in listed.items():
            if found[0] >= LINK_BYTES:
                self._known[found] = version / path

    def __call__(self, item: Item) -> Path | None:
        return self._known.get((item.bytes, item.sha256))


class _Installation:
    """One installation, with the lock held."""

    def __init__(
        self,
        bundle: Bundle,
        held: Contents,
        prefix: Prefix,
        options: Options,
        narration: Narration,
        lock: int,
    ) -> None:
        self.bundle, self.held, self.prefix = bundle, held, prefix
        self.options, self.narration, self.lock = options, narration, lock
        self.staged = Staged()
        self.first_start: dict[str, Any] = {}

    def run(self, made: list[Path]) -> dict[str, Any]:
        before = require_trust(self.bundle, self.prefix, self.options.trust)
        with disk_errors(f"{self.prefix.path} cannot be written"):
            require_links(self.prefix.path)
            remove_file(self.prefix.marker)
            if recover(self.prefix, keep_staging=self.bundle.id):
                self.narration.say("a run before this one was stopped: going on from there")
            remember_folders(self.prefix, made)
            name = self._ready_version() or self._make_version()
            trust_key(self.prefix, self.bundle.public_key, before)
            self._switch(name)
            prune(self.prefix)
            written = write_outside(self.prefix, self.bundle.manifest, self.options.wishes)
        return self._facts(name, written)

    def _ready_version(self) -> str:
        """Return a version of this bundle that is there and right; "" if there is none."""
        for name in self.prefix.names():
            if name.split("-")[0] == self.bundle.id:
                self.narration.say(f"version {name} is there: checking it")
                checked = check_version(self.prefix.version(name), [self.bundle.public_key])
                if not checked.faults:
                    return name
                self.narration.say(f"it is damaged ({checked.faults[0]}): making it anew")
        return ""

    def _make_version(self) -> str:
        staging = self.prefix.staging(self.bundle.id)
        make_folders(staging)
        try:
            self._fill(staging)
            self._prove(staging)
        except (InstallerError, OSError):
            remove_tree(staging)
            raise
        name = self._free_name()
        sync_tree(staging)
        os.rename(staging, self.prefix.version(name))
        sync_path(self.prefix.versions)
        return name

    def _fill(self, staging: Path) -> None:
        total = sum(item.bytes for item in self.held.items)
        counter = self.narration.counting(f"installing {len(self.held.items)} files", total)
        same = _Same(self.prefix)
        self.staged = fill(staging, self.bundle.folder, self.held, same, counter)
        if self.staged.kept_bytes:
            self.narration.say(f"{format_bytes(self.staged.kept_bytes)} were there already")

    def _prove(self, staging: Path) -> None:
        manifest = self.bundle.manifest
        if self.options.compile:
            self.narration.say("compiling")
            smoke.compile_bytecode(staging, manifest.python, self.lock)
        self.narration.say("first start: an answer from each artifact")
        timeout_s = self.options.first_start_timeout_s
        self.first_start = smoke.first_start(staging, manifest, self.lock, timeout_s)
        smoke.seal(staging, manifest.python)
        write_list(staging)

    def _free_name(self) -> str:
        """Return the version's name; a damaged copy that is in use keeps its own until pruned."""
        linked = {self.prefix.linked("current"), self.prefix.linked("previous")}
        names = [self.bundle.id, *(f"{self.bundle.id}-{number}" for number in range(1, 1000))]
        for name in names:
            if name not in linked:
                if os.path.lexists(self.prefix.version(name)):
                    remove_version(self.prefix, name)
                return name
        raise BundleError(f"{self.prefix.versions} is full of copies of {self.bundle.id}")

    def _switch(self, name: str) -> None:
        current, previous = self.prefix.linked("current"), self.prefix.linked("previous")
        self._write_scripts()
        if current != name:
            # A damaged copy of the same bundle is nothing to go back to.
            damaged = current.split("-")[0] == self.bundle.id
            before = self._other(previous if damaged else current, name)
            switch(self.prefix, name, before, "install")

    def _other(self, version: str, name: str) -> str:
        return version if version in self.prefix.names() and version != name else ""

    def _write_scripts(self) -> None:
        folder = self.prefix.path / "bin"
        make_folders(folder)
        for name, data in (("edgekit", EDGEKIT_SCRIPT), ("edgekit-device", DEVICE_SCRIPT)):
            path = folder / name
            if not path.is_file() or path.read_bytes() != data:
                write_atomically(path, data, PROGRAM_MODE)

    def _facts(self, name: str, written: list[str]) -> dict[str, Any]:
        manifest = self.bundle.manifest
        return {
            "prefix": str(self.prefix.path),
            "id": name,
            "name": manifest.name,
            "edgekit": manifest.edgekit,
            "previous": self.prefix.linked("previous") or None,
            "public_key": self.bundle.public_key.hex(),
            "fingerprint": self.bundle.fingerprint,
            "program": str(self.prefix.path / "bin" / "edgekit"),
            "artifacts": [path.split("/")[1] for path in manifest.artifacts],
            "outside": written,
            "first_start": self.first_start,
            **asdict(self.staged),
        }
