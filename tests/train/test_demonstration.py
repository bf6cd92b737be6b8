"""The demonstration: its data set is honest and true."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from edgekit.cli import cli
from edgekit.train.configuration import read_configuration
from edgekit.train.duplicates import NearDuplicates, content_hash
from edgekit.train.records import Record, read_chats
from edgekit.workflows.demo_train import CONFIGURATION

ROOT = Path(__file__).parent.parent.parent
FACTS, WAYS = 50, 4
MOST_ALIKE = 0.75


def records() -> tuple[list[Record], list[Record]]:
    data = read_configuration(CONFIGURATION).data
    (learnt,), (held_out,) = data.files, data.evaluation_files
    return list(read_chats(learnt)), list(read_chats(held_out))


def said(record: Record) -> tuple[str, str]:
    asked, answer = record.content
    assert isinstance(asked, dict)
    assert isinstance(answer, dict)
    return asked["content"], answer["content"]


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w.]+", text.lower()))


def test_each_fact_is_asked_in_four_ways_and_a_fifth_is_held_out() -> None:
    learnt, held_out = (list(map(said, part)) for part in records())
    assert set(Counter(answer for _, answer in learnt).values()) == {WAYS}
    assert len(learnt) == FACTS * WAYS
    assert sorted({answer for _, answer in learnt}) == sorted(answer for _, answer in held_out)
    assert len({question for question, _ in learnt + held_out}) == FACTS * (WAYS + 1)
    assert max(len(answer.split()) for _, answer in held_out) <= 12


def test_a_held_out_question_has_other_words_than_those_that_are_learnt() -> None:
    learnt, held_out = records()
    seen = {content_hash(said(record)[0]) for record in learnt}
    near = NearDuplicates()
    for record in learnt:
        near.add(said(record)[0])
    for record in held_out:
        question, answer = said(record)
        assert content_hash(question) not in seen
        assert near.add(question) is None, question
        for other in learnt:
            asked, same = said(other)
            if same == answer:
                left, right = words(question), words(asked)
                assert len(left & right) / len(left | right) < MOST_ALIKE, question


def test_the_answers_are_true() -> None:
    """Against the code where that says it, else against the README."""
    from converters.recipe import Recipe
    from edgekit import errors
    from edgekit.artifact import MANIFEST_NAME
    from edgekit.cli.convert import DEFAULT_RECIPE
    from edgekit.workflows.demo import DEFAULT_SOURCE
    from edgekit.workflows.sources.wheel import KNOWN_WHEELS

    answers = {said(record)[1] for record in records()[1]}
    for answer in answers:
        if found := re.fullmatch(r"Use edgekit ([a-z ]+)\.", answer):
            command: object = cli
            for name in found.group(1).split():
                command = command.commands[name]  # type: ignore[attr-defined]
        elif found := re.fullmatch(r"Add (--[a-z-]+)(\.|, for example \1 \S+\.)", answer):
            options = [o for c in cli.commands.values() for p in c.params for o in p.opts]
            assert found.group(1) in options
    codes = {int(a.split()[2]): a for a in answers if a.startswith("Exit code")}
    assert set(codes) == {0, 1, 2, 3, 4, 5, 6, 130}
    classes = {
        2: errors.UsageError, 3: errors.InputError, 4: errors.MissingExtraError,
        5: errors.GateError, 6: errors.PrivacyError,
    }  # fmt: skip
    assert {code: error.exit_code for code, error in classes.items()} == {n: n for n in classes}
    assert f"The manifest of an artifact is called {MANIFEST_NAME}." in answers
    assert f"The default recipe is {DEFAULT_RECIPE}." in answers
    assert Recipe.named(DEFAULT_RECIPE).format == "gguf"
    model = KNOWN_WHEELS[DEFAULT_SOURCE.removeprefix("pypi:")].model
    assert f"The demo uses {model}." in answers
    readme = (ROOT / "README.md").read_text()
    for words_of_it in (
        "EDGEKIT_HOME", "EDGEKIT_PRIVATE=1", "chats/private.db", "ChaCha20-Poly1305", "Argon2id",
        "python3 install.py", "Ed25519", "Python 3.11 or newer", "edgekit[device]", "Ctrl+R",
        "passphrase cannot be reset", "Apache-2.0",
    ):  # fmt: skip
        assert words_of_it in readme
        assert any(words_of_it in answer for answer in answers), words_of_it
