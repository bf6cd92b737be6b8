"""The curve as TensorBoard shows it: event files in a folder, written while the run goes on.

It reads what the curve has and measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from edgekit.extras import need
from edgekit.files import disk_errors, make_folder

BESIDE = ("step", "tokens", "elapsed_s")  # where a figure stands, and no figure itself


class Board:
    """Writes the figures of a curve into event files in `folder`.

    A run that goes on at a step hides what an earlier start wrote from that step on, and writes
    it anew: no step is shown twice, and none is missing.
    """

    def __init__(self, folder: Path, resumed_step: int | None) -> None:
        """Raises MissingExtraError without TensorBoard, InputError for a bad folder."""
        need("tensorboard", "train")
        from torch.utils.tensorboard import SummaryWriter

        make_folder(folder)
        self._first = resumed_step or 0
        self._written = 0
        self._curve: Sequence[dict[str, float]] = ()
        with disk_errors(folder):
            self._writer: Any = SummaryWriter(str(folder), purge_step=self._first)

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.write(self._curve)  # the last judgement comes after the last step
        self._writer.close()

    def write(self, curve: Sequence[dict[str, float]]) -> None:
        """Write what `curve` has more than at the last call, down to the disk.

        What it gets afterwards is written at the next call, or at the end.
        """
        self._curve = curve
        for entry in curve[self._written :]:
            if entry["step"] >= self._first:
                self._figures(entry)
        self._written = len(curve)
        self._writer.flush()

    def _figures(self, entry: dict[str, float]) -> None:
        group = "training" if "loss" in entry else "evaluation"
        for key, value in entry.items():
            if key not in BESIDE:
                name = key.removeprefix("evaluation_").removeprefix("validation_")
                self._writer.add_scalar(f"{group}/{name}", value, int(entry["step"]))
