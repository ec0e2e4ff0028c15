"""From Python values to a JobSpec."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from longshore import Context, InvalidJob, Resources, Retry, Timeouts, job_spec, task
from longshore.v1 import job_pb2


class Params(BaseModel):
    width: int


@task(name="media.resize")
def resize(ctx: Context, params: Params) -> int:
    return params.width


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (None, ""),
        ({"a": [1, "ä"]}, '{"a":[1,"ä"]}'),
        ('{"as": "it is"}', '{"as": "it is"}'),
        (Params(width=3), '{"width":3}'),
    ],
)
def test_payloads(payload: Any, text: str) -> None:
    assert job_spec("resize", payload).payload == text


def test_a_task_names_itself() -> None:
    assert job_spec(resize).task == "media.resize"


def test_inputs_are_paths_uris_or_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reference = job_pb2.PayloadRef(uri="file:///d", size_bytes=4)
    inputs: dict[str, Any] = {
        "a": "sub/../my file",
        "b": Path("b"),
        "c": "file:///c",
        "d": reference,
    }
    spec = job_spec("resize", inputs=inputs)
    assert spec.inputs["a"].uri == f"file://{tmp_path}/my%20file"
    assert spec.inputs["b"].uri == f"file://{tmp_path}/b"
    assert spec.inputs["c"].uri == "file:///c"
    assert spec.inputs["d"] == reference


@pytest.mark.parametrize(
    ("make", "value", "field"),
    [
        (Retry, {"max_attempts": 101}, "Retry.max_attempts is 101; give 1 to 100"),
        (Retry, {"max_attempts": 0}, "Retry.max_attempts"),
        (Retry, {"initial_backoff": -1.0}, "Retry.initial_backoff"),
        (Retry, {"multiplier": 0.5}, "Retry.multiplier"),
        (Retry, {"max_backoff": float("nan")}, "Retry.max_backoff is nan; give 0 to 86,400"),
        (Retry, {"jitter": 1.5}, "Retry.jitter"),
        (Timeouts, {"queue": 0.0}, "Timeouts.queue"),
        (Timeouts, {"attempt": float("inf")}, "Timeouts.attempt is inf; give 0.001 to 2,592,000"),
        (Timeouts, {"total": float("nan")}, "Timeouts.total"),
        (Timeouts, {"cancel_grace": -0.1}, "Timeouts.cancel_grace"),
    ],
)
def test_a_declaration_out_of_range_is_refused_where_it_is_made(
    make: Callable[..., object], value: dict[str, float], field: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(field)):
        make(**value)


def test_the_declarations_of_the_sdk_are_taken() -> None:
    spec = job_spec(
        "resize",
        resources=Resources(cpu=0.5, memory=2**30, gpu=0.25, accelerators=("H100",)),
        retry=Retry(max_attempts=2, initial_backoff=0.5, jitter=0.0),
        timeouts=Timeouts(attempt=60.0, total=1.5),
        priority=0,
        labels={"team": "ads"},
        expected_duration=2,
        fairness_key="k",
    )
    assert (spec.resources.cpu_millis, spec.resources.gpu_millis) == (500, 250)
    assert list(spec.resources.accelerator_types) == ["H100"]
    assert spec.retry_policy.maximum_attempts == 2
    assert spec.retry_policy.initial_backoff.nanos == 500_000_000
    assert spec.retry_policy.HasField("jitter")
    assert not spec.timeouts.HasField("queue")
    assert (spec.timeouts.total.seconds, spec.timeouts.total.nanos) == (1, 500_000_000)
    assert spec.HasField("priority")
    assert spec.labels == {"team": "ads"}


def test_messages_are_taken_as_they_are() -> None:
    spec = job_spec(
        "resize",
        resources=job_pb2.Resources(cpu_millis=1),
        retry=job_pb2.RetryPolicy(maximum_attempts=1),
        timeouts=job_pb2.Timeouts(),
    )
    assert (spec.resources.cpu_millis, spec.retry_policy.maximum_attempts) == (1, 1)


def test_schedule_times() -> None:
    due = datetime(2026, 1, 31, 18, tzinfo=UTC)
    assert job_spec("resize", schedule_time=due).schedule_time.ToDatetime(UTC) == due
    soon = job_spec("resize", schedule_time=timedelta(minutes=10)).schedule_time.ToDatetime(UTC)
    assert timedelta(minutes=9) < soon - datetime.now(UTC) <= timedelta(minutes=10)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidJob) as caught:
        job_spec(
            "resize",
            {"a": float("nan")},
            priority=2**40,
            schedule_time=datetime(2026, 1, 1),  # noqa: DTZ001
            expected_duration=float("inf"),
        )
    fields = [field for field, _ in caught.value.violations]
    assert fields == [
        "spec.payload",
        "spec.priority",
        "spec.schedule_time",
        "spec.expected_duration",
    ]


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="no option 'prio'"):
        job_spec("resize", prio=3)  # type: ignore[call-arg]
