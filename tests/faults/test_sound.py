"""Conversions that are whole: no stage is named, whatever the scheme and the architecture."""

from __future__ import annotations

from typing import Any

import pytest

GGUF = ("f16", "q4_k_m", "q8_0", "iq4_nl", "q5_0", "q6_k", "q3_k_m", "bf16",
        "f32", "q4_0", "q4_1", "iq4_xs")  # fmt: skip
ONNX = ("int4", "int8", "f32", "f16")
MODELS = [(name, tied) for name in ("llama", "mistral", "qwen2", "qwen3") for tied in (True, False)]
# Every model in both formats, every scheme at least once.
CASES = [(*MODELS[i % 8], "gguf", scheme) for i, scheme in enumerate(GGUF)] + [
    (*model, "onnx", ONNX[(i + i // 4) % 4]) for i, model in enumerate(MODELS)
]
CASES += [("llama", True, "torch", "int8"), ("qwen3", False, "torch", "nf4"),
          ("qwen2", True, "torch", "bf16")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "tied", "format_name", "scheme"), CASES)
def test_nothing_is_named_where_nothing_is_broken(
    architecture: str, tied: bool, format_name: str, scheme: str, converted: Any, judge: Any
) -> None:
    from edgekit.artifact import Artifact

    if format_name == "torch":
        pytest.importorskip("bitsandbytes")
    settings = {} if tied else {"tie_word_embeddings": False}
    checkpoint, artifact = converted(format_name, scheme, architecture, **settings)
    checked = judge(Artifact.open(artifact), checkpoint)
    found = [(report.stage, report.ok, report.what) for report in checked.stages]
    assert [ok for _, ok, _ in found] == [True] * 4, found
    assert checked.certificate is not None
    assert checked.certificate.token_ids_equal
