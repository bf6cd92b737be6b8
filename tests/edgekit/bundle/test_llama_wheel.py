"""The cross-compiled wheel of llama.cpp: its parts without a compiler; the whole (marker arm)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgekit.errors import GateError, InputError, PrivacyError, UsageError
from edgekit.progress import NoProgress
from edgekit.workflows.bundle import llama_wheel as module
from edgekit.workflows.bundle.llama_wheel import llama_wheel
from edgekit.workflows.bundle.llama_wheel_build import COMPILER
from edgekit.workflows.bundle.llama_wheel_check import check, library_needs
from edgekit.workflows.bundle.llama_wheel_pack import LIBRARIES, pack
from edgekit.workflows.bundle.llama_wheel_source import choose_variants
from edgekit.workflows.bundle.llama_wheel_targets import TARGETS, WheelTarget
from tests.llama_wheels import built_wheel

BUILD_FILE = """\
ggml_add_backend(CPU)

if (GGML_CPU_ALL_VARIANTS)
    ggml_add_cpu_backend_variant(everything)
elseif (GGML_CPU)
    ggml_add_cpu_backend_variant_impl("")
endif()
"""


def native_library() -> Path:
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        pytest.skip("llama-cpp-python is not installed")
    folder = Path(spec.origin).parent / "lib"
    if not (folder / "libllama.so").is_file():
        pytest.skip("llama.cpp is no ELF library here")
    return folder / "libllama.so"


def test_an_unknown_machine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'vax'") as caught:
        llama_wheel("vax", NoProgress())
    assert "aarch64 and x86_64" in caught.value.hint


def test_privacy_mode_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    monkeypatch.setenv("EDGEKIT_PRIVATE", "1")
    with pytest.raises(PrivacyError):
        llama_wheel("aarch64", NoProgress())


def test_the_build_file_gets_exactly_our_variants(tmp_path: Path) -> None:
    file = tmp_path / "CMakeLists.txt"
    file.write_text(BUILD_FILE)
    choose_variants(file, TARGETS["aarch64"])
    text = file.read_text()
    ours = text[text.index("VARIANTS") : text.index("elseif (FALSE)")]
    assert re.findall(r"variant\((\S+?)[ )]", ours) == list(TARGETS["aarch64"].variants)
    assert "armv8.6_0 DOTPROD FP16_VECTOR_ARITHMETIC MATMUL_INT8)" in ours


def test_a_build_file_without_the_list_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "CMakeLists.txt"
    file.write_text("project(x)\n")
    with pytest.raises(InputError, match="no list"):
        choose_variants(file, TARGETS["x86_64"])


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("-c -march=armv8-a x.c", "-mcpu=generic -c x.c"),
        (
            "-mfp16-format=ieee -c -march=armv8.6-a+dotprod+fp16+sve+i8mm+sve2 x.c",
            "-mcpu=generic+v8_2a+dotprod+fullfp16+sve+i8mm+sve2 -c x.c",
        ),
        ("-march=armv8.2-a+dotprod x.o -o x", "x.o -o x"),  # links: one processor for all
        ("-c -mavx2 -mfma x.c", "-c -mavx2 -mfma x.c"),
    ],
)
def test_the_compiler_script_speaks_zigs_language(tmp_path: Path, given: str, passed: str) -> None:
    zig = tmp_path / "zig"
    zig.write_text('#!/bin/sh\necho "$@"\n')
    zig.chmod(0o755)
    script = tmp_path / "cc"
    text = COMPILER.replace("{zig}", str(zig)).replace("{command}", "cc")
    script.write_text(text.replace("{triple}", "aarch64-linux-gnu.2.27"))
    said = subprocess.run(
        ["sh", script, *given.split()], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == f"cc -target aarch64-linux-gnu.2.27 -O3 {passed}".split()


def test_needs_are_read_as_readelf_reads_them() -> None:
    readelf = shutil.which("readelf") or shutil.which("llvm-readelf")
    if readelf is None:
        pytest.skip("no readelf here")
    library = native_library()
    needs = library_needs(library.read_bytes(), library.name)
    command = [readelf, "--wide", "-d", "-V", str(library)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert needs.files == tuple(re.findall(r"\(NEEDED\).*\[(.*)\]", said))
    section = said[said.index(".gnu.version_r") :]
    assert sorted(needs.versions) == sorted(re.findall(r"Name: ([A-Z]\S+)", section))
    assert needs.glibc >= (2, 17)


@pytest.mark.parametrize("cut", [0, 4, 40, 63, 64, 4096, -200])
def test_a_cut_library_is_refused(cut: int) -> None:
    data = native_library().read_bytes()[:cut]
    with pytest.raises(InputError, match="no 64-bit ELF"):
        library_needs(data, "cut.so")


def packed(tmp_path: Path, libraries: dict[str, bytes], target: WheelTarget) -> Path:
    source = tmp_path / "source"
    for name in ("llama_cpp/__init__.py", "LICENSE.md", "PKG-INFO", "vendor/llama.cpp/LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(f"# {name}\n")
    metadata = "Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.3.36\n"
    (source / "PKG-INFO").write_text(metadata)
    licences = source / "vendor/llama.cpp/licenses"
    licences.mkdir(exist_ok=True)
    (licences / "LICENSE-jsonhpp").write_text("MIT\n")
    paths = []
    for name, data in libraries.items():
        (source / name).write_bytes(data)
        paths.append(source / name)
    return pack(source, paths, {}, target, tmp_path)


def test_a_wheel_is_the_same_bytes_twice_and_pip_can_read_it(tmp_path: Path) -> None:
    target = WheelTarget("x86_64", 62, {})
    first, second = tmp_path / "a", tmp_path / "b"
    wheels = []
    for folder in (first, second):
        folder.mkdir()
        wheels.append(packed(folder, {"libllama.so": b"x" * 1000}, target))
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet"]
    command += ["--target", str(tmp_path / "installed"), "--disable-pip-version-check"]
    subprocess.run([*command, str(wheels[0])], check=True)
    assert (tmp_path / "installed" / LIBRARIES / "libllama.so").read_bytes() == b"x" * 1000


def test_a_library_that_breaks_the_tag_is_refused(tmp_path: Path) -> None:
    native = native_library().with_name("libggml.so").read_bytes()
    names = ("libggml-base.so", "libggml.so", "libllama.so")
    wheel = packed(tmp_path, dict.fromkeys(names, native), WheelTarget("x86_64", 62, {}))
    foreign = r"libgomp|libstdc|glibc|ELF machine|looks for its neighbours"
    with pytest.raises(GateError, match=foreign):
        check(wheel, WheelTarget("x86_64", 62, {}))
    with pytest.raises(GateError, match="ELF machine"):
        check(wheel, WheelTarget("x86_64", 2, {}))
    with pytest.raises(InputError, match="no whole wheel"):
        check(wheel, WheelTarget("x86_64", 62, {"haswell": ()}))


def test_a_changed_wheel_is_noticed(tmp_path: Path) -> None:
    target = WheelTarget("x86_64", 62, {})
    wheel = packed(tmp_path, {"libllama.so": b"x" * 1000}, target)
    changed = tmp_path / "changed.whl"
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"y" * 1000 if name.endswith(".so") else old.read(name))
    with pytest.raises(InputError, match="does not match its RECORD"):
        check(changed, target)
    changed.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(InputError, match="no whole wheel"):
        check(changed, target)


def test_the_cache_key_follows_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    tools = module.Toolchain.find()
    before = module._key(TARGETS["aarch64"], tools)
    assert before == module._key(TARGETS["aarch64"], tools)
    assert before != module._key(TARGETS["x86_64"], tools)
    monkeypatch.setitem(module.OPTIONS, "GGML_OPENMP", "ON")
    assert before != module._key(TARGETS["aarch64"], tools)


# Ten minutes of processor time each; the boards' tests need the one for ARM in any case.
BUILT = list(TARGETS) if "EDGEKIT_TEST_EVERY_WHEEL" in os.environ else ["aarch64"]


@pytest.mark.arm
@pytest.mark.parametrize("machine", BUILT)
def test_the_real_wheel_is_small_and_names_no_path_of_the_builder(machine: str) -> None:
    wheel = built_wheel(machine, build=True)
    target = TARGETS[machine]
    check(wheel, target)
    assert wheel.stat().st_size < 8_000_000
    with zipfile.ZipFile(wheel) as archive:
        for name in target.libraries:
            data = archive.read(f"{LIBRARIES}/{name}")
            assert b"/llama_cpp_python-" not in data, f"{name} names the folder of its build"
            assert library_needs(data, name).glibc <= (2, 27)
