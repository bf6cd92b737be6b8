"""The calibration text: what a checkpoint writes itself, begun in many kinds and scripts.

Text from one source makes a quantised model better on that source and worse elsewhere, and no
text that we could bring is as close to a model's use as its own answers (Liu et al. 2023, LLM-QAT,
arXiv 2305.17888, train on such text). So the openings in `texts/seeds.json` are continued by
sampling, the questions among them as chats. It says nothing of what is measured on the text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.calibration_openings import Opening, read_openings
from converters.checkpoint import Checkpoint
from converters.reference import Passage, Window, encode, load_model, load_tokenizer
from edgekit.errors import InputError
from edgekit.progress import Advance, Progress

if TYPE_CHECKING:
    import torch

WINDOW_TOKENS = 192
OWN_TOKENS = 24_384  # one window for each opening
BATCH = 128  # together: a step reads every weight once, however many texts there are
TOP_TOKENS = 64
# At temperature 1 a small model slips into nonsense without it, and below 0.8 into loops.
LEAST_CHANCE = 0.05
REPEATED_TOKENS = 16  # small models fall into loops
MAX_TEXT_BYTES = 64 << 20


def own_text(
    checkpoint: Checkpoint, progress: Progress, *, tokens: int = OWN_TOKENS, seed: int = 0
) -> list[Window]:
    """Return about `tokens` tokens in full windows of WINDOW_TOKENS, written by the checkpoint.

    Each begins with another opening, spread evenly over the kinds; where the model ends its text
    or repeats itself, the chat's next question or another opening of the kind follows. Sampled in
    float32 torch; the same on one machine for the same `seed`; the next seed goes on with the next
    openings. Raises InputError.
    """
    length = _window_length(checkpoint, WINDOW_TOKENS)
    model = load_model(checkpoint)
    count = max(1, round(tokens / length))
    rows = _rows(read_openings(checkpoint), count, seed * count, _stop_ids(model))
    with progress.task("writing the calibration text", len(rows) * length, "tokens") as advance:
        for first in range(0, len(rows), BATCH):
            _write(model, rows[first : first + BATCH], length, seed + first, advance)
    return [Window(row.kind, tuple(row.token_ids)) for row in rows]


def file_text(checkpoint: Checkpoint, path: Path, *, tokens: int = WINDOW_TOKENS) -> list[Window]:
    """Return the text of the file `path`, UTF-8, in windows of at most `tokens` tokens.

    Special tokens that it spells count as such: it may hold rendered chats. Raises InputError.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes, {MAX_TEXT_BYTES} at most")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the calibration text {path} cannot be read: {error}") from error
    ids = encode(load_tokenizer(checkpoint), Passage("file", text, special=True))
    length = _window_length(checkpoint, tokens)
    pieces = [tuple(ids[i : i + length]) for i in range(0, len(ids), length)]
    if not pieces:
        raise InputError(f"the calibration text {path} is empty", hint="give a longer text")
    return [Window("file", piece) for piece in pieces]


def _window_length(checkpoint: Checkpoint, tokens: int) -> int:
    return min(tokens, int(checkpoint.config.get("max_position_embeddings", tokens)))


class _Row:
    """A window that is being written: tokens of its openings, and between them the model's."""

    def __init__(self, kind: str, pieces: Iterator[Sequence[int]], stops: set[int]) -> None:
        """Begin with the first of `pieces`; each further one follows where the model stops."""
        self.kind = kind
        self.token_ids: list[int] = []
        self._pieces, self._stops = pieces, stops
        self._given = deque(next(pieces))
        self._said: list[int] = []  # by the model, since the last piece

    def add(self, sampled: int) -> int:
        """Append the token given by an opening, else `sampled`; return it."""
        token = self._given.popleft() if self._given else self._say(sampled)
        self.token_ids.append(token)
        return token

    def _say(self, token: int) -> int:
        ended = token in self._stops or self._repeats(token)
        self._said.append(token)
        if ended:
            self._said.clear()
            self._given.extend(next(self._pieces))
            if self._given[0] == token:  # the chat template ends the answer too
                self._given.popleft()
        return token

    def _repeats(self, token: int) -> bool:
        """Return whether the model says REPEATED_TOKENS tokens again."""
        end = [*self._said[1 - REPEATED_TOKENS :], token]
        last = len(self._said) - REPEATED_TOKENS
        return any(
            self._said[first : first + REPEATED_TOKENS] == end for first in range(last, -1, -1)
        )


def _rows(openings: Sequence[Opening], count: int, first: int, stops: set[int]) -> list[_Row]:
    """Return `count` rows whose kinds have the shares that they have among `openings`.

    `first` counts the rows that were taken before, so that another opening has its turn.
    """
    kinds: dict[str, list[Opening]] = {}
    for opening in openings:
        kinds.setdefault(opening.kind, []).append(opening)
    places = [
        ((place + 0.5) / len(members), kind, place)
        for kind, members in kinds.items()
        for place in range(len(members))
    ]
    order = [(kind, place) for _, kind, place in sorted(places, key=lambda entry: entry[0])]
    chosen = (order[number % len(order)] for number in range(first, first + count))
    return [_Row(kind, _pieces_from(kinds[kind], place), stops) for kind, place in chosen]


def _pieces_from(openings: Sequence[Opening], first: int) -> Iterator[Sequence[int]]:
    """Yield the pieces of opening `first`, of the next one, and so on without end."""
    number = first
    while True:
        yield from openings[number % len(openings)].pieces
        number += 1


def _write(model: Any, rows: Sequence[_Row], length: int, seed: int, advance: Advance) -> None:
    """Write `rows` together, token by token, until each has `length` tokens.

    All have the same length at every step, so that nothing is padded and nothing masked.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    cache, ids = None, [row.add(0) for row in rows]
    with torch.inference_mode():
        for _ in range(length - 1):
            output = model(torch.tensor(ids)[:, None], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            ids = _next(rows, _sample(output.logits[:, -1], generator))
            advance(len(rows))
    advance(len(rows))


def _next(rows: Iterable[_Row], sampled: torch.Tensor) -> list[int]:
    return [row.add(token) for row, token in zip(rows, sampled.tolist(), strict=True)]


def _sample(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw a token for each row of `logits`, [rows, vocabulary]: int64 [rows].

    At temperature 1, but tokens less likely than LEAST_CHANCE times the likeliest are never drawn
    (min-p sampling, Nguyen et al. 2024, arXiv 2407.01082).
    """
    import torch

    best, ids = logits.float().topk(min(TOP_TOKENS, logits.shape[-1]))
    chances = best.softmax(-1)
    chances[chances < LEAST_CHANCE * chances[:, :1]] = 0
    return ids.gather(1, torch.multinomial(chances, 1, generator=generator))[:, 0]


def _stop_ids(model: Any) -> set[int]:
    stop = model.generation_config.eos_token_id
    return set(stop) if isinstance(stop, list) else {stop}
