"""Answers of held-out chats: greedy, alike alone and side by side, recorded with a training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from converters.reference import load_model
from edgekit.cli import cli
from edgekit.errors import InputError
from edgekit.progress import NoProgress
from edgekit.train.answers import Interview, Question, continue_greedily, pick, shown
from edgekit.train.configuration import read_configuration
from edgekit.train.hardware import Hardware
from edgekit.workflows.evaluate import Wanted, evaluate
from edgekit.workflows.language_job import LanguageJob
from edgekit.workflows.train import run_training
from edgekit.workflows.training_job import FineTuned

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = Hardware("cpu", bf16=False, logits_at_once=1 << 22)
WORDS = ("kettle", "fox", "dog", "jumps", "lazy", "boils")


def chat(*texts: str) -> str:
    roles = ("user", "assistant") * len(texts)
    found = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    return json.dumps({"messages": found}) + "\n"


@pytest.fixture(scope="module")
def parent(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint("llama", hidden_size=64, intermediate_size=128)


@pytest.fixture
def config(tmp_path: Path, parent: Path) -> Path:
    """A little echo: which word comes back is to be learnt; some chats have two questions."""
    lines = [chat(f"say {w} {n}", f"{w}") for n in range(12) for w in WORDS]
    (tmp_path / "chats.jsonl").write_text("".join(lines))
    held = [chat(f"say {w} {n} again", w, f"now {w}", w) for n in (70, 71) for w in WORDS]
    (tmp_path / "held.jsonl").write_text("".join(held))
    (tmp_path / "run.toml").write_text(
        f'[model]\ncheckpoint = "{parent}"\n[data]\nkind = "chat"\nfiles = ["chats.jsonl"]\n'
        'evaluation_files = ["held.jsonl"]\n[train]\nsteps = 25\nlearning_rate = 3e-3\n'
        "batch_tokens = 512\nsave_seconds = 1e-9\n[evaluate]\nanswers = 8\nanswer_tokens = 6\n"
    )
    return tmp_path / "run.toml"


def trained(config: Path, out: Path, **options: Any) -> FineTuned:
    found = read_configuration(config)
    return run_training(found, out, progress=NoProgress(), **options)


@pytest.mark.parametrize("architecture", ["llama", pytest.param("qwen2", marks=pytest.mark.slow)])
def test_side_by_side_they_are_those_of_transformers_alone(
    make_checkpoint: Callable[..., Path], architecture: str
) -> None:
    import torch

    folder = make_checkpoint(architecture, hidden_size=64, intermediate_size=128)
    model = load_model(Checkpoint.open(folder))
    prompts = [[5, 9, 4], list(range(20, 61)), [7], [300, 12, 8, 8, 17, 99, 3]]
    rooms = [12, 12, 3, 12]
    alone = []
    for prompt, room in zip(prompts, rooms, strict=True):
        out = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=room, eos_token_id=None
        )
        alone.append(out[0, len(prompt) :].tolist())
    assert continue_greedily(model, prompts, frozenset(), rooms, CPU) == alone
    stop = frozenset({alone[1][4], alone[0][7]})
    cut = [answer[: next((i for i, t in enumerate(answer) if t in stop), 99)] for answer in alone]
    assert cut != alone
    assert continue_greedily(model, prompts, stop, rooms, CPU) == cut


def test_they_are_picked_evenly_and_in_order() -> None:
    assert pick(10, 3) == [0, 3, 6]
    assert pick(3, 10) == [0, 1, 2]
    assert pick(0, 5) == []


@pytest.mark.slow
def test_training_reports_answers_before_and_after(
    config: Path, parent: Path, tmp_path: Path
) -> None:
    found = trained(config, tmp_path / "out")
    held = tmp_path / "held.jsonl"
    for stage, folder in (("before", parent), ("after", found.checkpoint.path)):
        again = evaluate(str(folder), held, Wanted(8, 6), NoProgress())
        assert found.how[stage]["answers"] == {"asked": 8, **again.figures}
        assert found.how[stage]["loss"] == pytest.approx(again.loss, rel=1e-5)
        assert again.records == 12
        texts = [answered.answer for answered in again.answered]
        assert [e[stage] for e in found.how["examples"]] == [texts[i] for i in (0, 1, 3, 4, 6)]
    assert found.how["before"]["answers"]["f1"] == 0
    assert found.how["after"]["answers"]["exact_match"] > 50
    assert found.how["examples"][0]["asked"] == "now kettle"
    card = (found.checkpoint.path / "README.md").read_text()
    assert f"| exact match, % | 0.0 | {found.how['after']['answers']['exact_match']:.1f} |" in card
    assert "| now kettle | kettle | " in card
    result = CliRunner().invoke(cli, ["train", str(config), "-o", str(tmp_path / "out")])
    assert "exact match, %" in result.stdout


@pytest.mark.slow
def test_an_interrupted_run_does_not_ask_the_first_questions_again(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole = Interview.ask

    def counted(interview: Interview, model: Any) -> list[str]:
        asked.append(len(interview.questions))
        return whole(interview, model)

    def stop(words: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Interview, "ask", counted)
    with pytest.raises(KeyboardInterrupt):
        trained(config, tmp_path / "out", tell=stop)
    resumed = trained(config, tmp_path / "out")
    assert asked == [8, 8]
    straight = trained(config, tmp_path / "straight")
    assert resumed.how["examples"] == straight.how["examples"]


def test_chats_that_were_cut_are_not_asked(config: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text(chat("a question", "cut " * 300) + chat("short", "kept") + held.read_text())
    text = config.read_text().replace("[train]", 'context = 200\ntoo_long = "cut"\n[train]')
    config.write_text(text.replace("answers = 8", "answers = 99"))
    job = LanguageJob(read_configuration(config), NoProgress())
    interview = job._interview()
    assert interview is not None
    assert [question.reference for question in interview.questions][:2] == ["kept", "kettle"]
    assert len(interview.questions) == 13
    held.write_text(chat("a question", "cut " * 300))
    with pytest.raises(InputError, match=r"\[evaluate\] answers: no held-out chat is shorter"):
        LanguageJob(read_configuration(config), NoProgress())._interview()


@pytest.mark.slow
def test_an_artifact_without_rounding_answers_as_its_checkpoint(
    config: Path, tmp_path: Path
) -> None:
    checkpoint = trained(config, tmp_path / "out").checkpoint
    held = tmp_path / "held.jsonl"
    with held.open("a") as stream:  # in other words than those that were learnt
        stream.writelines(chat(f"what of {word}?", word) for word in WORDS)
    left = evaluate(str(checkpoint.path), held, Wanted(tokens=6), NoProgress())
    assert left.figures["exact_match"] > 50
    for format_name in ("gguf", "onnx"):
        recipe = Recipe.of(format_name, "f32")
        artifact = convert(checkpoint, recipe, tmp_path / format_name, progress=NoProgress())
        right = evaluate(str(artifact.path), held, Wanted(tokens=6), NoProgress())
        assert [a.answer for a in left.answered] == [a.answer for a in right.answered]
        assert left.figures == right.figures
        assert (right.kind, right.loss, right.perplexity) == ("artifact", None, None)


def test_the_command_prints_one_document(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(chat("say fox", "fox") + chat("x", "y", "say dog", "dog"))
    words = ["evaluate", str(parent), str(tmp_path / "a.jsonl"), "--tokens", "4"]
    result = CliRunner().invoke(cli, [*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["kind"], found["records"], found["answers"]["asked"]) == ("checkpoint", 2, 2)
    assert [q["asked"] for q in found["questions"]] == ["say fox", "say dog"]
    assert found["perplexity"] > 1
    shorter = CliRunner().invoke(cli, [*words, "--answers", "1"])
    assert "perplexity" in shorter.stdout
    assert "say dog" not in shorter.stdout


def test_what_cannot_be_evaluated_is_told_in_a_sentence(parent: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    long = chat("long " * 3000, "answer")
    wrong = [
        ("nothing-here", chat("a", "b"), "there is no checkpoint or artifact 'nothing-here'"),
        ("x" * 5000, chat("a", "b"), "there is no checkpoint or artifact 'xxx"),
        (str(tmp_path), chat("a", "b"), "holds no config.json"),
        (str(parent), chat("a", "b") + "{}\n", "a.jsonl, line 2: 'messages' is missing"),
        (str(parent), "\n", "holds no chat"),
        (str(parent), chat("a", "b") + long, "line 2: the question has .* made for 512"),
    ]
    for model, text, why in wrong:
        file.write_text(text)
        with pytest.raises(InputError, match=why):
            evaluate(model, file, Wanted(), NoProgress())


def test_a_question_too_long_for_an_artifact_is_named(parent: Path, tmp_path: Path) -> None:
    recipe = Recipe.of("gguf", "q8_0")
    checkpoint = Checkpoint.open(parent)
    artifact = convert(checkpoint, recipe, tmp_path / "artifact", progress=NoProgress())
    (tmp_path / "a.jsonl").write_text("\n" + chat("long " * 3000, "answer"))
    with pytest.raises(InputError, match=r"a.jsonl, line 2: the prompt has \d+ tokens"):
        evaluate(str(artifact.path), tmp_path / "a.jsonl", Wanted(), NoProgress())


def test_a_cell_of_the_card_is_one_line_and_stays_in_its_table() -> None:
    assert shown({"a": "x | y\n<b>`z`"}, "a") == r"x \| y \<b\>\`z\`"
    assert shown({"a": "w " * 500}, "a", 11) == "w w w w ..."


def test_a_question_is_what_comes_before_the_last_answer() -> None:
    from edgekit.train.records import Record

    content = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": " d\n"},
    ]
    found = Question.of(Record(Path("x.jsonl"), 3, content))
    assert [m["content"] for m in found.messages] == ["a", "b", "c"]
    assert (found.asked, found.reference, found.where) == ("c", "d", "x.jsonl, line 3")
