"""The machines that llama.cpp is built for, and the processor generations in each wheel.

Data only. Each variant is one library file of about one megabyte; a device loads one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VERSION = "0.3.36"
# glibc 2.27 is in Debian 10, Ubuntu 18.04 and Raspberry Pi OS of 2019.
GLIBC = (2, 27)


@dataclass(frozen=True, slots=True)
class WheelTarget:
    """A machine as `uname -m` says it, its number in ELF files, and its variants.

    `variants` maps the name of each to the features that ggml's build files know.
    """

    machine: str
    elf_machine: int
    variants: Mapping[str, tuple[str, ...]]

    @property
    def tag(self) -> str:
        """Return the compatibility tag of the wheel."""
        return f"py3-none-manylinux_{GLIBC[0]}_{GLIBC[1]}_{self.machine}"

    @property
    def filename(self) -> str:
        """Return the name of the wheel file."""
        return f"llama_cpp_python-{VERSION}-{self.tag}.whl"

    @property
    def triple(self) -> str:
        """Return the target as zig names it, with the glibc to link against."""
        return f"{self.machine}-linux-gnu.{GLIBC[0]}.{GLIBC[1]}"

    @property
    def libraries(self) -> tuple[str, ...]:
        """Return the names of the library files in the wheel."""
        variants = tuple(f"libggml-cpu-{name}.so" for name in self.variants)
        return ("libggml-base.so", "libggml.so", "libllama.so", *variants)


_DOTPROD_FP16 = ("DOTPROD", "FP16_VECTOR_ARITHMETIC")
_AVX2 = ("SSE42", "AVX", "F16C", "FMA", "AVX2", "BMI2")
_ICELAKE = (*_AVX2, "AVX512", "AVX512_VBMI", "AVX512_VNNI")

# ggml's own list has also: dot products without half precision and SVE without matrix products,
# which no small machine has; SME, for which ggml has no code without KleidiAI (the files are the
# same but for their score). It lacks matrix products without SVE: Snapdragon X, Apple under Linux.
_AARCH64 = {
    "armv8.0_1": (),  # Cortex-A53, A72: Raspberry Pi Zero 2 W, 3, 4
    "armv8.2_2": _DOTPROD_FP16,  # Cortex-A76, A78AE: Raspberry Pi 5, RK3588, Jetson Orin
    "armv8.6_0": (*_DOTPROD_FP16, "MATMUL_INT8"),
    "armv8.6_1": (*_DOTPROD_FP16, "SVE", "MATMUL_INT8"),  # Neoverse V1
    "armv8.6_2": (*_DOTPROD_FP16, "SVE", "MATMUL_INT8", "SVE2"),  # Cortex-A710, Neoverse N2
}
# Without AMD's Piledriver, Ivy Bridge and the servers from Skylake to Sapphire Rapids: they take
# the next one down and lose little.
_X86_64 = {
    "x64": (),
    "sse42": ("SSE42",),  # Celeron, Atom up to Jasper Lake
    "sandybridge": ("SSE42", "AVX"),
    "haswell": _AVX2,  # Intel since 2013, AMD since 2017
    "alderlake": (*_AVX2, "AVX_VNNI"),  # N100, Core of the 12th generation on
    "icelake": _ICELAKE,  # laptops of the 10th and 11th generation
    "zen4": (*_ICELAKE, "AVX512_BF16"),  # AMD since 2022
}

TARGETS = {
    "aarch64": WheelTarget("aarch64", 183, _AARCH64),
    "x86_64": WheelTarget("x86_64", 62, _X86_64),
}
