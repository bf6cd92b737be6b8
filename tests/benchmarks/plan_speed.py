"""How near the plan's decode speed for this machine is to what the engines then reach.

    python tests/benchmarks/plan_speed.py ARTIFACT... [--rounds N]

The kernels are timed on a small random model, then each artifact decodes, in turns; both by the
worker's processor time with one thread, so that other programs count for neither. Run it on a
quiet machine: at a load of 10 on two cores, errors of 3 to 14 % became 9 to 30 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median

from devices.estimate import estimate
from devices.model_facts import ModelFacts
from devices.profile import load_profile
from edgekit.artifact import Artifact
from edgekit.progress import NoProgress
from edgekit.store import find_artifact
from edgekit.workflows.plan_kernels import Kernels, kinds_of
from runtimes.base import Runtime
from runtimes.latency import measure
from runtimes.load import load

PROMPT_TOKENS, ANSWER_TOKENS = 256, 24
CONTEXT_LENGTH = PROMPT_TOKENS + ANSWER_TOKENS


def processor_clock(runtime: Runtime) -> Callable[[], float]:
    """Return a clock that reads the processor time of the runtime's worker, in seconds."""
    tasks = Path(f"/proc/{runtime.worker_pid}/task")  # type: ignore[attr-defined]

    def now() -> float:
        times = [int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()]
        return sum(times) / 1e9

    return now


def errors(artifacts: list[Artifact], rounds: int) -> dict[str, float]:
    """Return the relative error of the predicted decode speed of each artifact."""
    facts = [ModelFacts.of(artifact) for artifact in artifacts]
    runtimes = [load(a, context_length=CONTEXT_LENGTH, threads=1) for a in artifacts]
    seen: list[list[float]] = [[] for _ in artifacts]
    try:
        with Kernels(kinds_of(facts), 1, NoProgress(), processor_clock) as kernels:
            for turn in range(rounds):
                kernels.run()
                for speeds, runtime in zip(seen, runtimes, strict=True):
                    prompt = [100 + turn + 3 * index for index in range(PROMPT_TOKENS)]
                    latency = measure(runtime, prompt, ANSWER_TOKENS, processor_clock(runtime))
                    speeds.append(latency.decode_tokens_per_s)
            costs = kernels.costs()
    finally:
        for runtime in runtimes:
            runtime.close()
    found = {}
    for artifact, model, speeds in zip(artifacts, facts, seen, strict=True):
        expected = estimate(
            model,
            load_profile("this"),
            context_length=CONTEXT_LENGTH,
            prompt_tokens=PROMPT_TOKENS,
            costs=costs[model.format],
        )
        found[artifact.path.name] = expected.decode_tokens_per_s / median(speeds) - 1
    return found


def main() -> None:
    """Print the error of each artifact."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    opened = [Artifact.open(find_artifact(name)) for name in options.artifacts]
    for name, error in errors(opened, options.rounds).items():
        print(f"{error:+6.1%}  {name}")


if __name__ == "__main__":
    main()
