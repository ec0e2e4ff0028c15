"""Submit and SubmitBatch, where they accept."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2 as rpc
from grpc import StatusCode

from longshore.v1 import job_pb2, queue_service_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore_cpu_workers.tasks import echo
from longshore_server import overload
from longshore_store.states import JobState
from longshore_store.topology_records import QueueDeclaration, TaskRecord
from tests.server.harness import DEADLINE, Harness, refused, request

VIDEO = '{"codec":"h264","renditions":[{"height":720}]}'


async def test_accepted_job_is_stored(harness: Harness) -> None:
    answer = await harness.jobs.Submit(request(payload='{"text":"hi"}'))
    assert answer.created
    job = answer.job
    record = await harness.store.read_job(job.job_id, full=True)
    assert record is not None
    assert (record.payload, record.state) == ('{"text":"hi"}', JobState.QUEUED)
    assert (job.state, job.run, job.tenant) == (job_pb2.JOB_STATE_QUEUED, 1, "default")
    assert job.spec.payload == ""
    assert (job.revision, job.latest_sequence) == (record.revision, record.sequence)


async def test_the_answer_is_what_status_reads(harness: Harness) -> None:
    """The answer is built without reading the job back: it must not differ."""
    job = await harness.submit(task="transcode", payload=VIDEO, labels={"team": "ads"})
    status = await harness.jobs.Status(pb.StatusRequest(job_id=job.job_id))
    assert status.job == job


async def test_defaults_fill_every_gap(harness: Harness) -> None:
    job = await harness.submit(task="transcode", payload=VIDEO)
    spec = job.spec
    assert (spec.queue, spec.priority) == ("slow", 50)
    assert (spec.resources.cpu_millis, spec.resources.memory_bytes) == (2000, 1024**3)
    assert spec.retry_policy.maximum_attempts == 2
    assert spec.retry_policy.initial_backoff.seconds == 1
    assert spec.timeouts.attempt.seconds == 3600
    assert not spec.timeouts.HasField("total")


async def test_callers_values_stay(harness: Harness) -> None:
    retry = job_pb2.RetryPolicy(maximum_attempts=7, jitter=0.0)
    timeouts = job_pb2.Timeouts(attempt=Duration(seconds=5), cancel_grace=Duration())
    job = await harness.submit(priority=0, retry_policy=retry, timeouts=timeouts)
    assert (job.spec.priority, job.spec.retry_policy.maximum_attempts) == (0, 7)
    assert job.spec.retry_policy.jitter == 0.0
    assert job.spec.timeouts.attempt.seconds == 5
    assert job.spec.timeouts.cancel_grace == Duration()


async def test_attempt_timeout_of_the_queue(harness: Harness) -> None:
    job = await harness.submit(queue="timed")
    assert job.spec.timeouts.attempt.seconds == 90


async def test_no_attempt_timeout_where_the_queue_moves_long_jobs_on(harness: Harness) -> None:
    """What holds then depends on the queue where the job is."""
    brief = QueueDeclaration("timed", 0, 90_000_000, "slow")
    slow = QueueDeclaration("slow", 0, 900_000_000, "")
    await harness.store.declare_queues([brief, slow])
    end = time.monotonic() + DEADLINE
    while (job := await harness.submit(queue="timed")).spec.timeouts.HasField("attempt"):
        assert time.monotonic() < end, "the server has not read the queues anew"
        await asyncio.sleep(0.02)
    assert job.spec.timeouts.HasField("cancel_grace")
    assert job.queue == "timed"
    own = job_pb2.Timeouts(attempt=Duration(seconds=5))
    job = await harness.submit(queue="timed", timeouts=own)
    assert job.spec.timeouts.attempt.seconds == 5


async def test_scheduled_job_waits(harness: Harness) -> None:
    due = harness.store.now_us() // 1_000_000 + 3600
    answer = await harness.jobs.Submit(request(schedule_time=Timestamp(seconds=due)))
    assert answer.job.state == job_pb2.JOB_STATE_SCHEDULED
    reasons = [reason.code for reason in answer.placement.waiting_reasons]
    assert job_pb2.WaitingReason.CODE_NOT_DUE in reasons
    assert abs(answer.placement.estimated_start_time.seconds - due) <= 1


async def test_schedule_time_that_passed_means_now(harness: Harness) -> None:
    past = Timestamp(seconds=harness.store.now_us() // 1_000_000 - 3600)
    job = await harness.submit(schedule_time=past)
    assert job.state == job_pb2.JOB_STATE_QUEUED


async def test_same_key_is_the_same_job(harness: Harness) -> None:
    keyed = request()
    keyed.idempotency_key = "order-1"
    first = await harness.jobs.Submit(keyed)
    again = await harness.jobs.Submit(keyed)
    assert (first.created, again.created) == (True, False)
    assert again.job == first.job


async def test_a_repeat_of_an_accepted_call_outlives_a_deploy(harness: Harness) -> None:
    """Its task may be gone, or want more by now: the job was accepted, and is the answer."""
    keyed = request(payload='{"text":"a"}')
    keyed.idempotency_key = "order-1"
    first = await harness.jobs.Submit(keyed)
    stricter = echo.describe()
    stricter["input_schema"] = {"type": "object", "required": ["more"]}
    for declared in ([], [TaskRecord("echo", json.dumps(stricter))]):
        await harness.store.publish_tasks(declared)
        await harness.server.services.catalogue.refresh()
        again = await harness.jobs.Submit(keyed)
        assert (again.created, again.job.job_id) == (False, first.job.job_id)
        other = request(payload='{"text":"b"}')
        other.idempotency_key = "order-1"
        refusal = await refused(harness.jobs.Submit(other))
        assert refusal.code in {StatusCode.NOT_FOUND, StatusCode.INVALID_ARGUMENT}


async def test_a_repeat_of_an_accepted_call_is_answered_by_a_full_queue(harness: Harness) -> None:
    keyed = request(queue="tiny")
    keyed.idempotency_key = "order-1"
    first = await harness.jobs.Submit(keyed)
    for _ in range(2):
        await harness.submit(queue="tiny")
    assert (await refused(harness.submit(queue="tiny"))).reason == "QUEUE_FULL"
    again = await harness.jobs.Submit(keyed)
    assert (again.created, again.job.job_id) == (False, first.job.job_id)


async def test_same_key_other_payload(harness: Harness) -> None:
    one, other = request(payload='{"text":"a"}'), request(payload='{"text":"b"}')
    one.idempotency_key = other.idempotency_key = "order-1"
    first = await harness.jobs.Submit(one)
    refusal = await refused(harness.jobs.Submit(other))
    assert refusal.code is StatusCode.ALREADY_EXISTS
    assert refusal.reason == "IDEMPOTENCY_KEY_REUSED"
    assert refusal.resource == ("longshore.v1.Job", first.job.job_id)


async def test_same_key_other_uniqueness(harness: Harness) -> None:
    one, other = request(), request()
    one.idempotency_key = other.idempotency_key = "order-1"
    other.uniqueness.key = "u"
    await harness.jobs.Submit(one)
    assert (await refused(harness.jobs.Submit(other))).reason == "IDEMPOTENCY_KEY_REUSED"


async def test_uniqueness_key_is_held(harness: Harness) -> None:
    unique = request()
    unique.uniqueness.key = "nightly"
    unique.uniqueness.on_conflict = pb.Uniqueness.ON_CONFLICT_REJECT
    first = await harness.jobs.Submit(unique)
    refusal = await refused(harness.jobs.Submit(unique))
    assert (refusal.code, refusal.reason) == (StatusCode.ALREADY_EXISTS, "UNIQUENESS_KEY_HELD")
    assert refusal.resource[1] == first.job.job_id
    unique.uniqueness.on_conflict = pb.Uniqueness.ON_CONFLICT_UNSPECIFIED
    existing = await harness.jobs.Submit(unique)
    assert (existing.created, existing.job.job_id) == (False, first.job.job_id)


async def test_a_retry_that_cannot_have_its_uniqueness_key_back(harness: Harness) -> None:
    unique = request()
    unique.uniqueness.key = "nightly"
    first = (await harness.jobs.Submit(unique)).job
    await harness.jobs.Cancel(pb.CancelRequest(job_id=first.job_id))
    second = (await harness.jobs.Submit(unique)).job
    refusal = await refused(harness.jobs.Retry(pb.RetryRequest(job_id=first.job_id)))
    assert (refusal.code, refusal.reason) == (StatusCode.ALREADY_EXISTS, "UNIQUENESS_KEY_HELD")
    assert refusal.resource[1] == second.job_id
    assert first.job_id in refusal.message


async def test_validate_only_stores_nothing(harness: Harness) -> None:
    dry = request(payload='{"text":"hi"}')
    dry.validate_only = True
    answer = await harness.jobs.Submit(dry)
    assert (answer.created, answer.job.job_id) == (True, "")
    assert answer.job.spec.queue == "default"
    assert (await harness.jobs.ListJobs(pb.ListJobsRequest())).jobs == []


async def test_batch_keeps_the_order(harness: Harness) -> None:
    requests = [request(payload=f'{{"text":"{n}"}}') for n in range(1000)]
    answer = await harness.jobs.SubmitBatch(pb.SubmitBatchRequest(requests=requests))
    ids = [response.job.job_id for response in answer.responses]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    records = await harness.store.read_jobs([ids[0], ids[999]], full=True)
    assert {r.id: r.payload for r in records} == {
        ids[0]: '{"text":"0"}',
        ids[999]: '{"text":"999"}',
    }


async def test_batch_of_new_and_known(harness: Harness) -> None:
    keyed = request()
    keyed.idempotency_key = "k"
    first = await harness.jobs.Submit(keyed)
    batch = pb.SubmitBatchRequest(requests=[request(), keyed])
    answer = await harness.jobs.SubmitBatch(batch)
    assert [response.created for response in answer.responses] == [True, False]
    known = answer.responses[1].job
    assert (known.job_id, known.create_time) == (first.job.job_id, first.job.create_time)
    assert not any(response.job.HasField("spec") for response in answer.responses)


async def test_task_published_a_moment_ago(harness: Harness) -> None:
    """An unknown name gets one newer look at the catalogue before it is refused."""
    await harness.submit()
    document = (await harness.store.list_tasks())[0].document_json
    assert '"name": "echo"' in document
    newer = TaskRecord("newer", document.replace('"name": "echo"', '"name": "newer"'))
    await harness.store.publish_tasks([newer])
    assert (await harness.submit(task="newer")).spec.task == "newer"
    assert (await refused(harness.jobs.Submit(request()))).code is StatusCode.NOT_FOUND


async def test_full_queue(harness: Harness) -> None:
    for _ in range(3):
        await harness.submit(queue="tiny")
    refusal = await refused(harness.jobs.Submit(request(queue="tiny")))
    assert (refusal.code, refusal.reason) == (StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert refusal.of(rpc.QuotaFailure).violations[0].subject == "queue:tiny"
    assert 1 <= refusal.delay <= 300
    assert "holds 3 of 3" in refusal.message


async def test_full_queue_is_remembered(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "REMEMBERED", 3600.0)
    for _ in range(3):
        await harness.submit(queue="tiny")
    calls = 0
    write = harness.store.submit_jobs

    async def counting(jobs: Any) -> Any:
        nonlocal calls
        calls += 1
        return await write(jobs)

    harness.store.submit_jobs = counting  # type: ignore[method-assign]
    for _ in range(5):
        refusal = await refused(harness.jobs.Submit(request(queue="tiny")))
        assert refusal.reason == "QUEUE_FULL"
    assert calls == 1
    assert (await harness.submit()).job_id  # other queues are open


async def test_batch_larger_than_the_queue(harness: Harness) -> None:
    batch = pb.SubmitBatchRequest(requests=[request(queue="tiny")] * 4)
    refusal = await refused(harness.jobs.SubmitBatch(batch))
    assert refusal.reason == "QUEUE_FULL"
    assert refusal.delay == 0
    assert "send fewer" in refusal.message
    assert (await harness.submit(queue="tiny")).job_id


async def test_paused_queue_still_accepts(harness: Harness) -> None:
    pause = queue_service_pb2.PauseQueueRequest(queue="default", reason="upgrade")
    await harness.queues.PauseQueue(pause, timeout=DEADLINE)
    answer = await harness.jobs.Submit(request())
    reasons = {reason.code: reason.message for reason in answer.placement.waiting_reasons}
    assert "upgrade" in reasons[job_pb2.WaitingReason.CODE_QUEUE_PAUSED]
    assert not answer.placement.HasField("estimated_start_time")


async def test_placement_names_the_smallest_pool(harness: Harness) -> None:
    answer = await harness.jobs.Submit(request())
    assert answer.placement.pool == "cpu"
    gpu = await harness.jobs.Submit(request(resources=job_pb2.Resources(gpu_millis=500)))
    assert gpu.placement.pool == "gpu"
    reasons = [reason.code for reason in gpu.placement.waiting_reasons]
    assert job_pb2.WaitingReason.CODE_POOL_STARTING in reasons
