"""plan, for this machine: what the engines' kernels cost here, timed on a small random model.

For each type of weight one model of it is written, loaded and timed, as `edgekit bench` would:
the seconds per weight that come out hold for every model on this machine. Nothing is kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.recipe import Recipe
from converters.safetensors_writer import write_tensors
from devices.model_facts import ModelFacts
from devices.speed import SAMPLE_S_PER_LOGIT, Costs
from edgekit.artifact import Format
from edgekit.extras import need
from edgekit.progress import NoProgress, Progress
from runtimes.base import Runtime
from runtimes.latency import measure
from runtimes.load import load

Kind = tuple[Format, str]
PROMPT_TOKENS, ANSWER_TOKENS, ROUNDS = 256, 24, 3
CONTEXT_LENGTH = 512
VOCABULARY, HEADS, KV_HEADS = 1024, 4, 1
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of a small Llama."""

    hidden: int
    inner: int
    layers: int


# Large enough that no cache holds it in 4 bits, small enough to be written in a second.
HEAVY = Size(hidden=1024, inner=2816, layers=8)
# Nothing but layers: what a token costs beside its weights.
LIGHT = Size(hidden=128, inner=256, layers=24)
LIGHT_KINDS: dict[Format, str] = {"gguf": "q8_0", "onnx": "int8", "torch": "int8"}


def kinds_of(models: Iterable[ModelFacts]) -> list[Kind]:
    """Return every format and type of weight that `models` multiply, each once."""
    found = {
        (model.format, kind)
        for model in models
        for kind in (*model.block_weights, model.output_type)
    }
    return sorted(found)


def measure_costs(
    kinds: Iterable[Kind], threads: int, progress: Progress, rounds: int = ROUNDS
) -> dict[Format, Costs]:
    """Return what a weight of each kind costs on this machine with `threads` threads."""
    with Kernels(kinds, threads, progress) as kernels:
        with progress.task("timing kernels", rounds, unit="rounds") as advance:
            for _ in range(rounds):
                kernels.run()
                advance(1)
        return kernels.costs()


def wall_clock(_runtime: Runtime) -> Clock:
    """Return the clock that a user sees."""
    return time.perf_counter


@dataclass
class _Timed:
    runtime: Runtime
    weights: int
    layer_weights: int
    decode_s: list[float] = field(default_factory=list)
    prefill_s: list[float] = field(default_factory=list)


class Kernels:
    """One small model of each kind, loaded; `run` times each once, so that rounds interleave."""

    def __init__(
        self,
        kinds: Iterable[Kind],
        threads: int,
        progress: Progress,
        clock_of: Callable[[Runtime], Clock] = wall_clock,
    ) -> None:
        """Write and load the models. Raises MissingExtraError if an engine is not installed."""
        self._threads = threads
        self._clock_of = clock_of
        self._stack = ExitStack()
        self._heavy: dict[Kind, _Timed] = {}
        self._light: dict[Format, _Timed] = {}
        self._round = 0
        wanted = list(kinds)
        with progress.task("preparing kernels", len(wanted), unit="kernels") as advance:
            try:
                folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="edgekit-plan-")))
                heavy = write_checkpoint(folder / "heavy", HEAVY)
                light = write_checkpoint(folder / "light", LIGHT)
                for kind in wanted:
                    self._heavy[kind] = self._open(heavy, kind)
                    if kind[0] not in self._light:
                        self._light[kind[0]] = self._open(light, (kind[0], LIGHT_KINDS[kind[0]]))
                    advance(1)
            except BaseException:
                self._stack.close()
                raise

    def __enter__(self) -> Kernels:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, checkpoint: Checkpoint, kind: Kind) -> _Timed:
        known_format, name = kind
        recipe = Recipe(name, known_format, _SCHEMES.get(name, name), per_tensor={"*": name})
        out = checkpoint.path / f"{known_format}-{name}"
        artifact = convert(checkpoint, recipe, out, progress=NoProgress())
        runtime = load(artifact, context_length=CONTEXT_LENGTH, threads=self._threads)
        self._stack.callback(runtime.close)
        facts = ModelFacts.of(artifact)
        measure(runtime, _prompt(0)[:32], 4)  # the first answer pays for pages and buffers
        layers = facts.multiplied_weights
        return _Timed(runtime, layers + facts.output_weights, layers)

    def run(self) -> None:
        """Time every kind once more."""
        self._round += 1
        for timed in (*self._heavy.values(), *self._light.values()):
            clock = self._clock_of(timed.runtime)
            latency = measure(timed.runtime, _prompt(self._round), ANSWER_TOKENS, clock)
            timed.decode_s.append(1 / max(latency.decode_tokens_per_s, 1e-9))
            timed.prefill_s.append(latency.ttft_s)

    def costs(self) -> dict[Format, Costs]:
        """Return the medians so far."""
        return {known_format: self._costs_of(known_format) for known_format in self._light}

    def _costs_of(self, known_format: Format) -> Costs:
        timed = {kind: item for (group, kind), item in self._heavy.items() if group == known_format}
        layer_s = _layer_s(self._light[known_format])
        fixed = HEAVY.layers * layer_s + VOCABULARY * SAMPLE_S_PER_LOGIT
        decode = {
            kind: max(median(item.decode_s) - fixed, 0.0) / item.weights
            for kind, item in timed.items()
        }
        prefill = {
            kind: median(item.prefill_s) / PROMPT_TOKENS / item.layer_weights
            for kind, item in timed.items()
        }
        return Costs(self._threads, decode, prefill, layer_s)


def _layer_s(light: _Timed) -> float:
    """Return what a token costs in a layer beside the weights, by a model that is all layers."""
    rest = median(light.decode_s) - VOCABULARY * SAMPLE_S_PER_LOGIT
    return max(rest, 0.0) / LIGHT.layers


# A type whose name is no scheme is asked for with the scheme that uses it.
_SCHEMES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}


def _prompt(turn: int) -> list[int]:
    return [3 + (7 * turn + 5 * index) % 250 for index in range(PROMPT_TOKENS)]


def write_checkpoint(folder: Path, size: Size) -> Checkpoint:
    """Write a Llama of `size` with random weights and a tokenizer of bytes into `folder`."""
    folder.mkdir(parents=True)
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT_LENGTH,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    _write_tokenizer(folder)
    shapes = _shapes(size)
    weights = folder / "model.safetensors"
    write_tensors(weights, shapes, _random(shapes), lambda _: None)
    return Checkpoint.open(folder)


def _shapes(size: Size) -> dict[str, tuple[int, ...]]:
    hidden, inner = size.hidden, size.inner
    keys = hidden // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for layer in range(size.layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}self_attn.k_proj.weight": (keys, hidden),
            f"{prefix}self_attn.v_proj.weight": (keys, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}mlp.up_proj.weight": (inner, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, inner),
        }
    return shapes | {"model.norm.weight": (hidden,)}


def _random(shapes: dict[str, tuple[int, ...]]) -> Iterator[NDArray[np.float32]]:
    generator = np.random.default_rng(7)
    for shape in shapes.values():
        if len(shape) == 1:
            yield np.ones(shape, dtype=np.float32)
        else:
            yield generator.standard_normal(shape, dtype=np.float32) * np.float32(0.03)


def _write_tokenizer(folder: Path) -> None:
    library = need("tokenizers", "onnx")
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    names = ["<|end|>", *alphabet, "ab"]
    names += [f"<unused{index}>" for index in range(VOCABULARY - len(names))]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Digits(individual_digits=True),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|end|>", "bos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
