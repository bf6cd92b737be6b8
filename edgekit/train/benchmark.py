"""How fast this machine trains a checkpoint: `python -m edgekit.train.benchmark CHECKPOINT`.

The real loop on random tokens: tokens a second, share of the hardware's peak, and memory, for full
weights and for adapters. On several GPUs: `torchrun --nproc-per-node GPUS -m
edgekit.train.benchmark CHECKPOINT`. Nothing is learnt, and nothing is kept.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from converters.checkpoint import Checkpoint
from converters.reference import load_model
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.progress import NoProgress
from edgekit.store import cache, find_checkpoint
from edgekit.train.arithmetic import peak_of
from edgekit.train.dataset import LEARNT, DataSet, Part, Report
from edgekit.train.hardware import Hardware
from edgekit.train.loop import Settings, train
from edgekit.train.meter import Meter
from edgekit.train.schedule import Budget
from edgekit.train.sharding import shard
from edgekit.train.supervised import Supervision
from edgekit.train.team import Team, joined
from edgekit.train.trained import Method, choose
from edgekit.units import format_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

WARM_UP_STEPS = 3
BATCH_TOKENS = {"cpu": 1024, "cuda": 1 << 16}
METHODS: dict[str, Method] = {"full": "full", "norms": "norms", "lora": "lora"}
RESET_PEAK = "5"  # to /proc/self/clear_refs: see proc_pid_clear_refs(5)


@dataclass(frozen=True, slots=True)
class Result:
    """The median of the steps of one method after a few to warm up; memory is the peak."""

    method: str
    trained_parameters: int
    step_s: float
    tokens_per_s: float
    mfu: float
    peak_memory_bytes: int


def measure(
    checkpoint: Checkpoint, name: str, hardware: Hardware, team: Team, *, batch_tokens: int,
    length: int, steps: int,
) -> Result:  # fmt: skip
    """Train `checkpoint` by the method `name` ("full", "norms", "lora" or "lora:RANK").

    Examples have `length` tokens each, all learnt. Raises UsageError for an unknown method,
    GateError where the cache has no room for the state of a run.
    """
    method, rank = _method(name)
    model = load_model(checkpoint)
    trained = choose(model, method, rank)
    meter = Meter.of(model, hardware, team)
    trained = shard(model, trained, team, hardware)
    data = _random_data(int(model.config.vocab_size), length, batch_tokens)
    lesson = Supervision(model, data, length, hardware, team)
    settings = Settings(
        Budget(WARM_UP_STEPS + steps), learning_rate=1e-9, batch_tokens=batch_tokens, stretches=1,
        save_s=float("inf"),
    )  # fmt: skip
    _forget_peak(hardware)
    with tempfile.TemporaryDirectory(dir=_room()) as folder:
        outcome = train(
            lesson, trained, settings, Path(team.agree(folder)), NoProgress(), team=team,
            meter=meter,
        )  # fmt: skip
        team.wait()
    entries = [entry for entry in outcome.run.curve if "loss" in entry][WARM_UP_STEPS:]
    speed = median(entry["tokens_per_s"] for entry in entries)
    return Result(
        name, sum(p.numel() for p in trained.parameters.values()), round(batch_tokens / speed, 4),
        speed, median(entry["mfu"] for entry in entries), _peak_bytes(hardware),
    )  # fmt: skip


def _method(name: str) -> tuple[Method, int]:
    base, _, rank = name.partition(":")
    if base not in METHODS or not (rank or "8").isdecimal() or (rank and base != "lora"):
        raise UsageError(f"there is no method {name!r}", f"known: {', '.join(METHODS)}, lora:RANK")
    return METHODS[base], int(rank or "8")


def _room() -> Path:
    place = cache() / "training"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _random_data(vocabulary: int, length: int, batch_tokens: int) -> DataSet:
    """Return a batch of examples to learn from, and one that is held out."""
    count = -(-batch_tokens // length)
    generator = np.random.default_rng(0)
    stored = generator.integers(vocabulary, size=(count + 1) * length, dtype=np.uint32) | LEARNT
    training, held_out = (_part(stored, of, length) for of in (range(count), [count]))
    return DataSet(training, held_out, Report())


def _part(stored: NDArray[np.uint32], examples: Sequence[int], length: int) -> Part:
    count = len(examples)
    return Part(
        [], array("q", [length] * count), array("q", [length - 1] * count),
        array("q", [i * length for i in examples]), array("q", [0] * count), count, stored,
    )  # fmt: skip


def _forget_peak(hardware: Hardware) -> None:
    """Let the peak of memory begin anew; on a CPU only Linux can."""
    if hardware.device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")


def _peak_bytes(hardware: Hardware) -> int:
    if hardware.device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@click.command()
@click.argument("checkpoint")
@click.option("--method", "methods", multiple=True, default=("full", "lora:8"), show_default=True)
@click.option("--batch-tokens", type=click.IntRange(1), help="Of one step, all GPUs together.")
@click.option("--length", type=click.IntRange(2), default=1024, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    checkpoint: str, methods: tuple[str, ...], batch_tokens: int | None, length: int, steps: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure how fast this machine trains CHECKPOINT: a folder, or a name in the store."""
    with joined() as team:
        hardware = Hardware.detect()
        found = Checkpoint.open(find_checkpoint(checkpoint))
        longest = int(found.config.get("max_position_embeddings", length))
        if length > longest:
            raise InputError(f"--length is {length}, and the model was made for {longest} tokens")
        batch = batch_tokens or BATCH_TOKENS[hardware.device]
        results = [
            measure(
                found, name, hardware, team, batch_tokens=batch, length=min(length, batch),
                steps=steps,
            )
            for name in methods
        ]  # fmt: skip
        if team.is_first:
            _print(found, hardware, team, batch, min(length, batch), results, as_json)


def _print(
    checkpoint: Checkpoint, hardware: Hardware, team: Team, batch_tokens: int, length: int,
    results: Sequence[Result], as_json: bool,
) -> None:  # fmt: skip
    import torch

    peak = peak_of(hardware)
    on_cuda = hardware.device == "cuda"
    cpu = f"CPU, {torch.get_num_threads()} threads"
    document: dict[str, Any] = {
        "checkpoint": checkpoint.path.name,
        "device": torch.cuda.get_device_name() if on_cuda else cpu,
        "processes": team.size,
        "arithmetic": "bfloat16" if hardware.bf16 else "float32",
        "peak_flops": peak.flops,
        "peak_is_measured": peak.measured,
        "batch_tokens": batch_tokens,
        "length": length,
        "torch": torch.__version__,
        "results": [asdict(result) for result in results],
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(
        f"{document['checkpoint']} on {team.size} x {document['device']}, "
        f"{document['arithmetic']}, {batch_tokens} tokens a step in examples of {length}\n"
    )
    click.echo(f"{'method':10}{'tokens/s':>12}{'MFU':>8}{'peak memory':>14}{'step':>11}")
    for result in results:
        click.echo(
            f"{result.method:10}{result.tokens_per_s:12.0f}{result.mfu:8.1%}"
            f"{format_bytes(result.peak_memory_bytes):>14}{result.step_s:9.3f} s"
        )
    click.echo(f"\nMFU: of {peak.words}, {'here' if peak.measured else 'by its data sheet'}")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except EdgekitError as error:
        click.echo(
            f"error: {error.message}\n\nhint: {error.hint}".removesuffix("\n\nhint: "), err=True
        )
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
