"""What the catalogue offers, and that its schemas are the contract."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import jsonschema_rs
import pytest

from longshore.sdk import Task
from longshore_cpu_workers.tasks import echo, transcode
from longshore_gpu_workers.tasks import infer
from tests.tasks.conftest import MakeContext

TASKS = [echo, transcode, infer]
HEAVY = {"av", "imageio_ffmpeg", "numpy", "onnxruntime", "grpc", "ray"}


def test_importing_the_catalogue_loads_no_heavy_library() -> None:
    code = (
        "import sys, longshore_cpu_workers.tasks, longshore_gpu_workers.tasks;"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_description_is_json_with_valid_schemas(task: Task[Any, Any]) -> None:
    described = json.loads(json.dumps(task.describe()))
    assert described["description"]
    for schema in (described["input_schema"], described["output_schema"]):
        jsonschema_rs.meta.validate(schema)


@pytest.mark.parametrize(
    ("task", "payload"),
    [
        (echo, {"any": [1, None, "x"]}),
        (echo, 7),
        (transcode, {"renditions": [{"name": "a", "height": 240}]}),
        (
            transcode,
            {
                "renditions": [
                    {"name": "b", "height": 64, "codec": "av1", "container": "webm", "crf": 40}
                ],
                "thumbnails": {"count": 3, "format": "png"},
            },
        ),
        (infer, {}),
        (infer, {"data": {"x": [[1, 2]]}, "batch_size": 8, "format": "json", "top_k": 2}),
    ],
)
def test_schema_and_model_accept(task: Task[Any, Any], payload: Any) -> None:
    schema = task.describe()["input_schema"]
    jsonschema_rs.validator_for(schema).validate(payload)
    parsed = task.params.validate_python(payload)
    again = task.params.validate_json(task.params.dump_json(parsed))
    assert again == parsed


@pytest.mark.parametrize(
    ("task", "payload"),
    [
        (transcode, {"renditions": []}),
        (transcode, {"renditions": [{"name": "a", "height": 240}] * 9}),
        (transcode, {"renditions": [{"name": "-y", "height": 240}]}),
        (transcode, {"renditions": [{"name": "../x", "height": 240}]}),
        (transcode, {"renditions": [{"name": "a b", "height": 240}]}),
        (transcode, {"renditions": [{"name": "http://x", "height": 240}]}),
        (transcode, {"renditions": [{"name": "a\n", "height": 240}]}),
        (transcode, {"renditions": [{"name": "a", "height": 241}]}),
        (transcode, {"renditions": [{"name": "a", "height": 14}]}),
        (transcode, {"renditions": [{"name": "a", "height": 240, "args": "-f lavfi"}]}),
        (transcode, {"renditions": [{"name": "a", "height": 240, "codec": "copy"}]}),
        (transcode, {"renditions": [{"name": "a", "height": 240, "preset": "x -y"}]}),
        (transcode, {"renditions": [{"name": "a", "height": 240}], "thumbnails": {"count": 51}}),
        (transcode, {"renditions": [{"name": "a", "height": 240}], "threads": 65}),
        (infer, {"batch_size": 0}),
        (infer, {"batch_size": 65_537}),
        (infer, {"provider": "evil.so"}),
        (infer, {"data": {"x": {"no": "list"}}}),
    ],
)
def test_schema_and_model_refuse(task: Task[Any, Any], payload: Any) -> None:
    validator = jsonschema_rs.validator_for(task.describe()["input_schema"])
    assert not validator.is_valid(payload)
    with pytest.raises(ValueError, match="validation error"):
        task.params.validate_python(payload)


@pytest.mark.parametrize("value", [{"a": [1, {"b": None}]}, [], "text", 3.5, None, True])
def test_echo_returns_its_payload(make_run: MakeContext, value: Any) -> None:
    assert echo(make_run().ctx, echo.params.validate_python(value)) == value
