"""What the contract promises to clients that have nothing but generated stubs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from longshore import Context, Resources, task
from longshore.v1 import job_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore.v1 import queue_service_pb2 as queues
from longshore_server import watch as watching
from longshore_server.tasks import parse_task, with_defaults
from longshore_store.states import JobState
from longshore_store.topology_records import QueueRecord
from tests.server.harness import (
    DEADLINE,
    Harness,
    Text,
    kind_of,
    make_settings,
    opened,
    refused,
    take_until,
)

R = job_pb2.Resources
QUEUE = QueueRecord("default", False, "", None, 0, None, "", 0, 0, 0)


async def test_the_cursor_of_every_message_resumes_a_watch(tmp_path: Path) -> None:
    """`cursor = event.sequence` is what one writes, whatever the event is."""
    async with opened(tmp_path, make_settings(heartbeat_interval=0.1)) as harness:
        job = await harness.submit()
        fence = await harness.start(job.job_id)
        await harness.progress(job.job_id, fence, 0.5)
        call = harness.watch(job.job_id)
        seen = await take_until(call, "heartbeat")
        stopping = asyncio.create_task(harness.server.stop(DEADLINE))
        seen += await take_until(call, "reconnect")
        await asyncio.wait_for(stopping, DEADLINE)
    assert {kind_of(event) for event in seen} >= {"snapshot", "heartbeat", "reconnect"}
    assert {event.sequence for event in seen} == {3}


async def test_a_watch_that_is_open_for_long_is_asked_to_come_back(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LIFETIME", 0.2)
    job = await harness.submit()
    call = harness.watch(job.job_id)
    events = await take_until(call, "reconnect")
    assert [kind_of(event) for event in events] == ["snapshot", "reconnect"]
    assert events[-1].reconnect.HasField("retry_delay")
    refusal = await refused(call.read())
    assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "WATCH_RENEWED")


async def test_a_long_poll_waits_by_itself(harness: Harness) -> None:
    """Without `wait` it does not answer with what the caller has."""
    job = await harness.submit()
    ask = pb.StatusRequest(job_id=job.job_id, after_revision=job.revision)
    poll = asyncio.ensure_future(harness.jobs.Status(ask, timeout=DEADLINE))
    await asyncio.sleep(0)
    await harness.lease(job.job_id)
    assert (await poll).job.revision > job.revision


async def test_a_long_poll_of_no_time_and_of_an_ended_job_answers_at_once(
    harness: Harness,
) -> None:
    job = await harness.submit()
    ask = pb.StatusRequest(job_id=job.job_id, after_revision=99, wait=Duration())
    assert (await harness.jobs.Status(ask)).job.revision == 1
    await harness.run(job.job_id)
    ask.ClearField("wait")
    answer = await asyncio.wait_for(harness.jobs.Status(ask), DEADLINE)
    assert answer.job.state == job_pb2.JOB_STATE_SUCCEEDED


async def test_an_unknown_view_is_refused(harness: Harness) -> None:
    job = await harness.submit()
    for call in (
        harness.jobs.Status(pb.StatusRequest(job_id=job.job_id, view=99)),  # type: ignore[arg-type]
        harness.jobs.ListJobs(pb.ListJobsRequest(view=99)),  # type: ignore[arg-type]
    ):
        assert "99" in (await refused(call)).fields["view"]


# -- what a zero means


def resources_of(given: job_pb2.Resources) -> job_pb2.Resources:
    """With the defaults of a task that has a GPU and two kinds of custom resources."""
    spec = job_pb2.JobSpec(task="infer", resources=given)
    return with_defaults(spec, parse_task(_DOCUMENT), QUEUE).resources


@task(
    resources=Resources(
        cpu=2, memory=1024, gpu=1, gpu_memory=512, accelerators=("l4",), model="m",
        custom={"nvenc": 1, "licence": 2},
    )
)  # fmt: skip
def infer(ctx: Context, params: Text) -> Text:
    """Runs on a GPU."""
    return params


_DOCUMENT = json.dumps(infer.describe())


def test_unset_takes_the_default() -> None:
    merged = resources_of(R())
    assert (merged.cpu_millis, merged.gpu_millis, merged.model) == (2000, 1000, "m")
    assert dict(merged.custom) == {"nvenc": 1, "licence": 2}


def test_a_zero_asks_for_none() -> None:
    merged = resources_of(R(gpu_millis=0, memory_bytes=0, model=""))
    assert (merged.gpu_millis, merged.gpu_memory_bytes, merged.memory_bytes) == (0, 0, 0)
    assert (list(merged.accelerator_types), merged.model) == ([], "")
    assert merged.cpu_millis == 2000


def test_custom_resources_are_added_to_those_of_the_task() -> None:
    merged = resources_of(R(custom={"token": 3, "licence": 0}))
    assert dict(merged.custom) == {"nvenc": 1, "token": 3}


def test_a_backoff_of_zero_is_one() -> None:
    spec = job_pb2.JobSpec(retry_policy=job_pb2.RetryPolicy(initial_backoff=Duration()))
    merged = with_defaults(spec, parse_task(_DOCUMENT), QUEUE).retry_policy
    assert merged.initial_backoff == Duration()
    assert (merged.maximum_attempts, merged.maximum_backoff.seconds) == (4, 300)


# -- Retry and attempts


async def test_a_retry_of_a_run_that_is_over_is_refused(harness: Harness) -> None:
    job = await harness.submit()
    await harness.run(job.job_id)
    again = pb.RetryRequest(job_id=job.job_id, expected_run=1)
    assert (await harness.jobs.Retry(again)).job.run == 2
    await harness.run(job.job_id)
    refusal = await refused(harness.jobs.Retry(again))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "RUN_CHANGED")
    assert refusal.info.metadata["run"] == "2"
    record = await harness.store.read_job(job.job_id)
    assert record is not None
    assert (record.run, record.state) == (2, JobState.SUCCEEDED)


async def test_attempts_of_a_job_are_its_newest_and_all_can_be_listed(harness: Harness) -> None:
    job = await harness.submit()
    for _ in range(23):
        await harness.run(job.job_id)
        await harness.jobs.Retry(pb.RetryRequest(job_id=job.job_id))
    await harness.start(job.job_id)
    ask = pb.StatusRequest(job_id=job.job_id, view=pb.JOB_VIEW_FULL)
    full = (await harness.jobs.Status(ask)).job
    assert [attempt.number for attempt in full.attempts] == list(range(5, 25))
    assert full.attempt_count == 24
    found: list[int] = []
    page = pb.ListAttemptsResponse(next_page_token="")
    while not found or page.next_page_token:
        page = await harness.jobs.ListAttempts(
            pb.ListAttemptsRequest(job_id=job.job_id, page_size=10, page_token=page.next_page_token)
        )
        found += [attempt.number for attempt in page.attempts]
    assert found == list(range(24, 0, -1))


async def test_attempts_of_another_job_have_another_token(harness: Harness) -> None:
    one, other = await harness.submit(), await harness.submit()
    for _ in range(2):
        await harness.run(one.job_id)
        await harness.jobs.Retry(pb.RetryRequest(job_id=one.job_id))
    await harness.lease(one.job_id)
    page = await harness.jobs.ListAttempts(pb.ListAttemptsRequest(job_id=one.job_id, page_size=1))
    ask = pb.ListAttemptsRequest(job_id=other.job_id, page_token=page.next_page_token)
    assert "page_token" in (await refused(harness.jobs.ListAttempts(ask))).fields
    gone = pb.ListAttemptsRequest(job_id="0" * 36)
    assert (await refused(harness.jobs.ListAttempts(gone))).reason == "JOB_NOT_FOUND"


# -- keys of Retry and Redrive


async def test_a_repeated_retry_starts_one_run(harness: Harness) -> None:
    job = await harness.submit()
    await harness.run(job.job_id)
    again = pb.RetryRequest(job_id=job.job_id, idempotency_key="again")
    assert (await harness.jobs.Retry(again)).job.run == 2
    assert (await harness.jobs.Retry(again)).job.run == 2
    await harness.run(job.job_id)
    late = (await harness.jobs.Retry(again)).job
    assert (late.run, late.state) == (2, job_pb2.JOB_STATE_SUCCEEDED)


async def test_a_repeated_retry_is_answered_although_its_task_is_gone(harness: Harness) -> None:
    job = await harness.submit()
    await harness.run(job.job_id)
    again = pb.RetryRequest(job_id=job.job_id, idempotency_key="again")
    assert (await harness.jobs.Retry(again)).job.run == 2
    await harness.run(job.job_id)
    await harness.store.publish_tasks([])
    assert (await harness.jobs.Retry(again)).job.run == 2
    again.idempotency_key = "another"
    assert (await refused(harness.jobs.Retry(again))).reason == "TASK_NOT_FOUND"


async def test_a_key_belongs_to_one_job(harness: Harness) -> None:
    one, other = await harness.submit(), await harness.submit()
    await harness.run(one.job_id)
    await harness.run(other.job_id)
    await harness.jobs.Retry(pb.RetryRequest(job_id=one.job_id, idempotency_key="k"))
    refusal = await refused(
        harness.jobs.Retry(pb.RetryRequest(job_id=other.job_id, idempotency_key="k"))
    )
    assert (refusal.code, refusal.reason) == (
        StatusCode.ALREADY_EXISTS,
        "IDEMPOTENCY_KEY_REUSED",
    )
    assert refusal.resource == ("longshore.v1.Job", one.job_id)


async def test_a_retry_that_was_refused_leaves_its_key_free(harness: Harness) -> None:
    job = await harness.submit()
    ask = pb.RetryRequest(job_id=job.job_id, idempotency_key="k")
    assert (await refused(harness.jobs.Retry(ask))).reason == "JOB_NOT_TERMINAL"
    await harness.run(job.job_id)
    assert (await harness.jobs.Retry(ask)).job.run == 2


async def test_a_repeated_redrive_is_one_redrive(harness: Harness) -> None:
    ask = queues.RedriveRequest(rate=10, reason="mended", idempotency_key="k")
    first = await harness.queues.Redrive(ask)
    again = await harness.queues.Redrive(ask)
    assert again.redrive_id == first.redrive_id
    listed = await harness.queues.ListRedrives(queues.ListRedrivesRequest())
    assert [redrive.redrive_id for redrive in listed.redrives] == [first.redrive_id]
    ask.rate = 20
    refusal = await refused(harness.queues.Redrive(ask))
    assert refusal.reason == "IDEMPOTENCY_KEY_REUSED"
    dry = queues.RedriveRequest(dry_run=True, idempotency_key="k")
    assert "idempotency_key" in (await refused(harness.queues.Redrive(dry))).fields
