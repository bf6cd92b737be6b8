"""Wheels: edgekit's own against hatchling's, what wheels say, and the pinned sets."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgekit.workflows.bundle.licences import write_licences
from edgekit.workflows.bundle.lock_files import needed, read_lock
from edgekit.workflows.bundle.own_wheel import pack_own_wheel
from edgekit.workflows.bundle.targets import LOCKS
from edgekit.workflows.bundle.wheel_facts import least_glibc, licence_texts, read_wheel
from tests.edgekit.bundle.wheel_maker import link_distribution, make_wheel

ROOT = Path(__file__).parents[3]
LOCK_FILES = sorted(LOCKS.glob("*.txt"))
# What a lock leaves out on purpose: the server side, and what the device side never imports.
UNWANTED = {
    "torch", "transformers", "pip", "onnxruntime-genai", "huggingface-hub", "requests", "gguf",
    "protobuf", "flatbuffers", "packaging", "pycparser", "matplotlib", "onnx",
}  # fmt: skip


def test_our_own_wheel_is_what_hatchling_builds(tmp_path: Path) -> None:
    ours = pack_own_wheel(tmp_path)
    build = f"from hatchling.build import build_wheel; build_wheel({str(tmp_path / 'h')!r})"
    (tmp_path / "h").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(ours) as mine, zipfile.ZipFile(tmp_path / "h" / ours.name) as theirs:
        assert set(mine.namelist()) == set(theirs.namelist())
        for name in theirs.namelist():
            if not name.endswith(("/RECORD", "/WHEEL", "/METADATA")):
                assert mine.read(name) == theirs.read(name), name


@pytest.mark.slow
def test_our_own_wheel_is_one_that_pip_installs(tmp_path: Path) -> None:
    """pip checks every line of RECORD while it installs."""
    wheel = pack_own_wheel(tmp_path)
    target = tmp_path / "target"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    assert (target / "edgekit" / "installer" / "cli.py").is_file()
    assert (target / "bin" / "edgekit").is_file()


@pytest.mark.parametrize(
    ("filename", "floor"),
    [
        ("a-1-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", (2, 27)),
        ("a-1-cp39-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", (2, 17)),
        ("a-1-cp310-abi3-manylinux2014_aarch64.whl", (2, 17)),
        ("a-1-cp311-cp311-macosx_11_0_arm64.whl", (0, 0)),
        ("a-1-py3-none-any.whl", (0, 0)),
    ],
)
def test_the_glibc_floor_is_read_from_the_tags(filename: str, floor: tuple[int, int]) -> None:
    assert least_glibc(filename) == floor


def test_facts_are_read_from_the_metadata(tmp_path: Path) -> None:
    headers = (
        "License: see the file\n\tof many words\n"
        "Classifier: License :: OSI Approved :: MIT License\n"
        "Requires-Dist: Under_Score.Dot>=1\nRequires-Dist: extra-only; extra == 'x'\n"
        "Requires-Dist: marked (>=2) ; python_version >= '3'\n"
    )
    facts = read_wheel(make_wheel(tmp_path, "one", headers=headers))
    assert facts.requires == ("marked", "under-score-dot")
    assert facts.licence == "MIT License"
    assert not facts.licence_is_spdx
    spdx = read_wheel(make_wheel(tmp_path, "two", headers="License-Expression: MIT AND Zlib\n"))
    assert (spdx.licence, spdx.licence_is_spdx) == ("MIT AND Zlib", True)


def test_licences_are_found_beside_the_code_too_and_code_is_none(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path,
        "one",
        files={
            "one/LICENSE": "a",
            "one/ThirdPartyNotices.txt": "b",
            "one/deep/LICENSE": "c",
            "one/licences.py": "code",
            "one-1.0.dist-info/licenses/AUTHORS": "d",
        },
    )
    assert dict(licence_texts(wheel)) == {
        "LICENSE": b"a",
        "ThirdPartyNotices.txt": b"b",
        "deep-LICENSE": b"c",
        "AUTHORS": b"d",
    }


def test_a_wheel_without_a_licence_text_gets_a_sentence(tmp_path: Path) -> None:
    files = {"one/__init__.py": ""}
    headers = "License: Apache 2.0\n"
    wheel = read_wheel(make_wheel(tmp_path / "w", "one", files=files, headers=headers))
    write_licences(tmp_path / "licences", [wheel], [])
    said = (tmp_path / "licences" / "one-1.0" / "NONE.txt").read_text()
    assert said.endswith("Its metadata states the licence: Apache 2.0.\n")
    apache = (tmp_path / "licences" / "one-1.0" / "Apache-2.0.txt").read_bytes()
    assert apache == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("path", LOCK_FILES, ids=lambda path: path.stem)
def test_a_lock_pins_what_the_constraints_say_and_nothing_unwanted(path: Path) -> None:
    pins = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    constraints = {name.lower().replace("_", "-"): version for name, version in pins}
    wheels = read_lock(path)
    assert {"click", "textual", "cryptography", "numpy", "onnxruntime"} <= {w.name for w in wheels}
    for wheel in wheels:
        assert constraints[wheel.name] == wheel.version
    assert not UNWANTED & {wheel.name for wheel in wheels}
    _, machine, tag = path.stem.split("-")
    for wheel in wheels:
        assert wheel.filename.split("-")[2] in (tag, "py3", "py2.py3") or "abi3" in wheel.filename
        assert wheel.filename.endswith("-any.whl") or machine in wheel.filename


def test_there_is_a_lock_for_every_board_that_is_promised() -> None:
    stems = {path.stem for path in LOCK_FILES}
    for python in ("cp311", "cp313"):
        assert {f"linux-aarch64-{python}", f"linux-x86_64-{python}"} <= stems


ANSWER = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from edgekit.artifact import Artifact
from edgekit.workflows.answer import answer
from runtimes.base import Sampling
import tui.app, tui.store.records, tui.screen, edgekit.cli
for path in sys.argv[3:]:
    sampling = Sampling(temperature=0.0, max_tokens=4)
    print(answer(Artifact.open(Path(path)), "hello", None, sampling, None, threads=1).tokens)
"""


def test_engines_and_chat_run_from_the_pinned_set_alone(
    tmp_path: Path, gguf: Path, onnx: Path
) -> None:
    """The interpreter is isolated and has no site-packages: only what a lock names is there."""
    wheels = needed(read_lock(LOCKS / "linux-x86_64-cp311.txt"), ["gguf", "onnx"])
    packages = tmp_path / "packages"
    packages.mkdir()
    for wheel in wheels:
        link_distribution(wheel.name, packages)
    link_distribution("llama-cpp-python", packages)
    command = [sys.executable, "-I", "-S", "-c", ANSWER, str(ROOT), str(packages)]
    done = subprocess.run([*command, str(gguf), str(onnx)], capture_output=True, text=True)
    assert done.stderr == ""
    assert [int(line) for line in done.stdout.split()] == [4, 4]


def test_a_bundle_for_a_pi_without_the_model_stays_under_60_megabytes(tmp_path: Path) -> None:
    """llama.cpp's wheel is judged by its own test; 8 MB are left for it here."""
    for tag in ("cp311", "cp312", "cp313"):
        wheels = needed(read_lock(LOCKS / f"linux-aarch64-{tag}.txt"), ["gguf", "onnx"])
        own = pack_own_wheel(tmp_path).stat().st_size
        assert sum(wheel.bytes for wheel in wheels) + own < 52_000_000
