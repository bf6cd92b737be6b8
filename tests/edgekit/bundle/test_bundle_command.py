"""The command line: building by default, JSON with stable keys, exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgekit import store
from edgekit.cli.bundle import bundle
from edgekit.errors import EdgekitError, InputError, UsageError
from tests.edgekit.bundle.workshop import Workshop

Run = Callable[..., Any]


@pytest.fixture
def run(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs `edgekit bundle ...` and returns its JSON document."""
    monkeypatch.setattr("edgekit.workflows.bundle.build.LOCKS", workshop.locks)

    def run(*words: str | Path) -> Any:
        result: Result = CliRunner().invoke(bundle, [*map(str, words), "--json"])
        if isinstance(result.exception, EdgekitError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


def test_a_word_that_is_no_command_is_an_artifact(
    run: Run, workshop: Workshop, gguf: Path, tmp_path: Path
) -> None:
    shutil.copytree(gguf, store.artifacts() / "tiny")
    options = ("--device", "raspberry-pi-5-8gb", "-o", tmp_path / "pi", "--tar")
    built = run("tiny", *options, "--wheelhouse", workshop.wheelhouse)
    assert built["artifacts"] == ["artifacts/tiny"]
    assert built["device"] == "raspberry-pi-5-8gb"
    assert Path(built["tar"]).stat().st_size > built["bytes"]
    assert {wheel["name"] for wheel in built["wheels"]} >= {"edgekit", "llama-cpp-python"}
    assert all(wheel["bytes"] > 0 for wheel in built["wheels"])
    checked = run("verify", built["path"], "--trust", built["public_key"])
    assert checked["trusted"] is True
    assert checked["fingerprint"] == built["fingerprint"]


def test_options_may_come_first(run: Run, workshop: Workshop, gguf: Path, tmp_path: Path) -> None:
    house = ("--wheelhouse", workshop.wheelhouse)
    built = run("--device", "raspberry-pi-4", "-o", tmp_path / "pi", *house, gguf)
    assert built["machine"] == "aarch64"


def test_keygen_makes_the_key_that_signs(
    run: Run, workshop: Workshop, gguf: Path, tmp_path: Path
) -> None:
    made = run("keygen", "-o", tmp_path / "my.pem")
    options = ("--device", "raspberry-pi-4", "-o", tmp_path / "pi", "--key", made["key"])
    built = run(gguf, *options, "--wheelhouse", workshop.wheelhouse)
    assert built["public_key"] == made["public_key"]
    with pytest.raises(InputError, match="never overwritten"):
        run("keygen", "-o", tmp_path / "my.pem")


def test_trust_may_be_a_file(run: Run, workshop: Workshop, gguf: Path, tmp_path: Path) -> None:
    built = workshop.build(gguf)
    (tmp_path / "team.pub").write_text(built.key.public.hex() + "\n")
    assert run("verify", built.path, "--trust", tmp_path / "team.pub")["trusted"] is True
    with pytest.raises(UsageError, match="public key"):
        run("verify", built.path, "--trust", built.path / "install.py")


def test_for_people_the_next_step_is_told(workshop: Workshop, gguf: Path) -> None:
    built = workshop.build(gguf)
    result = CliRunner().invoke(bundle, ["verify", str(built.path)])
    assert result.exit_code == 0
    assert built.fingerprint in result.stdout


def test_every_device_has_pinned_wheels_or_a_sentence() -> None:
    from devices.profile import load_profile, names
    from edgekit.errors import GateError
    from edgekit.workflows.bundle.lock_files import needed, read_lock
    from edgekit.workflows.bundle.targets import LOCKS, Target, default_python, engines_for

    refused = {}
    for name in names():
        profile = load_profile(name)
        try:
            target = Target.of(profile, default_python(profile))
            engines = engines_for(profile, target, ())
            assert needed(read_lock(target.lock_file(LOCKS)), engines)
        except GateError as error:
            refused[name] = error.message
    assert "raspberry-pi-5-8gb" not in refused
    assert all("no bundle can be made" in sentence for sentence in refused.values())


def test_a_torch_artifact_is_refused_with_a_way_on() -> None:
    from devices.profile import load_profile
    from edgekit.errors import GateError
    from edgekit.workflows.bundle.targets import Target, engines_for

    profile = load_profile("laptop-x86")
    with pytest.raises(GateError, match="no bundle brings torch; convert the checkpoint to gguf"):
        engines_for(profile, Target.of(profile, "3.11"), ("torch",))
