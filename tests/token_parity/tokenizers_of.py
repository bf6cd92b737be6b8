"""The tokenizers that must agree, each behind the same two functions."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path
from typing import Any

from runtimes import llama_library

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class LlamaCpp:
    """llama.cpp's tokenizer on the vocabulary of a GGUF file."""

    def __init__(self, path: Path) -> None:
        # Silenced once for the process: a receiver of this object's own would be freed with it,
        # and llama.cpp would call freed memory in whatever test comes later.
        self.library = llama_library.load()
        params = self.library.llama_model_default_params()
        params.vocab_only = True
        self.model = self.library.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, path
        self.vocabulary = self.library.llama_model_get_vocab(self.model)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        data = text.encode()
        ids = (self.library.llama_token * (len(data) + 8))()
        count = self.library.llama_tokenize(
            self.vocabulary, data, len(data), ids, len(ids), False, special
        )
        assert count >= 0
        return list(ids[:count])

    def decode(self, ids: list[int]) -> str:
        """Join the pieces of the tokens, as a chat does that prints while tokens come."""
        return b"".join(map(self._piece, ids)).decode(errors="replace")

    def _piece(self, token_id: int) -> bytes:
        out = ctypes.create_string_buffer(256)
        size = self.library.llama_token_to_piece(self.vocabulary, token_id, out, 256, 0, True)
        assert size >= 0
        return out.raw[:size]

    def detokenize(self, ids: list[int]) -> str:
        """Decode at once. With some pre-tokenizers this drops spaces before punctuation."""
        array = (self.library.llama_token * max(1, len(ids)))(*ids)
        out = ctypes.create_string_buffer(256 * len(ids) + 16)
        size = self.library.llama_detokenize(
            self.vocabulary, array, len(ids), out, len(out), False, True
        )
        assert size >= 0
        return out.raw[:size].decode(errors="replace")

    def close(self) -> None:
        self.library.llama_model_free(self.model)


class HuggingFace:
    """The `tokenizers` library on tokenizer.json."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.parsing = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.plain.encode_special_tokens = True

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        tokenizer = self.parsing if special else self.plain
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        return str(self.parsing.decode(ids, skip_special_tokens=False))


class Transformers:
    """What transformers makes of the folder by itself."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids))


class OnnxGenai:
    """ONNX Runtime GenAI's own tokenizer, on a copy of the folder's tokenizer files."""

    def __init__(self, folder: Path, work: Path, vocabulary_size: int) -> None:
        import onnxruntime_genai

        work.mkdir()
        for name in FILES:
            shutil.copy(folder / name, work / name)
        _write_smallest_model(work, vocabulary_size)
        self.model = onnxruntime_genai.Model(str(work))
        self.tokenizer = onnxruntime_genai.Tokenizer(self.model)
        self.tokenizer.update_options(skip_special_tokens=False)

    def encode(self, text: str) -> list[int]:
        return [int(token_id) for token_id in self.tokenizer.encode(text)]

    def decode(self, ids: list[int]) -> str:
        # an empty list makes GenAI 0.14.1 divide by zero
        return str(self.tokenizer.decode(ids)) if ids else ""

    def decode_stream(self, ids: list[int]) -> str:
        stream = self.tokenizer.create_stream()
        return "".join(stream.decode(token_id) for token_id in ids)


def _write_smallest_model(folder: Path, vocabulary_size: int) -> None:
    """Write a model of one node: GenAI has no tokenizer without a model."""
    import onnx
    from onnx import TensorProto, helper

    def value(name: str, kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, ["batch", "length"])

    graph = helper.make_graph(
        [helper.make_node("Cast", ["input_ids"], ["logits"], to=TensorProto.FLOAT)],
        "smallest",
        [value("input_ids", TensorProto.INT64)],
        [value("logits", TensorProto.FLOAT)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    decoder = {
        "filename": "model.onnx",
        "head_size": 64,
        "hidden_size": 64,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "session_options": {"provider_options": []},
        "inputs": {"input_ids": "input_ids"},
        "outputs": {"logits": "logits"},
    }
    config = {
        "model": {
            "type": "llama",
            "vocab_size": vocabulary_size,
            "context_length": 512,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "decoder": decoder,
        },
        "search": {"max_length": 512},
    }
    (folder / "genai_config.json").write_text(json.dumps(config))
