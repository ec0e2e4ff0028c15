"""infer, on the CPU, against onnxruntime called directly."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from examples.make_inputs import make_images, make_model, small_model
from longshore.sdk import JobCancelled, PermanentError, TaskError
from longshore_gpu_workers.tasks.inference import runtime
from tests.tasks.conftest import MakeContext
from tests.tasks.infer_models import adder, refused, run, save

COUNT = 100


@pytest.fixture(scope="session")
def model(media: Path) -> Path:
    return make_model(media / "model.onnx")


@pytest.fixture(scope="session")
def images(media: Path) -> Path:
    return make_images(media / "images.npz", COUNT)


@pytest.fixture(scope="session")
def expected(model: Path, images: Path) -> Any:
    session = onnxruntime.InferenceSession(str(model), providers=[runtime.CPU])
    return session.run(None, {"image": np.load(images)["image"]})[0]


@pytest.mark.parametrize("batch_size", [1, 7, 50, 65_536])
def test_predictions_are_those_of_the_model(
    make_run: MakeContext, model: Path, images: Path, expected: Any, batch_size: int
) -> None:
    job = make_run(model=model, data=images)
    result = run(job, batch_size=batch_size)
    assert job.files == {"predictions.npz"}
    with np.load(job.folder / "predictions.npz") as arrays:
        np.testing.assert_allclose(arrays["probabilities"], expected, rtol=1e-5)
    assert (result.count, result.batches) == (COUNT, -(-COUNT // batch_size))
    (output,) = result.outputs
    assert (output.name, output.shape, output.dtype) == ("probabilities", [COUNT, 10], "float32")
    assert (result.provider, result.simulated) == ("CPUExecutionProvider", False)
    assert len(result.model_sha256) == 12


def test_progress_counts_inputs(make_run: MakeContext, model: Path, images: Path) -> None:
    job = make_run(model=model, data=images)
    run(job, batch_size=30)
    reports = [r for r in job.channel.reports if r.phase == "infer"]
    assert [(r.completed, r.total, r.unit) for r in reports] == [
        (done, COUNT, "inputs") for done in (30, 60, 90, 100)
    ]
    assert job.channel.fractions[-1] == 1.0
    assert reports[-1].metrics["inputs_per_second"] > 0


def test_cancel_is_seen_between_batches(make_run: MakeContext, model: Path, images: Path) -> None:
    job = make_run(model=model, data=images)
    job.channel.cancel_when = lambda report: report.completed == 20
    with pytest.raises(JobCancelled):
        run(job, batch_size=10)
    assert job.files == set()
    assert job.channel.reports[-1].completed == 20


def test_json_in_and_out(
    make_run: MakeContext, model: Path, images: Path, expected: Any, tmp_path: Path
) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"image": np.load(images)["image"].tolist()}))
    job = make_run(model=model, data=data)
    assert run(job, format="json").artifact == "predictions.json"
    made = json.loads((job.folder / "predictions.json").read_text())
    np.testing.assert_allclose(made["probabilities"], expected, rtol=1e-4)


def test_inline_data_and_names(make_run: MakeContext, tmp_path: Path) -> None:
    job = make_run(model=adder(tmp_path / "m.onnx"))
    rows = {"x": [[1, 2, 3]], "b": [[10, 20, 30.5]]}
    run(job, data=rows, inputs={"a": "x"}, format="json")
    assert json.loads((job.folder / "predictions.json").read_text()) == {"sum": [[11, 22, 33.5]]}


def test_one_array_needs_no_name(make_run: MakeContext, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", np.zeros((2, 1, 16, 16), np.float32))
    assert run(make_run(model=model, data=tmp_path / "d.npz")).count == 2


def test_a_fixed_first_dimension_is_padded(make_run: MakeContext, tmp_path: Path) -> None:
    job = make_run(model=adder(tmp_path / "m.onnx", rows=4))
    rows = {"a": [[n, n, n] for n in range(6)], "b": [[1, 1, 1]] * 6}
    result = run(job, data=rows, format="json", batch_size=64)
    assert (result.count, result.batches) == (6, 2)
    made = json.loads((job.folder / "predictions.json").read_text())
    assert made["sum"] == [[n + 1] * 3 for n in range(6)]


def test_top_k_keeps_the_largest(
    make_run: MakeContext, model: Path, images: Path, expected: Any
) -> None:
    job = make_run(model=model, data=images)
    names = [output.name for output in run(job, top_k=3).outputs]
    assert names == ["probabilities_indices", "probabilities_values"]
    with np.load(job.folder / "predictions.npz") as arrays:
        np.testing.assert_array_equal(
            arrays["probabilities_indices"], np.argsort(-expected, axis=1, kind="stable")[:, :3]
        )


def test_text_goes_in_and_out(make_run: MakeContext, tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(n, TensorProto.STRING, ["N"]) for n in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:]
    )
    job = make_run(model=save(tmp_path / "m.onnx", graph))
    assert run(job, data={"x": ["one", "zwei"]}).outputs[0].dtype == "str"
    with np.load(job.folder / "predictions.npz", allow_pickle=False) as arrays:
        assert arrays["y"].tolist() == ["one", "zwei"]


def test_a_simulated_device_is_said(make_run: MakeContext, model: Path, images: Path) -> None:
    result = run(make_run(("Simulated GPU 0",), model=model, data=images))
    assert (result.provider, result.simulated) == ("CPUExecutionProvider", True)
    assert result.devices == ["Simulated GPU 0"]


@pytest.mark.parametrize(
    ("devices", "visible", "first"),
    [
        (("NVIDIA H100",), "0", runtime.CUDA),
        (("NVIDIA H100",), "", runtime.CPU),
        (("Simulated GPU 0",), "0", runtime.CPU),
        ((), "0", runtime.CPU),
    ],
)
def test_cuda_is_for_real_and_visible_devices(
    monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...], visible: str, first: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    chosen = runtime.providers_for(devices, [runtime.CUDA, runtime.CPU])
    assert (chosen[0][0] if isinstance(chosen[0], tuple) else chosen[0]) == first


@pytest.mark.parametrize("content", [b"", b"just text\n" * 50, b"\x08\x09", b"\x80" * 40])
def test_rubbish_is_no_model(
    make_run: MakeContext, images: Path, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    job = make_run(model=path, data=images)
    assert refused(job, "NOT_A_MODEL").metadata == {"input": "model"}


def test_half_a_model_is_none(
    make_run: MakeContext, model: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "half.onnx").write_bytes(model.read_bytes()[:10_000])
    refused(make_run(model=tmp_path / "half.onnx", data=images), "NOT_A_MODEL")


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def _initializer(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.initializer.append(tensor)


def _attribute(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["w"], value=tensor))


def _subgraph(model: ModelProto, tensor: TensorProto) -> None:
    branch = GraphProto(name="branch", initializer=[tensor])
    attribute = AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=branch)
    model.graph.node.add(op_type="If", attribute=[attribute])


def _sparse(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.sparse_initializer.add(values=tensor)


def _function(model: ModelProto, tensor: TensorProto) -> None:
    function = model.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["w"], value=tensor))


def _training(model: ModelProto, tensor: TensorProto) -> None:
    model.training_info.add(algorithm=GraphProto(initializer=[tensor]))


@pytest.mark.parametrize(
    "place", [_initializer, _attribute, _subgraph, _sparse, _function, _training]
)
@pytest.mark.parametrize(
    "location", ["../../../etc/passwd", "/etc/passwd", "w.bin", "*/_ORT_MEM_ADDR_/*"]
)
def test_weights_in_other_files_are_refused(
    make_run: MakeContext, images: Path, tmp_path: Path, place: Any, location: str
) -> None:
    model = small_model()
    place(model, external(location))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "w.bin").write_bytes(bytes(16))
    error = refused(make_run(model=tmp_path / "m.onnx", data=images), "NOT_A_MODEL")
    assert "outside the file" in str(error)


def test_every_input_that_does_not_fit_is_said(make_run: MakeContext, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=np.zeros((5, 4)), c=np.zeros(5))
    job = make_run(model=adder(tmp_path / "m.onnx"), data=tmp_path / "d.npz")
    error = refused(job, "INPUT_MISMATCH", inputs={"z": "c"})
    assert dict(error.violations) == {
        "inputs.z": "the model has no input 'z'; it has a, b",
        "data.a": "the model wants float32 [any, 3]; the data has float64 [5, 4]; "
        "convert it with array.astype('float32')",
        "data.b": "the model wants float32 [any, 3]; the data has no 'b', only a, c",
    }


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"a": [[1, 2]], "b": [[1, 2, 3]]}, "the data has float32 [1, 2]"),
        ({"a": [[1, 2], [3]], "b": [[1, 2, 3]]}, "the rows are uneven"),
        ({"a": [["x", "y", "z"]], "b": [[1, 2, 3]]}, "other things than numbers"),
        ({"a": [], "b": [[1, 2, 3]]}, "the data has float32 [0]"),
        ({"a": [[1, 2, 3]] * 2, "b": [[1, 2, 3]]}, "a has 2, b has 1"),
    ],
)
def test_rows_that_do_not_fit(
    make_run: MakeContext, tmp_path: Path, rows: dict[str, Any], said: str
) -> None:
    job = make_run(model=adder(tmp_path / "m.onnx"))
    assert said in str(refused(job, "INPUT_MISMATCH", data=rows))


def test_numbers_the_type_cannot_hold(make_run: MakeContext, tmp_path: Path) -> None:
    job = make_run(model=adder(tmp_path / "m.onnx", kind=TensorProto.INT32))
    rows = {"a": [[1, 2, 1.5]], "b": [[1, 2, 2**40]]}
    error = refused(job, "INPUT_MISMATCH", data=rows)
    assert [field for field, _ in error.violations] == ["data.a", "data.b"]


def test_an_unknown_output(make_run: MakeContext, model: Path, images: Path) -> None:
    job = make_run(model=model, data=images)
    assert "it has probabilities" in str(refused(job, "INPUT_MISMATCH", outputs=["scores"]))


def npz(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def _bomb() -> bytes:
    """A header that promises far more than there is."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 256)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + bytes(64)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"neither", "neither npz nor JSON"),
        (b"", "neither npz nor JSON"),
        (pickle.dumps({"image": [1]}), "neither npz nor JSON"),
        (b"[1, 2]", "no object of lists"),
        (b'{"image": null}', "no object of lists"),
        (b"[" * 100_000, "neither npz nor JSON"),
        (b"PK\x03\x04 and nothing", "cannot be read"),
    ],
)
def test_what_is_no_data(
    make_run: MakeContext, model: Path, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "d").write_bytes(content)
    error = refused(make_run(model=model, data=tmp_path / "d"), "NOT_DATA")
    assert said in str(error)
    assert error.metadata == {"input": "data"}


@pytest.mark.parametrize(
    ("member", "said"), [(_bomb(), "does not fill"), (_pickled(), "pickled"), (b"x", "read")]
)
def test_npz_members_are_checked_before_they_are_read(
    make_run: MakeContext, model: Path, tmp_path: Path, member: bytes, said: str
) -> None:
    job = make_run(model=model, data=npz(tmp_path / "d.npz", "image.npy", member))
    assert said in str(refused(job, "NOT_DATA"))


def test_inputs_that_are_missing(make_run: MakeContext, model: Path) -> None:
    job = make_run(model=model)
    assert refused(job, "INPUT_MISSING").metadata == {"input": "data"}


def test_data_twice(make_run: MakeContext, model: Path, images: Path) -> None:
    refused(make_run(model=model, data=images), "NOT_DATA", data={"image": [[1]]})


def test_an_output_without_rows(make_run: MakeContext, tmp_path: Path) -> None:
    shapes: dict[str, list[Any]] = {"x": ["N", 2], "y": []}
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    model = save(tmp_path / "m.onnx", helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    error = refused(make_run(model=model), "OUTPUT_NOT_BATCHED", data={"x": [[1, 2], [3, 4]]})
    assert "'y'" in str(error)


def test_nan_is_no_json(make_run: MakeContext, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.array([0.0], np.float32), "zero")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 1]) for n in ("x", "y")]
    nodes = [helper.make_node("Div", ["x", "zero"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    job = make_run(model=save(tmp_path / "m.onnx", graph))
    refused(job, "OUTPUT_NOT_JSON", data={"x": [[1]]}, format="json")


@pytest.mark.parametrize(
    ("text", "reason", "permanent"),
    [
        ("Failed to allocate memory for requested buffer of size 99", "OUT_OF_MEMORY", False),
        ("CUDA failure 2: out of memory", "OUT_OF_MEMORY", False),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", "OUT_OF_MEMORY", False),
        ("CUDA failure 719: unspecified launch failure", "DEVICE_ERROR", False),
        ("Got invalid dimensions for input: x", "MODEL_FAILED", True),
    ],
)
def test_failures_of_the_runtime_keep_their_text(
    make_run: MakeContext,
    model: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    reason: str,
    permanent: bool,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr("onnxruntime.InferenceSession.run", fail)
    with pytest.raises(TaskError) as caught:
        run(make_run(model=model, data=images))
    assert caught.value.reason == reason
    assert text in str(caught.value)
    assert isinstance(caught.value, PermanentError) is permanent
