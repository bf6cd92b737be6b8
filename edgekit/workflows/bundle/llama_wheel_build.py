"""Compiling llama.cpp for another machine: zig as the C and C++ compiler, cmake, ninja.

zig brings the C library's interface for every glibc and its own C++ library, which is linked in:
what comes out needs nothing on the device but glibc. All three tools are Python packages, the
`bundle` extra. Runs on Linux and macOS.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import EdgekitError, GateError, InputError, UsageError
from edgekit.extras import need
from edgekit.progress import Advance, Progress
from edgekit.workflows.bundle.llama_wheel_targets import WheelTarget

LAST_LINES = 20
LOWEST_PRIORITY = 19
# cmake asks for -march=armv8.2-a+dotprod+fp16 and the like. zig knows the features by LLVM's
# names only. Nothing but the named features on top of 8.2: "armv8.6-a" would mean bfloat16 and
# others too, for which ggml does not ask the processor, and Neoverse V1 is an 8.4.
# Without -c it links: one processor there, and one level of optimisation everywhere, or zig builds
# its C++ library for each of them.
COMPILER = """\
#!/bin/sh
compiles=no
processor=
for argument do
  shift
  case "$argument" in
    -c|-E|-S) compiles=yes; set -- "$@" "$argument" ;;
    -mfp16-format=*) ;;
    -march=armv8-a) processor=generic ;;
    -march=armv8.*) processor=generic+v8_2a$(
      echo "$argument" | sed -e 's/^[^+]*//' -e 's/+fp16/+fullfp16/') ;;
    *) set -- "$@" "$argument" ;;
  esac
done
if [ "$compiles" = yes ] && [ -n "$processor" ]; then
  set -- "-mcpu=$processor" "$@"
fi
exec "{zig}" {command} -target {triple} -O3 "$@"
"""
TOOL = '#!/bin/sh\nexec "{zig}" {command} "$@"\n'
OPTIONS = {
    "CMAKE_SYSTEM_NAME": "Linux",
    "CMAKE_BUILD_TYPE": "Release",
    # One file per library: wheels hold no links, and three copies would be three times the size.
    "CMAKE_PLATFORM_NO_VERSIONED_SONAME": "ON",
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    "CMAKE_SHARED_LINKER_FLAGS": "-s",
    "CMAKE_MODULE_LINKER_FLAGS": "-s",
    "BUILD_SHARED_LIBS": "ON",
    "GGML_NATIVE": "OFF",
    "GGML_BACKEND_DL": "ON",
    "GGML_CPU_ALL_VARIANTS": "ON",
    # libgomp is not on every device, and pip does not notice.
    "GGML_OPENMP": "OFF",
    "GGML_CCACHE": "OFF",
    "LLAMA_BUILD_COMMON": "OFF",
    "LLAMA_BUILD_TOOLS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    # The repository that the build folder happens to lie in is none of the library's business.
    "LLAMA_BUILD_NUMBER": "0",
    "LLAMA_BUILD_COMMIT": "unknown",
    "GIT_EXE": "/bin/false",
    "GIT_EXECUTABLE": "/bin/false",
}
_STEP = re.compile(r"\[(\d+)/(\d+)\] ")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Paths of the tools, and their versions by package name."""

    zig: Path
    cmake: Path
    ninja: Path
    versions: Mapping[str, str]

    @classmethod
    def find(cls) -> Toolchain:
        """Return the tools of this Python environment. Raises MissingExtraError, UsageError."""
        if os.name != "posix":
            raise UsageError("llama.cpp cannot be cross-compiled on Windows; use WSL")
        zig = Path(str(need("ziglang", "bundle").__file__)).parent / "zig"
        cmake = Path(need("cmake", "bundle").CMAKE_BIN_DIR) / "cmake"
        ninja = Path(need("ninja", "bundle").BIN_DIR) / "ninja"
        for path in (zig, cmake, ninja):
            if not os.access(path, os.X_OK):
                raise InputError(
                    f"{path} is not there or cannot be run",
                    hint="pip install --force-reinstall ziglang cmake ninja",
                )
        packages = ("ziglang", "cmake", "ninja")
        return cls(zig, cmake, ninja, {name: importlib.metadata.version(name) for name in packages})

    @property
    def licences(self) -> dict[str, Path]:
        """Return the licence texts of what zig links into the libraries, by a name for each."""
        library = self.zig.parent / "lib"
        parts = ("libcxx", "libcxxabi", "libunwind")
        texts = {f"{part}.txt": library / part / "LICENSE.TXT" for part in parts}
        return {**texts, "zig.txt": self.zig.parent / "LICENSE"}


class Build:
    """One build: `source` is the unpacked archive, `work` an empty folder of its own."""

    def __init__(self, source: Path, work: Path, target: WheelTarget, tools: Toolchain) -> None:
        self._source = source / "vendor" / "llama.cpp"
        self._work = work
        self._target = target
        self._tools = tools
        self._build = work / "build"

    def run(self, progress: Progress) -> list[Path]:
        """Compile, and return the library files. Raises InputError with the compiler's words."""
        self._write_scripts()
        # zig compiles its C++ library for the target in this step.
        with progress.task(f"setting up the compiler for {self._target.machine}", None):
            for _ in self._lines("cmake", self._configure()):
                pass
        self._compile(progress)
        found = {path.name: path for path in self._build.rglob("*.so")}
        missing = [name for name in self._target.libraries if name not in found]
        if missing:
            raise InputError(f"llama.cpp was built, and these files are missing: {missing}")
        return [found[name] for name in self._target.libraries]

    def _write_scripts(self) -> None:
        zig, triple = self._tools.zig, self._target.triple
        scripts = {
            "cc": COMPILER.replace("{command}", "cc"),
            "c++": COMPILER.replace("{command}", "c++"),
            "ar": TOOL.replace("{command}", "ar"),
            "ranlib": TOOL.replace("{command}", "ranlib"),
        }
        for name, text in scripts.items():
            script = self._work / name
            script.write_text(text.replace("{zig}", str(zig)).replace("{triple}", triple))
            script.chmod(0o755)

    def _configure(self) -> list[str]:
        # No path of this machine in the libraries: two builds in two folders are the same.
        flags = f"-ffile-prefix-map={self._source}=."
        options = {
            **OPTIONS,
            "CMAKE_SYSTEM_PROCESSOR": self._target.machine,
            "CMAKE_C_COMPILER": str(self._work / "cc"),
            "CMAKE_CXX_COMPILER": str(self._work / "c++"),
            "CMAKE_AR": str(self._work / "ar"),
            "CMAKE_RANLIB": str(self._work / "ranlib"),
            "CMAKE_MAKE_PROGRAM": str(self._tools.ninja),
            "CMAKE_C_FLAGS": flags,
            "CMAKE_CXX_FLAGS": flags,
        }
        given = [f"-D{name}={value}" for name, value in options.items()]
        places = ("-S", str(self._source), "-B", str(self._build), "-G", "Ninja")
        return [str(self._tools.cmake), *places, *given]

    def _compile(self, progress: Progress) -> None:
        command = [str(self._tools.ninja), "-C", str(self._build), "llama", "ggml"]
        with ExitStack() as stack:
            advance: Advance | None = None
            for line in self._lines("ninja", command):
                if (step := _STEP.match(line)) is None:
                    continue
                if advance is None:  # the first step tells how many there are
                    label = f"compiling llama.cpp for {self._target.machine}"
                    advance = stack.enter_context(progress.task(label, int(step.group(2)), "files"))
                advance(1)

    def _lines(self, name: str, command: Sequence[str]) -> Iterator[str]:
        """Run `command`, yield what it says, and raise InputError if it fails."""
        cache = str(self._work / "zig")
        last: deque[str] = deque(maxlen=LAST_LINES)
        process = subprocess.Popen(  # noqa: S603
            command,
            env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
            cwd=self._work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
        os.setpriority(os.PRIO_PGRP, process.pid, LOWEST_PRIORITY)
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            for line in process.stdout:
                last.append(line.rstrip())
                yield line
            if process.wait() != 0:
                raise self._failure(name, last)
        finally:
            if process.poll() is None:  # interrupted: its compilers end with it
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _failure(self, name: str, last: Sequence[str]) -> EdgekitError:
        said = "\n".join(last)
        if "No space left on device" in said or "NoSpaceLeft" in said:
            return GateError(f"the disk that holds {self._work} is full", hint="free some space")
        return InputError(f"{name} could not build llama.cpp for {self._target.machine}:\n{said}")
