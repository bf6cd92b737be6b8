"""Greedy parting equals two real greedy generations; answers are matched whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.checkpoint import Checkpoint
from converters.reference import load_tokenizer
from edgekit.certificate import Generation
from edgekit.progress import NoProgress
from edgekit.workflows.certify.greedy import greedy, parted_at
from edgekit.workflows.certify.questions import (
    Question,
    is_right,
    questions,
    score,
    source_answers,
)
from edgekit.workflows.certify.torch_pass import TorchModel, divergence

PROMPT = [5, 30, 41, 7, 99]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> TorchModel:
    return TorchModel(checkpoint)


class Scripted:
    """A model whose most likely next token after n tokens is a given one."""

    def __init__(self, script: list[int]) -> None:
        self._script = script

    def logits(self, token_ids: list[int]) -> np.ndarray:  # type: ignore[type-arg]
        rows = np.zeros((len(token_ids), 640), np.float32)
        for place in range(len(token_ids)):
            rows[place, self._script[min(place, len(self._script) - 1)]] = 9.0
        return rows


def test_greedy_answers_are_those_of_transformers(model: TorchModel, tiny_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    peer = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    ids = peer.generate(
        torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=[639],
        pad_token_id=0, attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
    )  # fmt: skip
    assert model.greedy(PROMPT, 12, [639]) == ids[0, len(PROMPT) :].tolist()


def test_the_place_of_parting(checkpoint: Checkpoint) -> None:
    """The model wants `ids`; the engine wrote them all, or left after two."""
    tokenizer = load_tokenizer(checkpoint)
    text = "The quick brown fox jumps"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    script = [0] * (len(PROMPT) - 1) + list(ids)
    wants = Scripted([*script, 2])
    assert parted_at(wants, tokenizer, PROMPT, text, (), 48) == 48  # type: ignore[arg-type]
    assert parted_at(wants, tokenizer, PROMPT, text, (2,), 48) == 48  # type: ignore[arg-type]
    assert parted_at(wants, tokenizer, PROMPT, text, (3,), 48) == len(ids)  # type: ignore[arg-type]
    other = tokenizer.decode(ids[:2]) + " 12345"
    assert parted_at(wants, tokenizer, PROMPT, other, (), 48) == 2  # type: ignore[arg-type]


def test_another_cut_of_the_same_text_is_no_parting(checkpoint: Checkpoint) -> None:
    """The model spells a word in two tokens where the tokenizer would take one."""
    tokenizer = load_tokenizer(checkpoint)
    text = "The quick brown"
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    place = next(i for i, t in enumerate(whole) if len(tokenizer.decode([t])) > 3)
    piece = tokenizer.decode([whole[place]])
    cut = [tokenizer.encode(p, add_special_tokens=False).ids for p in (piece[:2], piece[2:])]
    spelled = [*whole[:place], *cut[0], *cut[1], *whole[place + 1 :]]
    assert spelled != whole
    wants = Scripted([0] * (len(PROMPT) - 1) + spelled)
    assert parted_at(wants, tokenizer, PROMPT, text, (), 48) == 48  # type: ignore[arg-type]


def test_the_median_is_of_all_prompts(model: TorchModel, checkpoint: Checkpoint) -> None:
    tokenizer = load_tokenizer(checkpoint)
    own = tokenizer.decode(model.greedy(PROMPT, 6, []), skip_special_tokens=False)
    found = greedy(model, tokenizer, [PROMPT, PROMPT], [(own, False), ("12", False)], (), 6)
    assert found.tokens == 6
    assert found.parted_at[1] < 6
    assert found.median == sum(found.parted_at) / 2


def test_divergence_is_that_of_torch() -> None:
    import torch

    rng = np.random.default_rng(3)
    p, q = (rng.normal(0, 3, (70, 500)).astype(np.float32) for _ in range(2))
    logs = [torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (p, q)]
    expected = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).numpy()
    np.testing.assert_allclose(divergence(p, q), expected, rtol=1e-5)


def test_answers_match_whole_whatever_their_case() -> None:
    asked = Question("?", ("Paris", "the city of paris"))
    for right in ("Paris", " paris.\nIt lies on the Seine.", "**Paris**", "The City of  Paris!"):
        assert is_right(asked, right)
    for wrong in ("", "Paris, France", "par is", "London"):
        assert not is_right(asked, wrong)


def test_the_score_counts_each_side() -> None:
    asked = [Question("1", ("a",)), Question("2", ("b",)), Question("3", ("c",))]
    assert score(asked, ["a", "b", "x"], ["a", "y", "x"]) == Generation(3, 2, 1, 2)


def test_the_built_in_questions_are_a_few_dozen_and_differ() -> None:
    built_in = questions()
    assert 30 <= len({q.question for q in built_in}) == len(built_in) <= 60
    assert all(q.answers and all(is_right(q, a) for a in q.answers) for q in built_in)


def test_the_checkpoints_answers_are_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def refuse(_prompt: object) -> str:
        raise AssertionError("it was known")

    def answer(prompt: object) -> str:
        return f"after {prompt}"

    first = source_answers(checkpoint, [PROMPT, [1]], answer, tmp_path, NoProgress())
    again = source_answers(checkpoint, [PROMPT, [1]], refuse, tmp_path, NoProgress())
    assert first == again == [f"after {PROMPT}", "after [1]"]
    next(tmp_path.glob("answers-*")).write_text("[1]")
    assert source_answers(checkpoint, [PROMPT, [1]], answer, tmp_path, NoProgress()) == first
