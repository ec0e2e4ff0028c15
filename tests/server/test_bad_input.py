"""What Submit and SubmitBatch refuse: every bad field at once, and nothing is stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2 as rpc
from grpc import StatusCode

from longshore.v1 import job_pb2
from longshore.v1 import job_service_pb2 as pb
from tests.server.harness import GIB, Harness, Refused, opened, refused, request

R = job_pb2.Resources
Retry = job_pb2.RetryPolicy
Timeouts = job_pb2.Timeouts
DAY = 86400


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """One for all: nothing here is ever stored."""
    async with opened(tmp_path_factory.mktemp("bad")) as harness:
        yield harness


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_is_stored(harness: Harness) -> AsyncIterator[None]:
    yield
    assert (await harness.jobs.ListJobs(pb.ListJobsRequest())).jobs == []


async def invalid(harness: Harness, **spec: Any) -> Refused:
    refusal = await refused(harness.jobs.Submit(request(**spec)))
    assert refusal.code is StatusCode.INVALID_ARGUMENT, refusal.message
    assert refusal.reason == "INVALID_FIELDS"
    return refusal


async def test_unknown_task(harness: Harness) -> None:
    refusal = await refused(harness.jobs.Submit(request(task="ecko")))
    assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "TASK_NOT_FOUND")
    assert refusal.resource == ("longshore.v1.Task", "ecko")
    assert "did you mean 'echo'" in refusal.fields["spec.task"]


async def test_unknown_queue(harness: Harness) -> None:
    refusal = await refused(harness.jobs.Submit(request(queue="defualt")))
    assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")
    assert refusal.resource == ("longshore.v1.Queue", "defualt")
    assert "'default'" in refusal.fields["spec.queue"]


async def test_no_task_at_all(harness: Harness) -> None:
    assert "spec.task" in (await invalid(harness, task="")).fields
    refusal = await refused(harness.jobs.Submit(pb.SubmitRequest()))
    assert "spec.task" in refusal.fields


async def test_every_violation_of_the_schema_by_path(harness: Harness) -> None:
    payload = {"renditions": [{"height": 0}, {}], "bitrate": "high"}
    refusal = await invalid(harness, task="transcode", payload=json.dumps(payload))
    assert set(refusal.fields) == {
        "spec.payload.renditions[0].height",
        "spec.payload.renditions[1].height",
        "spec.payload.codec",
        "spec.payload.bitrate",
    }


@pytest.mark.parametrize(
    "payload",
    [
        "{",
        "nonsense",
        "NaN",
        '{"text":"\\ud800"}',
        '{"text":1e999}',
        "[" * 2000,
        '{"text":1}',
        "[]",
    ],
)
async def test_payload_that_is_not_the_input(harness: Harness, payload: str) -> None:
    fields = (await invalid(harness, payload=payload)).fields
    assert all(path.startswith("spec.payload") for path in fields)


async def test_payload_nested_deeper_than_can_be_checked(harness: Harness) -> None:
    fields = (await invalid(harness, payload="[" * 900 + "]" * 900)).fields
    assert fields["spec.payload"].startswith("is nested deeper than 128 levels")


async def test_payload_too_large(harness: Harness) -> None:
    payload = json.dumps({"text": "ä" * 140_000}, ensure_ascii=False)
    refusal = await invalid(harness, payload=payload)
    assert "at most 262144" in refusal.fields["spec.payload"]


async def test_payload_of_just_256_kib_is_fine(harness: Harness) -> None:
    dry = request(payload=json.dumps({"text": "x" * (256 * 1024 - 12)}))
    dry.validate_only = True
    assert len(dry.spec.payload) == 256 * 1024
    assert (await harness.jobs.Submit(dry)).created


async def test_invalid_utf8_never_arrives(harness: Harness) -> None:
    raw = request(payload='{"text":"abcdef"}').SerializeToString().replace(b"abcdef", b"\xff" * 6)
    call: Any = harness.channel.unary_unary("/longshore.v1.JobService/Submit")
    refusal = await refused(call(raw))
    assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "UNREADABLE_REQUEST")
    assert "UTF-8" in refusal.message


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        (R(cpu_millis=-1), "cpu_millis"),
        (R(cpu_millis=5), "cpu_millis"),
        (R(cpu_millis=2_000_000), "cpu_millis"),
        (R(memory_bytes=-GIB), "memory_bytes"),
        (R(memory_bytes=65 * 1024 * GIB), "memory_bytes"),
        (R(gpu_millis=-500), "gpu_millis"),
        (R(gpu_millis=1500), "gpu_millis"),
        (R(gpu_memory_bytes=GIB), "gpu_memory_bytes"),
        (R(gpu_millis=65_000), "gpu_millis"),
        (R(gpu_memory_bytes=-1), "gpu_memory_bytes"),
        (R(gpu_memory_bytes=5 * 1024 * GIB), "gpu_memory_bytes"),
        (R(accelerator_types=["x"] * 17), "accelerator_types"),
        (R(model="m" * 257), "model"),
        (R(custom={"Bad Name": 1}), "custom['Bad Name']"),
        (R(custom={"tokens": -1}), "custom['tokens']"),
        (R(custom={f"n{i}": 1 for i in range(17)}), "custom"),
    ],
)
async def test_resources_out_of_range(
    harness: Harness, resources: job_pb2.Resources, field: str
) -> None:
    fields = (await invalid(harness, resources=resources)).fields
    assert list(fields) == [f"spec.resources.{field}"]


@pytest.mark.parametrize(("seconds", "word"), [(-2 * DAY, "ago"), (367 * DAY, "ahead")])
async def test_schedule_time_far_away(harness: Harness, seconds: int, word: str) -> None:
    time = Timestamp(seconds=harness.store.now_us() // 1_000_000 + seconds)
    assert word in (await invalid(harness, schedule_time=time)).fields["spec.schedule_time"]


@pytest.mark.parametrize("time", [Timestamp(nanos=-1), Timestamp(seconds=1 << 60)])
async def test_schedule_time_that_is_none(harness: Harness, time: Timestamp) -> None:
    assert "no time" in (await invalid(harness, schedule_time=time)).fields["spec.schedule_time"]


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ({f"l{i}": "x" for i in range(65)}, "spec.labels"),
        ({"Team": "x"}, "spec.labels['Team']"),
        ({"": "x"}, "spec.labels['']"),
        ({"a" * 64: "x"}, f"spec.labels['{'a' * 64}']"),
        ({"team\n": "x"}, "spec.labels['team\\n']"),
        ({"team": "x" * 129}, "spec.labels['team']"),
        ({"team": "a\0b"}, "spec.labels['team']"),
    ],
)
async def test_labels(harness: Harness, labels: dict[str, str], field: str) -> None:
    assert list((await invalid(harness, labels=labels)).fields) == [field]


@pytest.mark.parametrize(
    ("ref", "field"),
    [
        (job_pb2.PayloadRef(uri="https://example.com/x"), "uri"),
        (job_pb2.PayloadRef(uri="file://host/x"), "uri"),
        (job_pb2.PayloadRef(uri="file:///data/../etc/passwd"), "uri"),
        (job_pb2.PayloadRef(uri="file:///data/a#b.mp4"), "uri"),
        (job_pb2.PayloadRef(uri="file:///data/a?b.mp4"), "uri"),
        (job_pb2.PayloadRef(uri="file:///a\0b"), "uri"),
        (job_pb2.PayloadRef(uri="file:///" + "x" * 2048), "uri"),
        (job_pb2.PayloadRef(uri="file:///a", sha256=b"short"), "sha256"),
        (job_pb2.PayloadRef(uri="file:///a", size_bytes=-1), "size_bytes"),
    ],
)
async def test_inputs(harness: Harness, ref: job_pb2.PayloadRef, field: str) -> None:
    fields = (await invalid(harness, inputs={"video": ref})).fields
    assert list(fields) == [f"spec.inputs['video'].{field}"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"priority": 101}, "priority"),
        ({"priority": -1}, "priority"),
        ({"retry_policy": Retry(maximum_attempts=101)}, "retry_policy.maximum_attempts"),
        ({"retry_policy": Retry(maximum_attempts=-1)}, "retry_policy.maximum_attempts"),
        ({"retry_policy": Retry(jitter=1.5)}, "retry_policy.jitter"),
        ({"retry_policy": Retry(jitter=float("nan"))}, "retry_policy.jitter"),
        (
            {"retry_policy": Retry(backoff_multiplier=float("nan"))},
            "retry_policy.backoff_multiplier",
        ),
        (
            {"retry_policy": Retry(initial_backoff=Duration(seconds=2 * DAY))},
            "retry_policy.initial_backoff",
        ),
        ({"timeouts": Timeouts(attempt=Duration(seconds=31 * DAY))}, "timeouts.attempt"),
        ({"timeouts": Timeouts(total=Duration(seconds=-1))}, "timeouts.total"),
        ({"timeouts": Timeouts(queue=Duration())}, "timeouts.queue"),
    ],
)  # fmt: skip
async def test_ranges(harness: Harness, spec: dict[str, Any], field: str) -> None:
    assert list((await invalid(harness, **spec)).fields) == [f"spec.{field}"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"labels": {"team\0": "x"}}, "spec.labels['team\\x00']"),
        ({"inputs": {"a\0": job_pb2.PayloadRef(uri="file:///a")}}, "spec.inputs['a\\x00']"),
        (
            {"inputs": {"a": job_pb2.PayloadRef(uri="file:///a", media_type="\0")}},
            "spec.inputs['a'].media_type",
        ),
        ({"resources": R(model="\0")}, "spec.resources.model"),
        ({"resources": R(accelerator_types=["\0"])}, "spec.resources.accelerator_types[0]"),
        ({"resources": R(custom={"a\0": 1})}, "spec.resources.custom['a\\x00']"),
        (
            {"retry_policy": Retry(non_retryable_reasons=["\0"])},
            "spec.retry_policy.non_retryable_reasons[0]",
        ),
        ({"payload": '"\0"'}, "spec.payload"),
    ],
)
async def test_no_text_may_hold_nul(harness: Harness, spec: dict[str, Any], field: str) -> None:
    """SQLite would cut it there, Postgres would refuse it."""
    assert list((await invalid(harness, **spec)).fields) == [field]


async def test_no_key_may_hold_nul(harness: Harness) -> None:
    bad = request()
    bad.idempotency_key = bad.uniqueness.key = "a\0b"
    refusal = await refused(harness.jobs.Submit(bad))
    assert set(refusal.fields) == {"idempotency_key", "uniqueness.key"}


async def test_beside_the_spec(harness: Harness) -> None:
    bad = request()
    bad.idempotency_key = "k" * 257
    bad.uniqueness.window.seconds = 31 * DAY
    bad.uniqueness.on_conflict = 9  # type: ignore[assignment]
    refusal = await refused(harness.jobs.Submit(bad))
    assert set(refusal.fields) == {
        "idempotency_key",
        "uniqueness.key",
        "uniqueness.window",
        "uniqueness.on_conflict",
    }


async def test_everything_at_once(harness: Harness) -> None:
    refusal = await invalid(
        harness,
        task="nope",
        queue="nowhere",
        priority=200,
        labels={"BAD": ""},
        resources=R(cpu_millis=-4),
    )
    assert set(refusal.fields) == {
        "spec.task",
        "spec.queue",
        "spec.priority",
        "spec.labels['BAD']",
        "spec.resources.cpu_millis",
    }


async def test_spec_and_payload_at_once(harness: Harness) -> None:
    refusal = await invalid(harness, task="transcode", payload="{}", priority=101)
    assert {"spec.priority", "spec.payload.codec"} <= set(refusal.fields)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"notify": [job_pb2.NotificationTarget(email="a@example.com")]}, "spec.notify"),
        ({"fairness_key": "a"}, "spec.fairness_key"),
        ({"expected_duration": Duration(seconds=5)}, "spec.expected_duration"),
        ({"timeouts": Timeouts(heartbeat=Duration(seconds=5))}, "spec.timeouts.heartbeat"),
    ],
)
async def test_what_is_not_served_is_refused_by_name(
    harness: Harness, spec: dict[str, Any], field: str
) -> None:
    refusal = await refused(harness.jobs.Submit(request(**spec)))
    assert (refusal.code, refusal.reason) == (StatusCode.UNIMPLEMENTED, "NOT_SERVED")
    assert list(refusal.fields) == [field]


async def test_a_stored_spec_names_nothing_that_is_not_served(harness: Harness) -> None:
    dry = request()
    dry.validate_only = True
    answer = await harness.jobs.Submit(dry)
    assert not answer.job.spec.timeouts.HasField("heartbeat")


async def test_one_bad_item_of_a_batch(harness: Harness) -> None:
    requests = [request() for _ in range(20)]
    requests[17].spec.task = "nope"
    refusal = await refused(harness.jobs.SubmitBatch(pb.SubmitBatchRequest(requests=requests)))
    assert refusal.code is StatusCode.NOT_FOUND
    assert list(refusal.fields) == ["requests[17].spec.task"]
    assert "requests[17].spec.task" in refusal.message


async def test_bad_items_of_a_batch_all_at_once(harness: Harness) -> None:
    requests = [request() for _ in range(5)]
    requests[1].spec.priority = 101
    requests[3].spec.payload = '{"text":1}'
    requests[2].idempotency_key = requests[4].idempotency_key = "same"
    requests[4].validate_only = True
    refusal = await refused(harness.jobs.SubmitBatch(pb.SubmitBatchRequest(requests=requests)))
    assert set(refusal.fields) == {
        "requests[1].spec.priority",
        "requests[3].spec.payload.text",
        "requests[4].idempotency_key",
        "requests[4].validate_only",
    }


async def test_a_thousand_bad_items_still_fit_into_a_status(harness: Harness) -> None:
    requests = [request(payload='{"text":1}', labels={"BAD": "x"})] * 1000
    refusal = await refused(harness.jobs.SubmitBatch(pb.SubmitBatchRequest(requests=requests)))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    fields = refusal.fields
    assert len(fields) > 10
    assert "and 19" in fields["*"]


@pytest.mark.parametrize("count", [0, 1001])
async def test_size_of_a_batch(harness: Harness, count: int) -> None:
    batch = pb.SubmitBatchRequest(requests=[request()] * count)
    assert "requests" in (await refused(harness.jobs.SubmitBatch(batch))).fields


async def test_impossible_resources_name_the_largest_offer(harness: Harness) -> None:
    wanted = R(gpu_millis=1000, gpu_memory_bytes=80 * GIB)
    refusal = await refused(harness.jobs.Submit(request(resources=wanted)))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "NO_CAPACITY")
    violations = refusal.of(rpc.PreconditionFailure).violations
    told = {v.subject: v.description for v in violations}
    assert "24 GiB" in told["spec.resources.gpu_memory"]
    assert refusal.message.startswith("spec.resources.gpu_memory: pool 'gpu' offers at most 24 GiB")
    assert "'cpu'" in told["spec.resources.gpu"]
