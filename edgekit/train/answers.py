"""Answers: a model is asked the last question of held-out chats, and its words are compared.

Greedy, several chats side by side. It knows checkpoints and chats; it does not know how a model
was trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError
from edgekit.files import write_atomically
from edgekit.progress import Progress
from edgekit.train.answer_figures import figures, is_exact
from edgekit.train.order import blocks
from edgekit.train.records import Message, Record, read_chats

if TYPE_CHECKING:
    from converters.checkpoint import Checkpoint
    from edgekit.train.dataset import Part
    from edgekit.train.hardware import Hardware

ANSWER_TOKENS = 128
ANSWERS = "answers.json"
SHOWN = 5
TOKENS_AT_ONCE = 8192  # of KV cache: 370 MB for a model of 135 million weights


@dataclass(frozen=True, slots=True)
class Question:
    """A chat up to where the assistant answers last, and the answer that the record has.

    `where` is the place of the record as it stands in a complaint.
    """

    messages: tuple[Message, ...]
    reference: str
    where: str

    @classmethod
    def of(cls, record: Record) -> Question:
        """Return the last question of a conversation."""
        assert not isinstance(record.content, str)  # noqa: S101 - texts ask nothing
        *before, last = record.content
        return cls(tuple(before), last["content"].strip(), record.where)

    @property
    def asked(self) -> str:
        """Return the last message before the answer."""
        return self.messages[-1]["content"]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model said to a question."""

    question: Question
    answer: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        reference = self.question.reference
        exact = is_exact(self.answer, reference)
        asked = self.question.asked
        return {"asked": asked, "reference": reference, "answer": self.answer, "exact": exact}


def pick(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers 0 to `count` - 1, evenly spread, in order."""
    taken = min(count, most)
    return [number * count // taken for number in range(taken)]


def read_questions(file: Path, most: int) -> tuple[list[Record], list[Question]]:
    """Return the chats of a JSONL file, and the questions of at most `most` of them.

    Raises InputError at the first bad line, and if there is none.
    """
    records = list(read_chats(file))
    if not records:
        raise InputError(f"{file} holds no chat", hint='{"messages": [...]}, one a line')
    return records, [Question.of(records[number]) for number in pick(len(records), most)]


def held_out_questions(part: Part, most: int, context: int) -> list[Question]:
    """Return the questions of at most `most` chats of `part`, as its files have them.

    Chats that fill a window of `context` tokens are left out: they may have been cut.
    """
    fits: dict[int, bool] = {}
    for place, length in zip(part.places, part.lengths, strict=True):
        fits[place] = fits.get(place, True) and length < context
    places = [place for place, does in fits.items() if does]
    wanted = {places[number] for number in pick(len(places), most)} if places else set()
    found: list[Question] = []
    for number, file in enumerate(part.files):
        lines = {place & ((1 << 40) - 1) for place in wanted if place >> 40 == number}
        if lines:
            found += [Question.of(record) for record in read_chats(file) if record.line in lines]
    return found


class Interview:
    """Asks a model questions in the words of a checkpoint's chat template."""

    def __init__(
        self, checkpoint: Checkpoint, questions: Sequence[Question], most_tokens: int,
        hardware: Hardware, progress: Progress,
    ) -> None:  # fmt: skip
        """An answer has at most `most_tokens`. Raises InputError for a question too long."""
        from converters.reference import load_tokenizer
        from converters.special_tokens import special_tokens, token_ids

        self.questions = questions
        self._hardware, self._progress = hardware, progress
        self._tokenizer = load_tokenizer(checkpoint)
        rows = int(checkpoint.config["vocab_size"])
        self._stop = frozenset(special_tokens(checkpoint, token_ids(checkpoint), rows).stop)
        context = int(checkpoint.config["max_position_embeddings"])
        self._prompts = [self._prompt(checkpoint, question, context) for question in questions]
        self._rooms = [min(most_tokens, context - len(prompt)) for prompt in self._prompts]

    def _prompt(self, checkpoint: Checkpoint, question: Question, context: int) -> list[int]:
        from converters.reference import render_dialogues

        (text,) = render_dialogues(checkpoint, [list(question.messages)], prompt=True)
        ids = list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        if len(ids) >= context:
            raise InputError(
                f"{question.where}: the question has {len(ids)} tokens, and the model was made "
                f"for {context}, one of them for the answer"
            )
        return ids

    def ask(self, model: Any) -> list[str]:
        """Return the answers of `model`, a transformers model, in the order of the questions."""
        lengths = [len(p) + room for p, room in zip(self._prompts, self._rooms, strict=True)]
        answers = [""] * len(lengths)
        with self._progress.task("answering held-out chats", len(lengths), "answers") as advance:
            for block in blocks(range(len(lengths)), lengths, TOKENS_AT_ONCE):
                prompts = [self._prompts[i] for i in block]
                rooms = [self._rooms[i] for i in block]
                said = continue_greedily(model, prompts, self._stop, rooms, self._hardware)
                for index, ids in zip(block, said, strict=True):
                    text = self._tokenizer.decode(ids, skip_special_tokens=False)
                    answers[index] = str(text).strip()
                advance(len(block))
        return answers

    def ask_once(self, model: Any, folder: Path) -> list[str]:
        """Return the answers of `model`, kept in `folder` for a run that goes on after a kill."""
        kept = _kept(folder / ANSWERS)
        if kept is not None and len(kept) == len(self.questions):
            return kept
        answers = self.ask(model)
        write_atomically(folder / ANSWERS, json.dumps(answers).encode())
        return answers

    def figures(self, answers: Sequence[str]) -> dict[str, float]:
        """Return the figures of `answers`, and how many were `asked`."""
        references = [question.reference for question in self.questions]
        return {"asked": len(answers), **figures(answers, references)}

    def enter(self, how: dict[str, Any], before: Sequence[str], after: Sequence[str]) -> None:
        """Put the figures of the answers before and after a training into its record `how`.

        `how["examples"]` gets a few of them in full.
        """
        how["before"]["answers"] = self.figures(before)
        how["after"]["answers"] = self.figures(after)
        how["examples"] = [
            {
                "asked": self.questions[i].asked,
                "reference": self.questions[i].reference,
                "before": before[i],
                "after": after[i],
            }
            for i in pick(len(after), SHOWN)
        ]


def _kept(file: Path) -> list[str] | None:
    """Return the answers in `file`; None if it is absent or damaged."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    is_texts = isinstance(found, list) and all(isinstance(answer, str) for answer in found)
    return found if is_texts else None


def continue_greedily(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stop: frozenset[int],
    rooms: Sequence[int],
    hardware: Hardware,
) -> list[list[int]]:
    """Return the most likely next tokens of each prompt, one after the other.

    Up to a token of `stop`, which is left out, or as many as `rooms` has for it. The prompts lie
    side by side, filled up on the left, where attention does not look; a row that has ended
    leaves the batch.
    """
    import torch
    from transformers import DynamicCache

    longest = max(map(len, prompts))
    missing = [longest - len(prompt) for prompt in prompts]
    device = hardware.device
    ids = torch.tensor([[0] * m + list(p) for m, p in zip(missing, prompts, strict=True)])
    seen = torch.tensor([[0] * m + [1] * (longest - m) for m in missing], device=device)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    cache, rows = DynamicCache(), list(range(len(prompts)))
    said: list[list[int]] = [[] for _ in prompts]
    while True:
        with torch.inference_mode(), hardware.autocast():
            logits = model(
                input_ids=ids.to(device), attention_mask=seen, position_ids=positions,
                past_key_values=cache, use_cache=True, logits_to_keep=1,
            ).logits[:, -1]  # fmt: skip
        chosen = logits.float().argmax(-1).tolist()
        going = [token not in stop for token in chosen]
        for row, token, goes_on in zip(rows, chosen, going, strict=True):
            said[row] += [token] if goes_on else []
        kept = [n for n, row in enumerate(rows) if going[n] and len(said[row]) < rooms[row]]
        if not kept:
            break
        if len(kept) < len(rows):
            picked = torch.tensor(kept, dtype=torch.long, device=device)
            cache.batch_select_indices(picked)
            seen, positions = seen[picked], positions[picked]
            rows = [rows[n] for n in kept]
        ids = torch.tensor([[said[row][-1]] for row in rows])
        seen = torch.cat([seen, seen.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return said


def shown(texts: Mapping[str, Any], key: str, most: int = 200) -> str:
    """Return a text of the record as one short cell of a Markdown table."""
    words = " ".join(str(texts[key]).split())
    words = words if len(words) <= most else words[: most - 3] + "..."
    for sign in "\\|`*_<>[]":
        words = words.replace(sign, "\\" + sign)
    return words
