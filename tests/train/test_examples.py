"""What is learnt of a conversation, token by token, and how texts are cut into windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from converters.checkpoint import Checkpoint
from edgekit.errors import InputError
from edgekit.train.examples import ChatEncoder, Example, TextEncoder, turns
from edgekit.train.records import Message, Record

Q1, A1 = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "a kettle"}
Q2, A2 = {"role": "user", "content": "why?"}, {"role": "assistant", "content": "the fox 12"}


def record(content: list[Message] | str) -> Record:
    return Record(Path("chats.jsonl"), 7, content)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


def shown(checkpoint: Checkpoint, example: Example) -> list[str]:
    """Return the runs of learnt tokens as text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    runs: list[list[int]] = [[]]
    for token, learnt in zip(example.token_ids, example.learnt, strict=True):
        if learnt:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs if run]


def test_the_mask_is_the_one_that_is_found_by_hand(checkpoint: Checkpoint) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    start, end, feed = 1, 2, ids("\n")
    asked = [start, *ids("user\nhi"), end, *feed, start, *ids("assistant\n")]
    answer = [*ids("a kettle"), end]
    again = [*feed, start, *ids("user\nwhy?"), end, *feed, start, *ids("assistant\n")]
    second = [*ids("the fox 12"), end]
    (example,) = ChatEncoder(checkpoint, 512, "error").examples(record([Q1, A1, Q2, A2]))
    parts = [(asked, False), (answer, True), (again, False), (second, True), (feed, False)]
    assert list(example.token_ids) == [token for tokens, _ in parts for token in tokens]
    assert list(example.learnt) == [learnt for tokens, learnt in parts for _ in tokens]
    assert example.targets == len(answer) + len(second)


def test_the_tokens_are_those_of_transformers(checkpoint: Checkpoint) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.path)
    messages = [{"role": "system", "content": "Zwölf 敏捷"}, Q1, A1, Q2, A2]
    (example,) = ChatEncoder(checkpoint, 512, "error").examples(record(messages))
    assert list(example.token_ids) == tokenizer.apply_chat_template(messages, tokenize=True)
    assert shown(checkpoint, example) == ["a kettle<|im_end|>", "the fox 12<|im_end|>"]


def chatml(keep: Callable[[int, int], bool]) -> Callable[[Sequence[Message], bool], str]:
    """Return a template that shows the thoughts of those turns for which `keep` is true."""

    def render(messages: Sequence[Message], prompt: bool) -> str:
        text = ""
        for number, message in enumerate(messages):
            is_answer = message["role"] == "assistant"
            thought = "<think>" if is_answer and keep(number, len(messages)) else ""
            text += f"[{message['role']}]{thought}{message['content']}[end]"
        return text + ("[assistant]" if prompt else "")

    return render


def test_one_text_holds_all_turns_where_the_template_only_adds() -> None:
    (found,) = turns([Q1, A1, Q2, A2], chatml(lambda _number, _count: False))
    text, spans = found
    assert [text[a:b] for a, b in spans] == ["a kettle[end]", "the fox 12[end]"]


def test_each_turn_is_learnt_as_it_was_asked_where_the_template_rewrites_earlier_ones() -> None:
    thinks_last = chatml(lambda number, count: number == count - 1)  # as Qwen 3's does
    first, second = turns([Q1, A1, Q2, A2], thinks_last)
    assert first == ("[user]hi[end][assistant]<think>a kettle[end]", [(24, 44)])
    text, ((begin, end),) = second
    assert text[begin:end] == "<think>the fox 12[end]"
    assert "<think>a kettle" not in text


def test_a_template_whose_answers_do_not_follow_the_prompt_is_refused() -> None:
    def render(messages: Sequence[Message], prompt: bool) -> str:
        return f"{len(messages)} {messages[-1]['content']} {prompt}"

    with pytest.raises(InputError, match="message 2 behind the prompt"):
        list(turns([Q1, A1], render))


def test_a_template_may_refuse_and_the_line_is_named(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "picky"
    shutil.copytree(make_checkpoint("llama"), folder)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system, please') }}")
    encoder = ChatEncoder(Checkpoint.open(folder), 512, "error")
    with pytest.raises(InputError, match=r"chats.jsonl, line 7: .*no system, please"):
        encoder.examples(record([Q1, A1]))


@pytest.mark.parametrize(("choice", "lengths"), [("skip", []), ("cut", [15])])
def test_a_long_chat_is_treated_as_configured(
    checkpoint: Checkpoint, choice: str, lengths: list[int]
) -> None:
    with pytest.raises(InputError, match="line 7: the conversation has 17 tokens, the window 15"):
        ChatEncoder(checkpoint, 15, "error").examples(record([Q1, A1]))
    found = ChatEncoder(checkpoint, 15, choice).examples(record([Q1, A1]))
    assert [len(example.token_ids) for example in found] == lengths


def test_a_text_is_cut_so_that_every_token_is_learnt_once(checkpoint: Checkpoint) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 5
    (whole,) = TextEncoder(checkpoint, 512, None).examples(record(text))
    assert whole.token_ids[-1] == 2  # the tokenizer's own end of a text
    pieces = TextEncoder(checkpoint, 10, None).examples(record(text))
    assert all(len(piece.token_ids) <= 10 and not piece.learnt[0] for piece in pieces)
    learnt = [token for piece in pieces for token in piece.token_ids[1:]]
    assert tuple(learnt) == whole.token_ids[1:]
    assert sum(piece.targets for piece in pieces) == whole.targets == len(whole.token_ids) - 1


def test_the_end_of_a_text_can_be_chosen(checkpoint: Checkpoint) -> None:
    (found,) = TextEncoder(checkpoint, 512, "<|endoftext|>").examples(record("a kettle"))
    assert found.token_ids[-1] == 0
    with pytest.raises(InputError, match="no token '<nothing>'"):
        TextEncoder(checkpoint, 512, "<nothing>")
