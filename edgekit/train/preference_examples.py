"""Preference pairs as examples: one prompt with the chosen answer, then with the rejected one.

Both are written by the model's own chat template. It knows no losses.
"""

from __future__ import annotations

from array import array

from edgekit.errors import InputError
from edgekit.train.dataset import Part
from edgekit.train.examples import ChatEncoder, Example, encode, last_turn
from edgekit.train.records import Preference, Record


class PreferenceEncoder(ChatEncoder):
    """Pairs of answers: examples come in twos, the chosen first; only the answers are learnt."""

    def examples(self, record: Record) -> list[Example]:
        """Return the two examples of a pair, none if one is left out. Raises InputError."""
        assert isinstance(record, Preference)  # noqa: S101 - others have another encoder
        pair = [self._answered(record, answer) for answer in (record.chosen, record.rejected)]
        return pair if all(example.targets for example in pair) else []

    def _answered(self, record: Preference, answer: str) -> Example:
        messages = [*record.content, {"role": "assistant", "content": answer}]
        try:
            text, span = last_turn(messages, self._render)
        except InputError as error:
            raise InputError(f"{record.where}: {error.message}", error.hint) from error
        return self._fit(encode(self._tokenizer, text, [span], self._stop), record)


def pair_lengths(part: Part) -> array[int]:
    """Return the tokens of each pair of `part`, both examples together."""
    both = zip(part.lengths[::2], part.lengths[1::2], strict=True)
    return array("q", (chosen + rejected for chosen, rejected in both))
