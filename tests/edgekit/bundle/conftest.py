"""What the tests of bundles share: small artifacts, a lock and a folder of wheels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.edgekit.bundle.wheel_maker import locked, make_wheel
from tests.edgekit.bundle.workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """Return a workshop with four small wheels: one for every bundle, three for engines."""
    shop = Workshop(tmp_path)
    house = shop.wheelhouse
    click = make_wheel(house, "click", "8.5.1")
    jinja2 = make_wheel(house, "jinja2", "3.1.6", headers="Requires-Dist: markupsafe>=2.0\n")
    markupsafe = make_wheel(
        house, "markupsafe", "3.0.4", tag="cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64"
    )
    runtime = make_wheel(house, "onnxruntime", "1.28.0", tag="cp311-cp311-manylinux_2_27_aarch64")
    make_wheel(house, "llama-cpp-python", "0.3.36", tag="py3-none-manylinux_2_27_aarch64")
    shop.write_locks(
        [
            locked(click, "chat"),
            locked(jinja2, "gguf", "onnx"),
            locked(markupsafe, "gguf", "onnx"),
            locked(runtime, "onnx"),
        ]
    )
    return shop


@pytest.fixture
def gguf(artifacts_of_each_engine: Path) -> Path:
    """Return a tiny GGUF artifact called `gguf`. Read only: it is shared by all tests."""
    return artifacts_of_each_engine / "artifacts" / "gguf"


@pytest.fixture
def onnx(artifacts_of_each_engine: Path) -> Path:
    """Return a tiny ONNX artifact called `onnx`. Read only: it is shared by all tests."""
    return artifacts_of_each_engine / "artifacts" / "onnx"
