"""Records of the understanding tasks: what is right is read, what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.entities import Entity
from edgekit.errors import InputError
from edgekit.train.heads.records import find_labels, read_classes, read_entities, read_pairs

from .conftest import class_records, entity_records, pair_records, write_lines


def test_records_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    write_lines(file, class_records(5))
    assert [(r.line, r.text, r.label) for r in read_classes(file)] == [
        (n, d["text"], d["label"]) for n, d in enumerate(class_records(5), 1)
    ]
    write_lines(file, entity_records(5))
    assert [[vars_of(e) for e in r.entities] for r in read_entities(file)] == [
        d["entities"] for d in entity_records(5)
    ]
    write_lines(file, pair_records(5))
    assert [(r.text, r.target) for r in read_pairs(file)] == [
        (d["source"], d["target"]) for d in pair_records(5)
    ]


def vars_of(entity: Entity) -> dict[str, object]:
    return {"start": entity.start, "end": entity.end, "label": entity.label}


def test_entities_are_put_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    write_lines(file, [{"text": "abcdef", "entities": [
        {"start": 4, "end": 6, "label": "B"}, {"start": 0, "end": 4, "label": "A"},
    ]}])  # fmt: skip
    (record,) = read_entities(file)
    assert record.entities == (Entity(0, 4, "A"), Entity(4, 6, "B"))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"label": "x"}', "'text' is missing, not a text"),
        ('{"text": " ", "label": "x"}', "'text' is ' ', not a text"),
        ('{"text": "a", "label": 3}', "line 2: 'label' is 3, not a short text"),
        ('{"text": "a"}', "'label' is missing"),
        ('{"text": "a", "label": ""}', "'label' is '', not a short text"),
        ('{"text": "a", "label": "x\\u001b[2J"}', "not a short text"),
        ('{"text": "a", "label": "x", "lable": "y"}', "has the key 'lable': only text and label"),
        ('{"text": "\\ud800", "label": "x"}', "half a character"),
        ("[]", "not a JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_a_bad_record_of_classes_is_named(tmp_path: Path, line: str, why: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"text": "fine", "label": "x"}}\n{line}\n')
    with pytest.raises(InputError, match=rf"a\.jsonl, line 2.*{why}|{why}") as caught:
        list(read_classes(file))
    assert "line 2" in caught.value.message


@pytest.mark.parametrize(
    ("entities", "why"),
    [
        ("3", "'entities' is 3, not a list"),
        ('[{"start": 0, "end": 5}]', "entity 1 is .* not an object with start, end and label"),
        ('[{"start": 0, "end": 7, "label": "A"}]', "from 0 to 7, which is no part of the 6 char"),
        ('[{"start": -1, "end": 2, "label": "A"}]', "from -1 to 2"),
        ('[{"start": 2, "end": 2, "label": "A"}]', "from 2 to 2"),
        ('[{"start": true, "end": 2, "label": "A"}]', "from True to 2"),
        ('[{"start": 2, "end": 3, "label": "A"}]', "nothing but white space"),
        ('[{"start": 0, "end": 1, "label": null}]', "entity 1: 'label' is None"),
        (
            '[{"start": 3, "end": 5, "label": "A"}, {"start": 0, "end": 4, "label": "B"}]',
            "from 0 to 4 and from 3 to 5 overlap",
        ),
    ],
)
def test_a_bad_entity_is_named(tmp_path: Path, entities: str, why: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"text": "ab cde", "entities": {entities}}}\n')
    with pytest.raises(InputError, match=rf"a\.jsonl, line 1: .*{why}"):
        list(read_entities(file))


def test_a_bad_pair_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"source": "a", "target": "b"}\n{"source": "a"}\n')
    with pytest.raises(InputError, match=r"line 2: 'target' is missing"):
        list(read_pairs(file))


def test_labels_are_those_of_all_files_in_sorted_order(tmp_path: Path) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    write_lines(files[0], [{"text": "x", "label": "z"}])
    write_lines(files[1], [{"text": "y", "label": "a"}])
    assert find_labels("classes", files) == ["a", "z"]
    assert find_labels("pairs", files) == []
    with pytest.raises(InputError, match=r"only the label 'z': nothing to tell"):
        find_labels("classes", files[:1])
    write_lines(files[0], [{"text": "x", "entities": []}])
    with pytest.raises(InputError, match="no entity"):
        find_labels("entities", files[:1])


def test_a_label_for_each_record_is_no_label(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "x", "label": f"{n}"} for n in range(501)])
    with pytest.raises(InputError, match=r"line 501: more than 500 different labels"):
        find_labels("classes", [tmp_path / "a.jsonl"])
