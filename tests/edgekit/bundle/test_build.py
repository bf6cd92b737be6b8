"""Building bundles: what is in the folder, what is refused, and what an interruption leaves."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import GateError, InputError, PrivacyError, UsageError
from edgekit.installer.bundle import open_bundle, verify
from edgekit.progress import NoProgress
from edgekit.workflows.bundle.verify import verify_bundle
from tests.edgekit.bundle.wheel_maker import locked, make_wheel
from tests.edgekit.bundle.workshop import PROFILE, Workshop

ROOT = Path(__file__).parents[3]


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "bundle.json").read_bytes())


def test_a_bundle_holds_all_that_a_device_needs_and_verifies(
    workshop: Workshop, gguf: Path, onnx: Path
) -> None:
    built = workshop.build(onnx, gguf)
    names = set(content(built.path))
    assert {"install.py", "installer/cli.py", "bundle.json", "bundle.sig", "sbom.cdx.json"} <= names
    assert {"licences/click-8.5.1/LICENSE", "licences/model-gguf/LICENCE.txt"} <= names
    assert {"artifacts/gguf/model.gguf", "artifacts/onnx/model.onnx"} <= names
    assert {wheel.name for wheel in built.wheels} == {
        "click", "edgekit", "jinja2", "llama-cpp-python", "markupsafe", "onnxruntime",
    }  # fmt: skip
    verify(open_bundle(built.path))


def test_the_manifest_says_what_is_on_disk(workshop: Workshop, gguf: Path, onnx: Path) -> None:
    built = workshop.build(onnx, gguf)
    manifest = manifest_of(built.path)
    files = content(built.path)
    listed = {file["path"]: file for file in manifest["files"]}
    assert set(listed) == set(files) - {"bundle.json", "bundle.sig"}
    for name, file in listed.items():
        assert file["bytes"] == len(files[name])
        assert file["sha256"] == hashlib.sha256(files[name]).hexdigest()
    assert manifest["artifacts"] == ["artifacts/onnx", "artifacts/gguf"]
    assert (manifest["machine"], manifest["python"]) == ("aarch64", "3.11")
    assert manifest["glibc"] == [2, 27]  # the highest floor of any wheel, not of any tag
    assert manifest["cpu_features"] == list(PROFILE.least_cpu_features)
    canonical = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert files["bundle.json"] == canonical.encode()


def test_the_installed_size_counts_wheels_unpacked(workshop: Workshop, gguf: Path) -> None:
    built = workshop.build(gguf)
    files = content(built.path)
    unpacked = sum(len(data) for name, data in files.items() if not name.startswith("wheels/"))
    unpacked -= len(files["bundle.json"]) + len(files["bundle.sig"])
    for wheel in built.wheels:
        unpacked += wheel.unpacked_bytes
    assert built.manifest.installed_bytes == unpacked


def test_the_same_parts_and_key_give_the_same_bytes(workshop: Workshop, gguf: Path) -> None:
    first = workshop.build(gguf, out=workshop.folder / "one" / "b", tar=True)
    for wheel in (first.path / "wheels").glob("edgekit-*.whl"):
        with zipfile.ZipFile(wheel) as archive:  # and a clock that goes on would not show
            assert {item.date_time[0] for item in archive.infolist()} == {1980}
    second = workshop.build(gguf, out=workshop.folder / "two" / "b", tar=True)
    assert content(first.path) == content(second.path)
    assert first.tar is not None
    assert second.tar is not None
    assert first.tar.read_bytes() == second.tar.read_bytes()


def test_the_archive_unpacks_to_a_bundle_that_verifies(workshop: Workshop, gguf: Path) -> None:
    built = workshop.build(gguf, tar=True)
    assert built.tar is not None
    with tarfile.open(built.tar) as archive:
        assert {(item.mtime, item.uid, item.uname) for item in archive} == {(0, 0, "")}
        archive.extractall(workshop.folder / "carried")
    verify(open_bundle(workshop.folder / "carried" / "out"))


def test_only_the_engines_that_are_needed_come_along(workshop: Workshop, onnx: Path) -> None:
    built = workshop.build(onnx)
    assert "llama-cpp-python" not in {wheel.name for wheel in built.wheels}
    both = workshop.build(onnx, out=workshop.folder / "both", formats=("gguf", "onnx"))
    assert "llama-cpp-python" in {wheel.name for wheel in both.wheels}


def test_a_bundle_without_artifacts_brings_every_engine(workshop: Workshop) -> None:
    built = workshop.build()
    assert {"llama-cpp-python", "onnxruntime"} <= {wheel.name for wheel in built.wheels}
    assert built.manifest.artifacts == ()
    verify(open_bundle(built.path))


def test_the_server_side_is_not_in_it(workshop: Workshop, gguf: Path, onnx: Path) -> None:
    built = workshop.build(gguf, onnx)
    carried = {wheel.name for wheel in built.wheels}
    assert not carried & {"torch", "transformers", "pip", "onnxruntime-genai", "huggingface-hub"}


def test_a_damaged_artifact_is_refused_and_nothing_is_left(
    workshop: Workshop, gguf: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(gguf, tmp_path / "damaged"))
    data = bytearray((damaged / "model.gguf").read_bytes())
    data[-1] ^= 1
    (damaged / "model.gguf").write_bytes(data)
    with pytest.raises(InputError, match=r"model\.gguf does not match its SHA-256"):
        workshop.build(damaged)
    assert not [path for path in workshop.folder.iterdir() if "out" in path.name]


def test_an_existing_folder_is_refused_unless_it_is_a_bundle_to_replace(
    workshop: Workshop, gguf: Path
) -> None:
    first = workshop.build(gguf)
    with pytest.raises(InputError, match="exists already"):
        workshop.build(gguf)
    second = workshop.build(gguf, replace=True, formats=("gguf", "onnx"))
    assert len(second.wheels) > len(first.wheels)
    verify(open_bundle(second.path))


def test_a_folder_that_is_no_bundle_is_never_replaced(workshop: Workshop, gguf: Path) -> None:
    precious = workshop.folder / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is no bundle"):
        workshop.build(gguf, out=precious, replace=True)
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_two_artifacts_of_one_name_are_refused(
    workshop: Workshop, gguf: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(gguf, tmp_path / "other" / gguf.name.upper()))
    with pytest.raises(UsageError, match="would both be called"):
        workshop.build(gguf, other)
    with pytest.raises(UsageError, match="would both be called"):
        workshop.build(gguf, gguf)


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        ({"engines": ("onnx",)}, "cannot run gguf artifacts from a bundle: its engines are: onnx"),
        ({"platform_tags": ("macosx_14_0_arm64",), "machine": "arm64"}, "Apple's SDK"),
        ({"platform_tags": ("win_amd64",), "machine": "AMD64"}, "runs Windows"),
        ({"machine": "riscv64"}, "no wheels are pinned for linux on riscv64, Python 3.11"),
        ({"glibc": (2, 26)}, "needs glibc 2.27, board has 2.26"),
        ({"usable_memory_bytes": 1_000_000}, "of memory"),
    ],
)
def test_a_device_that_cannot_run_it_is_told_so(
    workshop: Workshop, gguf: Path, profile: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(GateError) as caught:
        workshop.build(gguf, profile=profile)
    assert sentence in caught.value.message
    assert not (workshop.folder / "out").exists()


def test_memory_is_judged_for_the_context_that_will_be_used(workshop: Workshop, gguf: Path) -> None:
    small, large = (
        workshop.build(gguf, out=workshop.folder / str(tokens), context_length=tokens)
        for tokens in (16, 512)
    )
    between = (small.manifest.memory_bytes + large.manifest.memory_bytes) // 2
    assert small.manifest.memory_bytes < between
    tight = {"usable_memory_bytes": between}
    with pytest.raises(GateError, match="with a context of 512 tokens"):
        workshop.build(gguf, profile=tight)
    workshop.build(gguf, profile=tight, context_length=16)


def test_impossible_wishes_are_usage_errors(workshop: Workshop, gguf: Path) -> None:
    with pytest.raises(UsageError, match=r"no bundle can be made for Python 3\.9"):
        workshop.build(gguf, python="3.9")
    with pytest.raises(UsageError, match="is asked to bring only onnx"):
        workshop.build(gguf, formats=("onnx",))


def test_another_llama_than_the_pinned_one_is_refused(workshop: Workshop, gguf: Path) -> None:
    make_wheel(
        workshop.wheelhouse, "llama-cpp-python", "0.3.99", tag="py3-none-manylinux_2_27_aarch64"
    )
    with pytest.raises(InputError, match=r"is llama-cpp-python-0\.3\.99"):
        workshop.build(gguf)


def test_a_wheel_with_another_hash_is_not_taken(
    workshop: Workshop, onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip is asked next, and finds the same wrong wheel: it must refuse it too."""
    make_wheel(workshop.wheelhouse, "click", "8.5.1", files={"click/__init__.py": "evil = 1"})
    only_from(workshop.wheelhouse, monkeypatch)
    with pytest.raises(InputError, match="SHA-256 is not the one edgekit knows"):
        workshop.build(onnx)
    assert not (workshop.folder / "out").exists()


def test_pip_fetches_for_the_target_and_the_cache_serves_the_next_build(
    workshop: Workshop, onnx: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An index with wheels for aarch64 alone: pip on this machine would find none for itself."""
    only_from(workshop.wheelhouse, monkeypatch)
    first = workshop.build(onnx, wheelhouse=None)
    only_from(tmp_path / "nowhere", monkeypatch)
    second = workshop.build(onnx, wheelhouse=None, out=tmp_path / "second")
    assert content(first.path) == content(second.path)


def test_no_network_and_no_wheel_is_told_with_the_count(
    workshop: Workshop, onnx: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    only_from(tmp_path / "empty", monkeypatch)
    with pytest.raises(InputError, match="pip could not fetch the 4 missing wheels"):
        workshop.build(onnx, wheelhouse=None)


def test_private_mode_fetches_nothing(
    workshop: Workshop, onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_PRIVATE", "1")
    with pytest.raises(PrivacyError):
        workshop.build(onnx, wheelhouse=None)


def only_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `folder` the only place where pip looks."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


BUILD_SLOWLY = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest runs behind "&"
sys.path.insert(0, sys.argv[1])
from tests.edgekit.bundle.workshop import Workshop
from edgekit.workflows.bundle import build as module
def hang(*arguments):
    print("signing", flush=True)
    time.sleep(60)
module._sign = hang  # the last step: all files are in the staging folder
Workshop(Path(sys.argv[2])).build(Path(sys.argv[3]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_bundle_and_the_next_one_works(
    workshop: Workshop, gguf: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD_SLOWLY, str(ROOT), str(workshop.folder), str(gguf)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "signing\n"
    process.send_signal(number)
    process.wait(30)
    process.stdout.close()
    assert not (workshop.folder / "out").exists()
    if number == signal.SIGINT:
        assert not (workshop.folder / ".out.partial").exists()
    verify(open_bundle(workshop.build(gguf).path))
    assert not (workshop.folder / ".out.partial").exists()


def test_verify_names_the_key_and_refuses_another_one(workshop: Workshop, gguf: Path) -> None:
    built = workshop.build(gguf)
    found = verify_bundle(built.path, built.key.public.hex(), NoProgress())
    assert found.fingerprint == built.fingerprint
    with pytest.raises(InputError, match="is signed by"):
        verify_bundle(built.path, "ab" * 32, NoProgress())
    with pytest.raises(UsageError, match="64 hex digits"):
        verify_bundle(built.path, "not a key", NoProgress())


def test_verify_refuses_a_changed_bundle(workshop: Workshop, gguf: Path) -> None:
    built = workshop.build(gguf)
    file = built.path / "sbom.cdx.json"
    file.write_bytes(file.read_bytes().replace(b"click", b"clack", 1))
    with pytest.raises(InputError, match="changed or damaged"):
        verify_bundle(built.path, None, NoProgress())


def test_a_lock_line_that_is_none_is_named(workshop: Workshop, gguf: Path) -> None:
    lock = workshop.locks / "linux-aarch64-cp311.txt"
    lock.write_text(lock.read_text() + "click>=8  # anything will do\n")
    with pytest.raises(InputError, match="line 6 is no pinned wheel"):
        workshop.build(gguf)


def test_a_wheel_that_cannot_be_read_is_named(workshop: Workshop, onnx: Path) -> None:
    broken = workshop.wheelhouse / "broken-1.0-py3-none-any.whl"
    broken.write_bytes(b"PK\x03\x04 and no more")
    workshop.write_locks([locked(broken, "chat")])
    with pytest.raises(InputError, match=r"broken-1\.0-py3-none-any\.whl cannot be read"):
        workshop.build(onnx)


def test_the_stub_parses_on_old_pythons_and_sends_them_away_with_a_sentence(
    workshop: Workshop, gguf: Path
) -> None:
    """No such Python is here: 3.6's grammar parses it, and a changed limit refuses this one."""
    built = workshop.build(gguf)
    stub = (built.path / "install.py").read_text()
    ast.parse(stub, feature_version=(3, 6))
    (built.path / "install.py").write_text(stub.replace("LEAST = (3, 9)", "LEAST = (9, 9)"))
    command = [sys.executable, str(built.path / "install.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "this bundle needs Python 3.11" in done.stderr
    assert "Traceback" not in done.stderr
