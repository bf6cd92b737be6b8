from __future__ import annotations

import pytest

from tui.status import State, Status, status_line
from tui.timing import Timing

TIMING = Timing(tokens=12, prompt_tokens=300, first_token_s=0.214, decode_tokens_per_s=31.16)
STATUS = Status("SmolLM2-135M-Instruct q4_k_m", State.READY, None, TIMING, 4096)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (
            110,
            "ready  SmolLM2-135M-Instruct q4_k_m                   "
            "first token 0.21 s · 31.2 tokens/s · context 312 of 4096",
        ),
        (78, "ready  SmolLM2-135M…uct q4_k_m  TTFT 0.21 s · 31.2 tok/s · context 312 of 4096"),
        (60, "ready  SmolLM2-135M-Instruct q4_k_m      context 312 of 4096"),
        (40, "ready  SmolLM…4_k_m  context 312 of 4096"),
        (30, "ready      context 312 of 4096"),
    ],
)
def test_the_least_needed_goes_first(width: int, line: str) -> None:
    laid_out = status_line(STATUS, width).plain
    assert len(laid_out) == width
    assert laid_out == line


@pytest.mark.parametrize("width", range(24, 200))
def test_state_and_context_are_never_cut(width: int) -> None:
    line = status_line(STATUS, width).plain
    assert line.startswith("ready ")
    assert line.endswith("context 312 of 4096")


def test_waiting_shows_the_time() -> None:
    assert status_line(Status("m", State.LOADING, 3.26), 40).plain.startswith("loading 3.3 s  m ")


@pytest.mark.parametrize(("tokens", "warns"), [(85, False), (86, True)])
def test_a_context_over_85_percent_warns_in_words(tokens: int, warns: bool) -> None:
    status = Status("m", State.READY, None, Timing(prompt_tokens=tokens), 100)
    assert ("nearly full!" in status_line(status, 60).plain) is warns
