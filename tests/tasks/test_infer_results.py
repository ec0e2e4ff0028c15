"""infer gives every result of a model, of the numbers it was given, or says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from longshore_gpu_workers.tasks.inference import onnx_files
from tests.tasks.conftest import MakeContext
from tests.tasks.infer_models import adder, graph, refused, run, save

FLOAT = TensorProto.FLOAT


@pytest.mark.parametrize("batch_size", [2, 64])
def test_an_output_with_other_rows_than_the_inputs_is_not_cut(
    make_run: MakeContext, tmp_path: Path, batch_size: int
) -> None:
    """As of a detector that suppresses boxes: more rows than images, of which none may be lost."""
    nodes = [helper.make_node("Concat", ["x", "x", "x"], ["boxes"], axis=0)]
    made = graph(nodes, {"x": (FLOAT, ["N", 2])}, ("boxes", FLOAT, ["M", 2]))
    job = make_run(model=save(tmp_path / "m.onnx", made))
    error = refused(job, "OUTPUT_NOT_BATCHED", data={"x": [[1, 2]] * 5}, batch_size=batch_size)
    assert "'boxes'" in str(error)


def test_an_output_of_another_axis_first_is_not_cut(make_run: MakeContext, tmp_path: Path) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])]
    made = graph(nodes, {"x": (FLOAT, ["N", 10])}, ("y", FLOAT, [10, "N"]))
    job = make_run(model=save(tmp_path / "m.onnx", made))
    refused(job, "OUTPUT_NOT_BATCHED", data={"x": [[0.0] * 10] * 3})


@pytest.mark.parametrize("order", [">f4", "<f4"])
def test_the_order_of_bytes_is_the_machines(
    make_run: MakeContext, tmp_path: Path, order: str
) -> None:
    given = {n: np.array([[1.0, 2.0, 3.0]], order) for n in ("a", "b")}
    np.savez(tmp_path / "data.npz", **given)  # type: ignore[arg-type]  # arrays by name
    job = make_run(model=adder(tmp_path / "add.onnx"), data=tmp_path / "data.npz")
    run(job, format="json")
    found = json.loads((job.folder / "predictions.json").read_text())
    assert found == {"sum": [[2.0, 4.0, 6.0]]}


def test_top_k_takes_nan_for_the_smallest(make_run: MakeContext, tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    made = graph(nodes, {"x": (FLOAT, ["N", 3])}, ("y", FLOAT, ["N", 3]))
    np.savez(tmp_path / "d.npz", x=np.array([[np.nan, 1, 2]], np.float32))
    job = make_run(model=save(tmp_path / "m.onnx", made), data=tmp_path / "d.npz")
    run(job, top_k=2, format="json")
    found = json.loads((job.folder / "predictions.json").read_text())
    assert found == {"y_indices": [[2, 1]], "y_values": [[2.0, 1.0]]}


def test_text_that_ends_with_nul_is_for_json(make_run: MakeContext, tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    made = graph(nodes, {"x": (TensorProto.STRING, ["N"])}, ("y", TensorProto.STRING, ["N"]))
    model = save(tmp_path / "m.onnx", made)
    job = make_run(model=model)
    refused(job, "OUTPUT_NOT_NPZ", data={"x": ["a\0"]})
    run(job, data={"x": ["a\0"]}, format="json")
    assert json.loads((job.folder / "predictions.json").read_text()) == {"y": ["a\0"]}


SCALED = [helper.make_node("Mul", ["x", "k"], ["y"])]


def test_a_shared_input_goes_whole_into_every_batch(make_run: MakeContext, tmp_path: Path) -> None:
    made = graph(SCALED, {"x": (FLOAT, ["N", 2]), "k": (FLOAT, [])}, ("y", FLOAT, ["N", 2]))
    job = make_run(model=save(tmp_path / "m.onnx", made))
    data = {"x": [[n, n] for n in range(5)], "k": 10}
    assert run(job, data=data, shared=["k"], batch_size=2, format="json").batches == 3
    found = json.loads((job.folder / "predictions.json").read_text())
    assert found == {"y": [[10.0 * n] * 2 for n in range(5)]}


def test_a_file_of_json_has_single_values_too(make_run: MakeContext, tmp_path: Path) -> None:
    made = graph(SCALED, {"x": (FLOAT, ["N", 2]), "k": (FLOAT, [])}, ("y", FLOAT, ["N", 2]))
    data = tmp_path / "data.json"
    data.write_text('{"x": [[1, 2]], "k": 10}')
    job = make_run(model=save(tmp_path / "m.onnx", made), data=data)
    run(job, shared=["k"], format="json")
    assert json.loads((job.folder / "predictions.json").read_text()) == {"y": [[10.0, 20.0]]}


def test_a_vector_is_not_taken_for_rows_because_the_numbers_agree(
    make_run: MakeContext, tmp_path: Path
) -> None:
    made = graph(SCALED, {"x": (FLOAT, ["N", 3]), "k": (FLOAT, [3])}, ("y", FLOAT, ["N", 3]))
    model = save(tmp_path / "m.onnx", made)
    data = {"x": [[1, 1, 1]] * 3, "k": [1, 2, 3]}
    job = make_run(model=model)
    error = refused(job, "INPUT_MISMATCH", data=data)
    assert [field for field, _ in error.violations] == ["shared: k"]
    run(job, data=data, shared=["k"], format="json")
    found = json.loads((job.folder / "predictions.json").read_text())
    assert found == {"y": [[1.0, 2.0, 3.0]] * 3}


@pytest.mark.parametrize(
    ("more", "field"),
    [({"shared": ["x", "k"]}, "shared"), ({"shared": ["z"]}, "shared: z"), ({}, "data.k")],
)
def test_what_is_shared_and_cannot_be(
    make_run: MakeContext, tmp_path: Path, more: dict[str, Any], field: str
) -> None:
    made = graph(SCALED, {"x": (FLOAT, ["N", 2]), "k": (FLOAT, [])}, ("y", FLOAT, ["N", 2]))
    job = make_run(model=save(tmp_path / "m.onnx", made))
    error = refused(job, "INPUT_MISMATCH", data={"x": [[1, 2]], "k": 3}, **more)
    assert field in [found for found, _ in error.violations]


def test_a_type_that_no_array_has_is_said(make_run: MakeContext, tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("s", FLOAT, ["N"])
    y = helper.make_tensor_value_info("y", FLOAT, ["N"])
    nodes = [helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)]
    model = save(tmp_path / "m.onnx", helper.make_graph(nodes, "g", [sequence], [y]))
    np.savez(tmp_path / "d.npz", s=np.zeros(3, np.float32))
    error = refused(make_run(model=model, data=tmp_path / "d.npz"), "INPUT_MISMATCH")
    assert "seq(tensor(float))" in str(error)
    assert "astype" not in str(error)


def test_a_model_written_to_be_slow_is_refused(
    make_run: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "MAX_FIELDS", 1000)
    path = tmp_path / "slow.onnx"
    path.write_bytes(b"\x08\x01" * 1001)  # the same field again and again
    error = refused(make_run(model=path), "NOT_A_MODEL", data={"x": [1]})
    assert "1000 fields" in str(error)


def test_an_operator_with_cuda_in_its_name_is_not_a_sick_device(
    make_run: MakeContext, tmp_path: Path
) -> None:
    node = helper.make_node("CudaNMS", ["x"], ["y"], domain="acme.cuda")
    made = graph([node], {"x": (FLOAT, ["N", 2])}, ("y", FLOAT, ["N", 2]))
    model = tmp_path / "m.onnx"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme.cuda", 1)]
    whole = helper.make_model(made, ir_version=9, opset_imports=opsets)
    model.write_bytes(whole.SerializeToString())
    error = refused(make_run(model=model), "NOT_A_MODEL", data={"x": [[1, 2]]})
    assert "CudaNMS" in str(error)
