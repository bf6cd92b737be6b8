"""The data set: split by content, nothing on both sides, everything counted, tokens as encoded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from edgekit.errors import InputError
from edgekit.progress import NoProgress
from edgekit.train.configuration import DataSection
from edgekit.train.dataset import DataSet, digest_of, read_data
from edgekit.train.examples import TextEncoder
from edgekit.train.kept_data import load_data, save_data
from edgekit.train.records import read_texts


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


def read(checkpoint: Checkpoint, section: DataSection, folder: Path, context: int = 64) -> DataSet:
    encoder = TextEncoder(checkpoint, context, None)
    return read_data(section, encoder, 640, folder / "kept", NoProgress())


def texts(folder: Path, name: str, lines: list[str]) -> DataSection:
    (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    return DataSection("text", (folder / name,), evaluation_share=0.3)


def contents(part: object) -> set[bytes]:
    return {part.example(i)[0].tobytes() for i in range(len(part.lengths))}


def test_equal_records_never_straddle_and_are_counted(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    unique = [f"record number {n} of the fox" for n in range(60)]
    shouted = [f"RECORD number {n}, of the fox!" for n in range(60)]
    data = read(checkpoint, texts(tmp_path, "a.jsonl", unique + shouted + unique), tmp_path)
    assert data.report.records == 180
    assert data.report.duplicates == 120
    assert data.training.records + data.evaluation.records == 180
    assert data.training.records % 3 == data.evaluation.records % 3 == 0
    assert 0.1 < data.evaluation.records / 180 < 0.5
    assert not contents(data.training) & contents(data.evaluation)
    assert data.report.first_duplicate.endswith("line 61 is like " + f"{tmp_path}/a.jsonl, line 1")


def test_the_split_does_not_depend_on_the_order(checkpoint: Checkpoint, tmp_path: Path) -> None:
    lines = [f"record number {n} of the fox" for n in range(40)]
    parts = []
    for name, found in (("a.jsonl", lines), ("b.jsonl", lines[::-1])):
        data = read(checkpoint, texts(tmp_path, name, found), tmp_path)
        parts.append((contents(data.training), contents(data.evaluation)))
    assert parts[0] == parts[1]


def test_what_is_stored_is_what_was_encoded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    lines = ["The quick brown fox jumps over the lazy dog. " * n for n in range(1, 9)]
    section = texts(tmp_path, "a.jsonl", lines)
    data = read(checkpoint, section, tmp_path, context=20)
    encoder = TextEncoder(checkpoint, 20, None)
    wanted = {
        np.array(example.token_ids, dtype=np.int64).tobytes()
        for record in read_texts(section.files[0])
        for example in encoder.examples(record)
    }
    assert contents(data.training) | contents(data.evaluation) == wanted
    for part in (data.training, data.evaluation):
        for i, length in enumerate(part.lengths):
            ids, learnt = part.example(i)
            assert len(ids) == length
            assert not learnt[0]
            assert learnt[1:].sum() == part.targets[i]


def test_no_file_is_left_and_the_digest_is_of_the_content(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    lines = [f"record {n} of the fox" for n in range(20)]
    digests = []
    for name, found in (("a.jsonl", lines), ("b.jsonl", lines), ("c.jsonl", lines[1:])):
        section = texts(tmp_path, name, found)
        read(checkpoint, section, tmp_path)
        digests.append(digest_of(section, NoProgress()))
    assert digests[0] == digests[1] != digests[2]
    assert not list((tmp_path / "kept").iterdir())


def test_what_is_kept_is_what_was_read(checkpoint: Checkpoint, tmp_path: Path) -> None:
    lines = ["The quick brown fox jumps over the lazy dog. " * n for n in range(1, 20)]
    section = texts(tmp_path, "a.jsonl", lines)
    data = read(checkpoint, section, tmp_path, context=20)
    kept = tmp_path / "run"
    assert load_data(kept, section.files) is None
    save_data(kept, data)
    found = load_data(kept, section.files)
    assert found is not None
    assert found.report == data.report
    for one, other in ((data.training, found.training), (data.evaluation, found.evaluation)):
        assert (one.lengths, one.targets, one.records) == (
            other.lengths,
            other.targets,
            other.records,
        )
        everything = range(len(one.lengths))
        assert one.named(everything) == other.named(everything)
        for i in everything:
            for array, same in zip(one.example(i), other.example(i), strict=True):
                assert np.array_equal(array, same)
    (kept / "tokens.bin").write_bytes((kept / "tokens.bin").read_bytes()[:-4])
    assert load_data(kept, section.files) is None


def test_evaluation_files_never_leak(checkpoint: Checkpoint, tmp_path: Path) -> None:
    held = texts(tmp_path, "held.jsonl", ["The fox, held out.", "another one"])
    lines = ["the FOX held out", "something else", "something else"]
    section = replace(texts(tmp_path, "a.jsonl", lines), evaluation_files=held.files)
    data = read(checkpoint, section, tmp_path)
    assert (data.training.records, data.evaluation.records, data.report.leaking) == (2, 2, 1)
    assert data.report.straddling == 0


def test_near_duplicates_on_both_sides_are_counted(checkpoint: Checkpoint, tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(30)]
    held = texts(tmp_path, "held.jsonl", [" ".join(words)])
    lines = [" ".join([*words, "more"]), "something else"]
    section = replace(texts(tmp_path, "a.jsonl", lines), evaluation_files=held.files)
    report = read(checkpoint, section, tmp_path).report
    assert (report.duplicates, report.near_duplicates, report.straddling) == (0, 1, 1)


def test_a_batch_is_named_by_its_lines(checkpoint: Checkpoint, tmp_path: Path) -> None:
    first = texts(tmp_path, "a.jsonl", [f"record {n}" for n in range(40)])
    second = texts(tmp_path, "b.jsonl", ["the lazy dog sleeps"])
    held = texts(tmp_path, "held.jsonl", ["another one"])
    section = replace(first, files=first.files + second.files, evaluation_files=held.files)
    part = read(checkpoint, section, tmp_path).training
    assert part.named([4, 2, 2, 40]) == "a.jsonl lines 3, 5; b.jsonl line 1"
    assert part.named(range(25)).endswith("18, 19, 20 and 5 more")


@pytest.mark.parametrize(
    ("lines", "share", "side"),
    [(["a fox", "the dog"], 1e-9, "evaluation"), (["a fox"], 0.999999999, "training")],
)
def test_an_empty_side_is_an_error(
    checkpoint: Checkpoint, tmp_path: Path, lines: list[str], share: float, side: str
) -> None:
    section = replace(texts(tmp_path, "a.jsonl", lines), evaluation_share=share)
    with pytest.raises(InputError, match=f"none is left for {side}"):
        read(checkpoint, section, tmp_path)


def test_tokens_that_the_model_does_not_know_are_an_error(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    section = texts(tmp_path, "a.jsonl", ["The quick brown fox"])
    with pytest.raises(InputError, match=r"line 1: the tokenizer makes token \d+ of it"):
        read_data(section, TextEncoder(checkpoint, 64, None), 100, tmp_path, NoProgress())


def test_personal_data_is_reported_or_an_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    lines = [f"record {n} of the fox" for n in range(20)]
    section = texts(tmp_path, "a.jsonl", [*lines, "mail me@here.de", *lines, "and you@there.fr"])
    data = read(checkpoint, section, tmp_path)
    assert data.report.personal_data == {"e_mail": {"count": 2, "first": "a.jsonl, line 21"}}
    save_data(tmp_path / "run", data)
    kept = load_data(tmp_path / "run", section.files)
    assert kept is not None
    assert kept.report == data.report
    ignoring = read(checkpoint, replace(section, personal_data="ignore"), tmp_path)
    assert ignoring.report.personal_data == {}
    with pytest.raises(InputError, match=r"a\.jsonl, line 21: there is personal data") as caught:
        read(checkpoint, replace(section, personal_data="error"), tmp_path)
    assert "@" not in caught.value.message + caught.value.hint
