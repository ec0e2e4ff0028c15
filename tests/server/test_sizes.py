"""No answer is larger than the 4 MiB that a grpc client takes unless it is told otherwise.

Every job here is as large as the contract allows: text of four bytes a character everywhere.
"""

from __future__ import annotations

import json

from longshore.sdk.failures import FailureClass
from longshore.v1 import job_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore.v1 import queue_service_pb2 as queues
from longshore_store import model as m
from longshore_store.failure import FailureRecord
from longshore_store.topology_records import QueueDeclaration
from tests.server.harness import Harness, kinds, read_to_end, request

WIDE = "\U0001d11e"  # four bytes
FACT = "x" * 2048
TAKES = 4 * 1024 * 1024
FULL = pb.JOB_VIEW_FULL


def largest_failure() -> FailureRecord:
    """As large as a runner lets one be: see "Bounds" in ARCHITECTURE.md."""
    return FailureRecord(
        FailureClass.TASK_ERROR, 13, "R" * 128, FACT,
        metadata=tuple((f"fact{n:02d}", FACT) for n in range(32)),
        violations=tuple((FACT[:512], FACT) for n in range(100)),
        traceback="t" * 8192,
    )  # fmt: skip


LABELS = {f"l{n}": WIDE * 128 for n in range(64)}
INPUTS = {
    f"{WIDE * 120}{n}": job_pb2.PayloadRef(
        uri="file:///" + WIDE * 2030, sha256=b"x" * 32, media_type=WIDE * 128
    )
    for n in range(64)
}


async def failed_often(harness: Harness, times: int) -> str:
    """A job of which so many attempts have failed."""
    payload = json.dumps({"text": "x" * (255 * 1024)})
    job_id = (await harness.submit(payload=payload, labels=LABELS, inputs=INPUTS)).job_id
    text = largest_failure().to_json()
    for n in range(times):
        if n:
            await harness.store.retry_jobs([job_id], "")
        fence = await harness.start(job_id)
        setback = m.Setback(job_id, fence, FailureClass.TASK_ERROR, "R", text, 1)
        assert await harness.store.dead_letter_attempts(harness.term, [setback]) == []
    return job_id


async def test_a_job_with_many_large_attempts(harness: Harness) -> None:
    """Each of these calls would raise RESOURCE_EXHAUSTED here, at the client."""
    job_id = await failed_often(harness, 30)
    status = await harness.jobs.Status(pb.StatusRequest(job_id=job_id, view=FULL))
    assert 0 < len(status.job.attempts) < 20
    assert status.job.attempts[-1].number == status.job.attempt_count == 30
    page = await harness.jobs.ListJobs(pb.ListJobsRequest(view=FULL, page_size=1))
    assert [job.job_id for job in page.jobs] == [job_id]
    letters = await harness.queues.ListDeadLetters(queues.ListDeadLettersRequest())
    assert [job.job_id for job in letters.jobs] == [job_id]
    events = await read_to_end(harness.watch(job_id))
    assert kinds(events) == ["snapshot", "terminal"]
    assert events[-1].terminal.job.attempts == status.job.attempts
    numbers: list[int] = []
    attempts = pb.ListAttemptsResponse()
    while not numbers or attempts.next_page_token:
        ask = pb.ListAttemptsRequest(job_id=job_id, page_token=attempts.next_page_token)
        attempts = await harness.jobs.ListAttempts(ask)
        numbers += [attempt.number for attempt in attempts.attempts]
    assert numbers == list(range(30, 0, -1))


async def test_a_batch_that_is_as_large_as_a_request_may_be(harness: Harness) -> None:
    labels = {f"l{n}": WIDE * 125 for n in range(8)}
    batch = pb.SubmitBatchRequest(requests=[request(labels=labels) for _ in range(1000)])
    assert 0.95 * TAKES < batch.ByteSize() < TAKES
    answer = await harness.jobs.SubmitBatch(batch)
    assert len({response.job.job_id for response in answer.responses}) == 1000


async def test_a_batch_in_a_queue_that_says_much(harness: Harness) -> None:
    await harness.queues.PauseQueue(queues.PauseQueueRequest(queue="default", reason=WIDE * 1024))
    batch = pb.SubmitBatchRequest(requests=[request() for _ in range(1000)])
    answer = await harness.jobs.SubmitBatch(batch)
    assert len(answer.responses[999].placement.waiting_reasons) >= 1


async def test_a_batch_of_jobs_that_have_failed(harness: Harness) -> None:
    """A repeat answers with jobs as they are now."""
    batch = pb.SubmitBatchRequest(requests=[request(labels=LABELS) for _ in range(100)])
    for n, one in enumerate(batch.requests):
        one.idempotency_key = f"key-{n}"
    ids = [r.job.job_id for r in (await harness.jobs.SubmitBatch(batch)).responses]
    text = largest_failure().to_json()
    for job_id in ids:
        fence = await harness.start(job_id)
        setback = m.Setback(job_id, fence, FailureClass.TASK_ERROR, "R", text, 1)
        await harness.store.fail_attempts(harness.term, [setback])
    answer = await harness.jobs.SubmitBatch(batch)
    assert [response.job.job_id for response in answer.responses] == ids
    assert {response.job.state for response in answer.responses} == {job_pb2.JOB_STATE_FAILED}
    assert answer.ByteSize() < TAKES / 10


async def test_a_sample_of_large_dead_letters(harness: Harness) -> None:
    for _ in range(6):
        await failed_often(harness, 1)
    dry = queues.RedriveRequest(dry_run=True)
    answer = await harness.queues.Redrive(dry)
    assert answer.count == 6
    assert 0 < len(answer.sample) < 6


async def test_a_page_of_queues_that_say_much(harness: Harness) -> None:
    names = [f"q{n:04d}" for n in range(1000)]
    await harness.store.declare_queues([QueueDeclaration(name, 0, None, "") for name in names])
    for name in names:
        await harness.store.pause_queue(name, WIDE * 1024)
    found: list[str] = []
    page = queues.ListQueuesResponse()
    while not found or page.next_page_token:
        ask = queues.ListQueuesRequest(page_size=1000, page_token=page.next_page_token)
        page = await harness.queues.ListQueues(ask)
        found += [queue.name for queue in page.queues]
    assert set(names) <= set(found)
    assert len(found) == len(set(found))
