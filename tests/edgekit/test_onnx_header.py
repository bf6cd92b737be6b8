"""The ONNX walk: what the onnx library writes passes, what is damaged or reaches out does not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.errors import InputError
from edgekit.onnx_header import check


def stored(location: str = "m.data", offset: int = 64, length: int = 48) -> TensorProto:
    """Return an initialiser of float32 [3, 4] that lies in another file."""
    tensor = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[3, 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model(*initializers: TensorProto, domain: str = "") -> onnx.ModelProto:
    """Return a model with two nodes, one of which holds a graph."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])
    inside = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("k", 1, [2], [1, 2]))
    branch = helper.make_graph([inside], "branch", [], [])
    nodes = [
        helper.make_node("Identity", ["x"], ["y"], domain=domain),
        helper.make_node("If", ["y"], ["z"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(nodes, "g", [value], [], list(initializers))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(domain or "com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    """Return a function that saves a model beside a data file of 112 bytes."""
    (tmp_path / "m.data").write_bytes(bytes(112))

    def save(proto: onnx.ModelProto) -> Path:
        path = tmp_path / "m.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return save


Write = Callable[[onnx.ModelProto], Path]


def test_a_model_of_the_onnx_library_passes(write: Write) -> None:
    inside = helper.make_tensor("inside", TensorProto.INT64, [2], [5, 6])
    raw = helper.make_tensor("raw", TensorProto.FLOAT16, [2], b"1234", raw=True)
    check(write(model(stored(), inside, raw)))


def test_a_finished_export_passes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from converters.architectures import describe
    from converters.checkpoint import Checkpoint
    from converters.export_onnx import export_onnx
    from converters.recipe import Recipe
    from edgekit.progress import NoProgress

    checkpoint = Checkpoint.open(tiny_checkpoint)
    shape, recipe = describe(checkpoint), Recipe.of("onnx", "int4")
    export_onnx(checkpoint, shape, recipe, None, None, tmp_path, NoProgress())
    check(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "location",
    ["../m.data", "/etc/passwd", "", ".", "..", "missing.data", "a/b", "a\\b", "c:m.data", "x\0y"],
)
def test_a_place_outside_the_folder_is_refused(write: Write, location: str) -> None:
    with pytest.raises(InputError, match="not a plain file of the same folder"):
        check(write(model(stored(location))))


def test_a_symbolic_link_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "m.data")
    with pytest.raises(InputError, match="not a plain file"):
        check(write(model(stored("link"))))


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        (65, 48, "ends at byte 113 of m.data, which has 112"),
        (10**17, 48, "ends at byte"),
        (0, 44, "has 44 bytes, its dimensions need 48"),
        (-1, 48, "has the offset '-1'"),
        (10**30, 48, "has the offset"),
    ],
)
def test_a_place_outside_the_data_is_refused(
    write: Write, offset: int, length: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check(write(model(stored(offset=offset, length=length))))


def test_impossible_dimensions_are_refused(write: Write) -> None:
    tensor = stored()
    for dims in ([2**62, 4], [-1, -12], [1] * 9, [2**39, 2**39]):
        del tensor.dims[:]
        tensor.dims.extend(dims)
        with pytest.raises(InputError, match="impossible dimensions"):
            check(write(model(tensor)))


def test_raw_data_of_the_wrong_size_is_refused(write: Write) -> None:
    tensor = helper.make_tensor("raw", TensorProto.FLOAT, [2], b"12345678", raw=True)
    tensor.dims[0] = 3
    with pytest.raises(InputError, match="has 8 bytes, its dimensions need 12"):
        check(write(model(tensor)))


def test_data_inside_and_outside_is_refused(write: Write) -> None:
    tensor = stored()
    tensor.raw_data = bytes(48)
    with pytest.raises(InputError, match="inside and outside"):
        check(write(model(tensor)))


def test_an_unknown_operator_domain_is_refused(write: Write) -> None:
    with pytest.raises(InputError, match=r"operators of 'evil\.ops'"):
        check(write(model(domain="evil.ops")))


def test_functions_of_its_own_are_refused(write: Write) -> None:
    proto = model()
    proto.functions.add(name="f", domain="")
    with pytest.raises(InputError, match="functions"):
        check(write(proto))


def test_deeply_nested_graphs_are_refused(write: Write) -> None:
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(12):
        graph = helper.make_graph([helper.make_node("If", [], [], then_branch=graph)], "g", [], [])
    opsets = [helper.make_opsetid("", 21)]
    with pytest.raises(InputError, match="nested"):
        check(write(helper.make_model(graph, opset_imports=opsets)))


def test_millions_of_fields_are_refused_in_time(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x01" * (2 << 20))
    with pytest.raises(InputError, match="more than 1048576 fields"):
        check(path)


def test_a_file_that_is_missing_empty_or_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        check(tmp_path / "absent.onnx")
    path = tmp_path / "m.onnx"
    for data in (b"", b"GGUF", b"\x00" * 40, b"\xff" * 40, b"{}"):
        path.write_bytes(data)
        with pytest.raises(InputError):
            check(path)


def test_every_truncation_and_many_bit_flips_pass_or_are_input_errors(write: Write) -> None:
    path = write(model(stored(), helper.make_tensor("i", TensorProto.INT64, [2], [5, 6])))
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    chance = random.Random(4)
    for _ in range(1000):
        flipped = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(flipped))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            check(path)
        except InputError:
            refused += 1
    assert refused > len(damaged) // 4
