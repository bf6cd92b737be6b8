"""Tiny real models, built by code: every architecture, random weights, a trained tokenizer."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The tests run side by side, and torch's threads wait for each other spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Started in the background or by nohup, the programs of tests would inherit deafness to signals.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
    "+ message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TRAINING_TEXT = [
    "The quick brown fox jumps over the lazy dog. A kettle boils at 100 degrees.",
    "def add(left: int, right: int) -> int:\n    return left + right\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. 12345 67890",
    "敏捷的棕色狐狸跳过了懒狗。  いろはにほへと ちりぬるを",
    "user asks, assistant answers; the model runs with no network at all!",
]


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Undo what a test's code sets for its process: privacy mode and the quiet environment do."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def edgekit_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a store of its own, so that none touches the user's."""
    home = tmp_path_factory.mktemp("edgekit-home")
    monkeypatch.setenv("EDGEKIT_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def loopback() -> None:
    """Make 127.0.0.1 work, or skip: with the network cut by `unshare -n`, lo is there but down."""
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        try:
            client.connect(server.getsockname())
        except OSError:
            _raise_loopback(client)


def _raise_loopback(any_socket: socket.socket) -> None:
    """Set the flag IFF_UP of lo (netdevice(7)), which root may do in a namespace of its own."""
    get_flags, set_flags, up = 0x8913, 0x8914, 0x1
    request = struct.pack("16sh22x", b"lo", 0)
    try:
        flags = struct.unpack("16sh22x", fcntl.ioctl(any_socket, get_flags, request))[1]
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh22x", b"lo", flags | up))
    except OSError as error:
        pytest.skip(f"the loopback interface is down: {error}")


def write_tokenizer(folder: Path, vocabulary_size: int = 640) -> int:
    """Train a byte-level BPE like SmolLM2's on a few lines; return the vocabulary's real size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tokenizer.get_vocab_size()


def build_checkpoint(folder: Path, architecture: str = "llama", **overrides: Any) -> Path:
    """Save a two-layer model of `architecture` with random weights into `folder`.

    The default width is 256, legal for every GGUF type. `overrides` go to the configuration;
    `dtype` is the type of the saved weights.
    """
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    dtype = overrides.pop("dtype", torch.float32)
    settings: dict[str, Any] = {
        "vocab_size": write_tokenizer(folder),
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.08,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "rope_theta": 10000.0,
    }
    if architecture == "mistral":
        settings["sliding_window"] = None
    if architecture == "qwen3":
        settings["head_dim"] = 64
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[
        architecture
    ]
    config = getattr(transformers, f"{name}Config")(**(settings | overrides))
    torch.manual_seed(7)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():  # norms and biases of a fresh model are 1 and 0: errors there would hide
        for key, value in model.named_parameters():
            if key.endswith("norm.weight"):
                value.uniform_(0.6, 1.4)
            elif key.endswith("bias"):
                value.normal_(0.0, 0.3)
    model.generation_config.eos_token_id = 2
    model.to(dtype).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that builds a tiny checkpoint, once for each set of arguments."""
    built: dict[str, Path] = {}

    def make(architecture: str = "llama", **overrides: Any) -> Path:
        key = f"{architecture} {sorted(overrides.items())}"
        if key not in built:
            built[key] = build_checkpoint(
                tmp_path_factory.mktemp(architecture) / "tiny", architecture, **overrides
            )
        return built[key]

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """Return the folder of a tiny Llama checkpoint. Read only: it is shared by all tests."""
    return make_checkpoint("llama")
