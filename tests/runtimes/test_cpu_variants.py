"""Choosing among llama.cpp's builds for processors: real small libraries, hostile choice files.

The last part runs every variant of the real cross-compiled wheel, where one was built.
"""

from __future__ import annotations

import json
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit.artifact import Artifact
from edgekit.errors import EngineFailure
from edgekit.progress import NoProgress
from edgekit.workflows.bundle.llama_wheel_pack import DIST_INFO
from runtimes import cpu_variants, trial, tuning
from runtimes.cpu_variants import Choice, Variant, pick, read_choice, runnable, write_choice
from runtimes.first_start import first_start
from runtimes.load import load
from runtimes.trial import Timing, Trial
from tests.llama_wheels import built_wheel
from tests.real_model import real_gguf

CHOICE = Choice("haswell", ("zen4",), {"gguf": 3, "onnx": 2})


@pytest.fixture
def compiler() -> str:
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return name
    pytest.skip("no C compiler here")


def library(path: Path, compiler: str, source: str) -> Path:
    text = path.with_suffix(".c")
    text.write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(path), str(text)], check=True)
    text.unlink()
    return path


def variants(*names: str) -> list[Variant]:
    return [Variant(name, Path(name), 100 - place) for place, name in enumerate(names)]


def test_only_files_with_a_score_are_runnable_and_the_highest_is_first(
    tmp_path: Path, compiler: str
) -> None:
    for name, score in (("slow", 1), ("fast", 9), ("foreign", 0)):
        source = f"int ggml_backend_score(void) {{ return {score}; }}"
        library(tmp_path / f"libggml-cpu-{name}.so", compiler, source)
    library(tmp_path / "libggml-cpu-mute.so", compiler, "int nothing;")
    (tmp_path / "libggml-cpu-damaged.so").write_bytes(b"\x7fELF and no more")
    library(tmp_path / "libggml-cpu.so", compiler, "int ggml_backend_score(void) { return 5; }")
    assert [(v.name, v.score) for v in runnable(tmp_path)] == [("fast", 9), ("slow", 1)]


def test_a_variant_needs_the_system_too(
    tmp_path: Path, compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "int ggml_backend_score(void) { return 9; }"
    library(tmp_path / "libggml-cpu-skylakex.so", compiler, source)
    monkeypatch.setattr(cpu_variants, "_cpuinfo", lambda: {"flags": ("avx avx2",)})
    assert runnable(tmp_path) == []
    monkeypatch.setattr(cpu_variants, "_cpuinfo", lambda: {"flags": ("avx avx2 avx512f",)})
    assert [v.name for v in runnable(tmp_path)] == ["skylakex"]


def test_the_choice_is_taken_unless_it_cannot_run_or_is_broken() -> None:
    three = variants("a", "b", "c")
    assert pick(three, Choice()) == three[0]
    assert pick(three, Choice("c")) == three[2]
    assert pick(three, Choice("gone")) == three[0]
    assert pick(three, Choice("", ("a",))) == three[1]
    assert pick(three, Choice("a", ("a", "b"))) == three[2]
    assert pick(three, Choice("", ("a", "b", "c"))) is None
    assert pick(three, Choice("c"), "b") == three[1]
    assert pick(three, Choice("c"), "gone") is None


def test_a_choice_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "engine.json"
    write_choice(path, CHOICE, {"gguf": []})
    assert read_choice(path) == CHOICE


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"made_for": "another processor"},
        {"variant": "../../etc/x"},
        {"variant": 7},
        {"variant": "x" * 65},
        {"broken": "zen4/.."},
        {"broken": [["a"]]},
        {"threads": {"gguf": 0}},
        {"threads": {"gguf": 10**9}},
        {"threads": {"gguf": True}},
        {"threads": {"gguf": "2"}},
        {"threads": [1]},
        {"threads": None},
    ],
)
def test_a_choice_that_makes_no_sense_is_no_choice(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "engine.json"
    write_choice(path, CHOICE, {})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_choice(path) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[]", b"null", b"{}", b"[" * 50_000, b" " * (1 << 20)],
    ids=["empty", "no text", "list", "null", "no keys", "deep", "large"],
)
def test_garbage_is_no_choice(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine.json"
    path.write_bytes(content)
    assert read_choice(path) is None
    assert read_choice(tmp_path) is None
    assert read_choice(tmp_path / "absent") is None


def test_the_users_choice_comes_before_the_installations(
    tmp_path: Path, edgekit_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert cpu_variants.current_choice() == Choice()
    write_choice(tmp_path / "share" / "edgekit" / "engine.json", Choice("installed"), {})
    assert cpu_variants.current_choice().variant == "installed"
    write_choice(edgekit_home / "cache" / "engine.json", CHOICE, {})
    assert cpu_variants.current_choice() == CHOICE
    assert cpu_variants.threads_for("onnx") == 2
    assert cpu_variants.threads_for("other") is None


def timings(*turns: float) -> list[Timing]:
    return [Timing("", 0.0, turn / trial.TURN_ANSWER_TOKENS) for turn in turns]


def test_only_a_clear_gain_overrules_the_default() -> None:
    default, other = ("a", 2), ("b", 2)
    assert tuning.choose({default: timings(1.04), other: timings(1.0)}) == default
    assert tuning.choose({default: timings(1.06), other: timings(1.0)}) == other
    assert tuning.choose({default: timings(1.0), other: timings(2.0)}) == default
    assert tuning.choose({default: timings(1.0), other: []}) == default
    assert tuning.choose({default: [], other: timings(1.0)}) == default
    # one busy moment says nothing: medians
    assert tuning.choose({default: timings(1, 9, 1), other: timings(1, 1, 1)}) == default


def test_the_default_number_of_threads_is_tried_first() -> None:
    assert tuning.thread_counts(4)[0] == 4
    assert all(count >= 1 for cores in (1, 2, 8) for count in tuning.thread_counts(cores))


def test_a_child_that_dies_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_CHILD", f"import os; os.kill(os.getpid(), {signal.SIGILL:d})")
    with pytest.raises(trial.IllegalInstruction, match="does not have"):
        trial.run(Trial("gguf", None, None, 1))
    monkeypatch.setattr(trial, "_CHILD", "import sys; sys.exit('out of luck')")
    with pytest.raises(trial.EngineFailure, match="exit code 1; it last said: out of luck"):
        trial.run(Trial("gguf", None, None, 1))


# ---- the real wheel ----------------------------------------------------------------------------

PROMPT = list(range(300, 364))
# ggml asks for the score first, then makes the backend.
ILLEGAL = """
int ggml_backend_score(void) { return 1000000; }
void *ggml_backend_init(void) {
#ifdef __aarch64__
    __asm__ volatile(".inst 0");
#else
    __asm__ volatile("ud2");
#endif
    return 0;
}
"""
SCORE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pathlib import Path
import numpy as np
from edgekit.artifact import Artifact
from runtimes import llama_library
from runtimes.gguf_engine import GgufEngine
variant, folder, out = sys.argv[2:]
llama_library.load(variant or None)
assert llama_library.loaded_variant() == variant, llama_library.loaded_variant()
engine = GgufEngine(Artifact.open(Path(folder)), context_length=256, threads=2)
prompt, answer = json.loads(sys.stdin.read()), []
logits = np.empty((len(prompt), engine.vocabulary_size), np.float32)
engine.score(prompt, logits)
np.save(out, logits)
engine.truncate(0)
row = engine.evaluate(prompt)
while len(answer) < 24:
    answer.append(int(row.argmax()))
    row = engine.evaluate(answer[-1:])
print(json.dumps(answer))
"""


@pytest.fixture(scope="session")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds the unpacked wheel of this machine."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("no llama.cpp wheel can be built for this machine")
    wheel = built_wheel(platform.machine())
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def scored(
    wheel: Path | None, variant: str, artifact: Path, tmp_path: Path, ids: list[int]
) -> tuple[list[int], Any]:
    """Return the greedy answer and the logits after `ids`, computed by one variant in a process."""
    import numpy as np

    path = [str(Path(entry).absolute()) for entry in sys.path]
    if wheel is None:  # the installed build, also while the wheel is first in sys.path
        path = [entry for entry in path if not (Path(entry) / DIST_INFO / "RECORD").is_file()] + [
            sysconfig.get_path("purelib")
        ]
    out = tmp_path / f"{variant or 'native'}.npy"
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCORE, json.dumps(path), variant, str(artifact), str(out)],
        input=json.dumps(ids),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (variant, done.returncode, done.stderr[-2000:])
    return json.loads(done.stdout), np.load(out)


def divergence(of: Any, from_: Any) -> float:
    """Return the mean Kullback-Leibler divergence in nats per position, in float64."""
    import numpy as np

    def log_softmax(logits: Any) -> Any:
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    reference, other = log_softmax(from_), log_softmax(of)
    return float((np.exp(reference) * (reference - other)).sum(axis=1).mean())


@pytest.fixture
def wheel_in_path(wheel_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(wheel_folder))
    return wheel_folder


def test_the_real_wheel_lists_what_runs_here(wheel_in_path: Path) -> None:
    names = trial.variants()
    assert names, "this processor runs none of the variants"
    assert names[-1] in ("x64", "armv8.0_1")  # the one that always runs is the last resort


@pytest.mark.slow
def test_every_variant_computes_the_same(
    wheel_folder: Path, wheel_in_path: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    # Weights in float32: nothing is rounded but the cache, so all must agree to the last bits.
    opened, recipe = Checkpoint.open(tiny_checkpoint), Recipe.of("gguf", "f32")
    artifact = convert(opened, recipe, tmp_path / "artifact", progress=NoProgress()).path
    ids = list(range(40, 104))
    native_answer, native = scored(None, "", artifact, tmp_path, ids)
    for variant in trial.variants():
        answer, logits = scored(wheel_in_path, variant, artifact, tmp_path, ids)
        assert divergence(logits, native) < 1e-6, variant
        assert answer == native_answer, variant


@pytest.mark.model
def test_every_variant_is_as_good_with_the_real_model(
    wheel_folder: Path, wheel_in_path: Path, tmp_path: Path
) -> None:
    from converters.import_gguf import import_gguf

    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    import_gguf(real_gguf(), checkpoint, progress=NoProgress())
    opened = Checkpoint.open(checkpoint)
    artifacts = {
        scheme: convert(opened, Recipe.of("gguf", scheme), tmp_path / scheme, progress=NoProgress())
        for scheme in ("f32", "q8_0")
    }
    _, reference = scored(None, "", artifacts["f32"].path, tmp_path, PROMPT)
    _, native = scored(None, "", artifacts["q8_0"].path, tmp_path, PROMPT)
    limit = 2 * divergence(native, reference)
    for variant in trial.variants():
        # Quantised kernels round the activations to 8 bits: a last bit of difference becomes a
        # step of 1/127 there. So variants differ among each other like the scheme from the model
        # (KL 0.003 to 0.007 on ARM), and none may be worse than that.
        _, logits = scored(wheel_in_path, variant, artifacts["q8_0"].path, tmp_path, PROMPT)
        assert divergence(logits, reference) < limit, variant


@pytest.mark.slow
def test_a_variant_that_cannot_run_is_struck_off(
    wheel_folder: Path, wheel_in_path: Path, tiny_artifacts: Path, tmp_path: Path, compiler: str
) -> None:
    folder = wheel_in_path / "llama_cpp" / "lib"
    future = library(folder / "libggml-cpu-future.so", compiler, ILLEGAL)
    try:
        names = trial.variants()
        assert names[0] == "future"
        with pytest.raises(EngineFailure, match="SIGILL"):
            load(Artifact.open(tiny_artifacts / "gguf"))
        report = first_start(tiny_artifacts, None, 0.0)
        assert report["engines"]["gguf"]["broken"] == ["future"]
        assert report["engines"]["gguf"]["variant"] == names[1]
        assert [answer["tokens"] for answer in report["artifacts"]] == [1, 1]
        load(Artifact.open(tiny_artifacts / "gguf")).close()  # the choice is found again
    finally:
        future.unlink()
