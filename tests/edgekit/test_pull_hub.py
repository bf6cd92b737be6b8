"""Pulling from a server on this machine that speaks the hub's API, drops and lies on demand."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from converters.checkpoint import Checkpoint
from edgekit import store
from edgekit.errors import InputError, MissingExtraError
from edgekit.progress import Advance
from edgekit.workflows.pull import pull, verify
from edgekit.workflows.sources.hub_client import CHUNK_BYTES, MAX_IDLE_ATTEMPTS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secretSECRETsecret"
PULL = """
import sys
from edgekit.workflows.pull import pull
pulled = pull(sys.argv[1])
print("reused" if pulled.reused else "fetched", pulled.path)
"""


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked for.

    `drop_after` closes the connection after so many bytes of a weights file, `drops` times.
    `pace_s` is the pause after each piece of 64 KiB.
    """

    files: dict[str, bytes]
    port: int = 0
    revisions: set[str] = field(default_factory=lambda: {"main", "v1.0", COMMIT})
    with_hashes: bool = True
    tamper: bool = False
    drop_after: int = 0
    drops: int = 0
    pace_s: float = 0.0
    status: int = 200
    listing: bytes | None = None
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ranges(self, name: str) -> list[str | None]:
        return [r for verb, path, r, _ in self.requests if verb == "GET" and path.endswith(name)]


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def etag(name: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_lfs(name) else git_blob(content)


def sibling(hub: Hub, name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name}
    if hub.with_hashes:
        entry |= {"size": len(content), "blobId": git_blob(content)}
        if is_lfs(name):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 135}
    return entry


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        headers = self.headers
        self.hub.requests.append(
            (self.command, path, headers.get("Range"), headers.get("Authorization"))
        )
        if self.hub.status != 200:
            return self.send(self.hub.status, b"{}")
        if match := re.fullmatch(r"/api/models/org/tiny(?:/revision/(.+))?", path):
            return self.send_listing(match[1])
        if match := re.fullmatch(rf"/org/tiny/resolve/{COMMIT}/(.+)", path):
            return self.send_file(match[1])
        return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_listing(self, revision: str | None) -> None:
        if revision is not None and revision not in self.hub.revisions:
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        siblings = [sibling(self.hub, name, data) for name, data in self.hub.files.items()]
        listing = {
            "id": "org/tiny",
            "sha": COMMIT,
            "tags": ["safetensors", "license:apache-2.0"],
            "siblings": siblings,
        }
        return self.send(200, self.hub.listing or json.dumps(listing).encode())

    def send_file(self, name: str) -> None:
        content = self.hub.files[name]
        first = 0
        if requested := self.headers.get("Range"):
            first = int(re.fullmatch(r"bytes=(\d+)-", requested)[1])  # type: ignore[index]
            if first >= len(content):
                return self.send(416, b"")
        self.send_response(206 if requested else 200)
        self.send_header("ETag", f'"{etag(name, content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        # A client that follows this would leave plain HTTP, and this machine.
        self.send_header("X-Xet-Hash", "ab" * 32)
        self.send_header("X-Xet-Refresh-Route", "/api/models/org/tiny/xet-read-token/main")
        if is_lfs(name):
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", f'"{etag(name, content)}"')
        if requested:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if self.command == "GET":
            self.send_content(name, content[first:])
        return None

    def send_content(self, name: str, content: bytes) -> None:
        if self.hub.tamper and is_lfs(name):
            content = content[:-1] + bytes([content[-1] ^ 1])
        drop = is_lfs(name) and self.hub.drops > 0
        if drop:
            self.hub.drops -= 1
            content = content[: self.hub.drop_after]
        for start in range(0, len(content), 1 << 16):
            self.wfile.write(content[start : start + (1 << 16)])
            time.sleep(self.hub.pace_s)
        if drop:
            self.close_connection = True


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Stay silent when a killed client goes away in the middle."""


@pytest.fixture
def hub(loopback: None, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
    held = Hub(files)
    server = QuietServer(("127.0.0.1", 0), Handler)
    server.hub = held  # type: ignore[attr-defined]
    held.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", held.endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield held
    server.shutdown()
    server.server_close()
    thread.join()


class Steps:
    """A Progress that remembers every step of every task."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[int | None, list[int]]] = {}

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
        steps: list[int] = []
        self.tasks[label] = (total, steps)
        yield steps.append


def start_pull(source: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PULL, source]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kept_bytes() -> int:
    partial = (store.cache() / "hub").rglob("*.incomplete")
    return sum(path.stat().st_size for path in partial)


def test_a_repository_is_pulled_and_recorded(hub: Hub, tiny_checkpoint: Path) -> None:
    hub.files |= {
        "LICENSE": b"terms",
        "model.fp16.bin": b"pickle",
        "onnx/model.onnx": b"another format",
        "original/params.json": b"{}",
    }
    pulled = pull("hf:org/tiny@v1.0")
    assert pulled.path == store.models() / "tiny-v1.0"
    assert Checkpoint.open(pulled.path).digest() == Checkpoint.open(tiny_checkpoint).digest()
    document = json.loads((pulled.path / "edgekit-source.json").read_text())
    assert document["source"] == "hf:org/tiny@v1.0"
    assert document["revision"] == COMMIT
    assert document["licence"] == "apache-2.0"
    recorded = {entry["path"]: entry["sha256"] for entry in document["files"]}
    wanted = {p.name for p in tiny_checkpoint.iterdir()} | {"LICENSE"}
    assert recorded == {name: hashlib.sha256(hub.files[name]).hexdigest() for name in wanted}
    assert not any((store.cache() / "hub").iterdir())


def test_a_second_pull_asks_nobody(hub: Hub) -> None:
    pull("hf:org/tiny")
    hub.requests.clear()
    assert pull("hf:org/tiny").reused
    assert hub.requests == []


def test_a_second_pull_works_with_the_network_cut(hub: Hub) -> None:
    pull("hf:org/tiny")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces are not allowed here")
    command = ["unshare", "-n", sys.executable, "-c", PULL, "hf:org/tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("reused")


def test_a_dropped_connection_is_continued(hub: Hub) -> None:
    hub.drop_after, hub.drops = CHUNK_BYTES + 1000, 3
    pulled = pull("hf:org/tiny")
    verify(pulled.path)
    ranges = hub.ranges("model.safetensors")
    assert ranges == [None, *(f"bytes={n * CHUNK_BYTES}-" for n in (1, 2, 3))]


def kill_in_the_middle(hub: Hub) -> int:
    """Start a pull, kill it while the weights arrive, and return how much of them is kept."""
    hub.pace_s = 0.02
    process = start_pull("hf:org/tiny")
    deadline = time.monotonic() + 60
    while kept_bytes() < CHUNK_BYTES and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    hub.pace_s = 0.0
    return kept_bytes()


def test_the_bar_moves_while_the_hub_delivers(hub: Hub) -> None:
    hub.pace_s = 0.01
    steps = Steps()
    pulled = pull("hf:org/tiny", progress=steps)
    for label in ("downloading org/tiny", "verifying"):
        total, done = steps.tasks[label]
        assert sum(done) == total == pulled.bytes
        assert len(done) >= 4


def test_a_killed_download_is_continued(hub: Hub) -> None:
    kept = kill_in_the_middle(hub)
    assert not (store.models() / "tiny").exists()
    assert CHUNK_BYTES <= kept < len(hub.files["model.safetensors"])
    verify(pull("hf:org/tiny").path)
    assert hub.ranges("model.safetensors") == [None, f"bytes={kept}-"]
    assert os.listdir(store.models()) == ["tiny"]


def test_two_processes_fetch_each_file_once(hub: Hub) -> None:
    hub.pace_s = 0.01
    processes = [start_pull("hf:org/tiny") for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split()[0] for process in processes]
    assert sorted(outputs) == ["fetched", "reused"]
    assert hub.ranges("model.safetensors") == [None]


def test_tampered_weights_are_refused_and_fetched_anew(hub: Hub) -> None:
    hub.tamper = True
    with pytest.raises(InputError, match=r"model\.safetensors does not match the hash"):
        pull("hf:org/tiny")
    assert os.listdir(store.models()) == []
    hub.tamper = False
    verify(pull("hf:org/tiny").path)
    assert hub.ranges("model.safetensors") == [None, None]
    assert hub.ranges("/config.json") == [None]


def test_a_part_that_is_too_long_does_not_stop_the_download(hub: Hub) -> None:
    kill_in_the_middle(hub)
    for part in (store.cache() / "hub").rglob("*.incomplete"):
        part.write_bytes(bytes(len(hub.files["model.safetensors"]) + 1))
    verify(pull("hf:org/tiny").path)


def test_a_connection_that_brings_nothing_is_given_up(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.drop_after, hub.drops = 1000, 10**9
    with pytest.raises(InputError, match="the connection broke off"):
        pull("hf:org/tiny")
    assert len(hub.ranges("model.safetensors")) == MAX_IDLE_ATTEMPTS


def test_a_mirror_without_hashes_is_checked_by_its_headers(hub: Hub) -> None:
    hub.with_hashes = False
    verify(pull("hf:org/tiny").path)
    hub.tamper = True
    with pytest.raises(InputError, match="does not match the hash"):
        pull("hf:org/tiny", name="again")


def test_only_pickled_weights_are_refused_before_any_download(hub: Hub) -> None:
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    with pytest.raises(InputError, match=r"repository org/tiny .* only pytorch_model\.bin"):
        pull("hf:org/tiny")
    assert [path for verb, path, *_ in hub.requests] == ["/api/models/org/tiny"]


def test_a_file_name_that_climbs_is_not_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.files |= {"../../../evil.json": b"{}", "/etc/evil.json": b"{}", "a\\b.json": b"{}"}
    pulled = pull("hf:org/tiny")
    assert not any("evil" in path for _, path, *_ in hub.requests)
    assert not list(store.home().rglob("*evil*"))
    assert verify(pulled.path)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("hf:org/other", "has no model org/other, or it is private"),
        ("hf:org/tiny@v9", "has no revision 'v9'"),
        ("hf:org/..", "is not an address"),
        ("hf:org/a--b", "cannot be a repository's name"),
    ],
)
def test_what_the_hub_does_not_have(hub: Hub, source: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        pull(source)
    assert not store.models().exists() or os.listdir(store.models()) == []


@pytest.mark.parametrize(
    "listing",
    [b"[]", b"{}", b"null", b"<html>", b'{"id": "org/tiny", "siblings": []}',
     b'{"id": "org/tiny", "sha": "../..", "siblings": []}',
     b'{"id": "org/tiny", "sha": 7, "siblings": null}'],
)  # fmt: skip
def test_a_server_that_is_no_hub(hub: Hub, listing: bytes) -> None:
    hub.listing = listing
    with pytest.raises(InputError, match=r"127\.0\.0\.1 (does not answer as|cannot be reached)"):
        pull("hf:org/tiny")


def test_a_refusal_names_the_status(hub: Hub) -> None:
    hub.status = 403
    with pytest.raises(InputError, match="answered 403"):
        pull("hf:org/tiny")


def test_an_unreachable_hub_is_one_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://user:password@127.0.0.1:9")
    with pytest.raises(InputError, match=r"^127\.0\.0\.1 cannot be reached") as caught:
        pull("hf:org/tiny")
    assert "password" not in caught.value.message + caught.value.hint


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.drop_after, hub.drops = 1000, 1
    process = start_pull("hf:org/tiny")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert {authorization for *_, authorization in hub.requests} == {f"Bearer {TOKEN}"}
    assert TOKEN not in out + err
    for path in store.home().rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_without_the_library_the_extra_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError) as caught:
        pull("hf:org/tiny")
    assert "edgekit[convert]" in caught.value.hint
