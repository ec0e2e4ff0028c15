"""Small models, and infer run over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import GraphProto, TensorProto, helper

from longshore.sdk import PermanentError
from longshore_gpu_workers.tasks import infer
from longshore_gpu_workers.tasks.inference.params import InferParams, InferResult
from tests.tasks.conftest import Run


def run(job: Run, **params: Any) -> InferResult:
    result: InferResult = infer(job.ctx, InferParams.model_validate(params))
    return result


def refused(job: Run, reason: str, **params: Any) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        run(job, **params)
    assert (caught.value.reason, caught.value.code) == (reason, 3)
    assert job.files == set()
    return caught.value


def save(path: Path, graph: GraphProto) -> Path:
    opsets = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(graph, ir_version=9, opset_imports=opsets).SerializeToString()
    )
    return path


def adder(path: Path, rows: int | str = "N", kind: int = TensorProto.FLOAT) -> Path:
    """sum = a + b, both [rows, 3]."""
    values = [helper.make_tensor_value_info(n, kind, [rows, 3]) for n in ("a", "b", "sum")]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"])]
    return save(path, helper.make_graph(nodes, "adder", values[:2], values[2:]))


def graph(
    nodes: list[Any], inputs: dict[str, tuple[int, list[Any]]], output: tuple[str, int, list[Any]]
) -> GraphProto:
    taken = [helper.make_tensor_value_info(n, kind, dims) for n, (kind, dims) in inputs.items()]
    return helper.make_graph(nodes, "g", taken, [helper.make_tensor_value_info(*output)])
