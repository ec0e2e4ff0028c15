"""Status, ListJobs, Cancel, Retry, and the services of the catalogue."""

from __future__ import annotations

import asyncio
import json

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as rpc
from grpc import StatusCode

from longshore.sdk.failures import FailureClass
from longshore.v1 import job_pb2, pool_service_pb2, queue_service_pb2, task_service_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore_store import model as m
from longshore_store.failure import FailureRecord
from longshore_store.topology_records import WorkerRecord
from tests.server.harness import DEADLINE, Harness, brief_wait, refused, request, until

UNKNOWN = "01a201db-6281-7658-a8fa-9f3f68a64e13"
FULL = pb.JOB_VIEW_FULL


@pytest.mark.parametrize("job_id", [UNKNOWN, "nonsense", "", "x" * 5000, "a\0b"])
async def test_unknown_id_is_not_found_always(harness: Harness, job_id: str) -> None:
    calls = [
        harness.jobs.Status(pb.StatusRequest(job_id=job_id)),
        harness.jobs.Cancel(pb.CancelRequest(job_id=job_id)),
        harness.jobs.Retry(pb.RetryRequest(job_id=job_id)),
        harness.watch(job_id).read(),
    ]
    for call in calls:
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
        assert refusal.resource[0] == "longshore.v1.Job"


async def test_views(harness: Harness) -> None:
    job = await harness.submit(payload='{"text":"hi"}')
    fence = await harness.start(job.job_id)
    basic = (await harness.jobs.Status(pb.StatusRequest(job_id=job.job_id))).job
    assert (basic.spec.payload, len(basic.attempts)) == ("", 0)
    full = (await harness.jobs.Status(pb.StatusRequest(job_id=job.job_id, view=FULL))).job
    assert full.spec.payload == '{"text":"hi"}'
    assert (full.attempts[0].fence, full.attempts[0].worker_id) == (fence, "w1")
    assert full.attempts[0].HasField("start_time")
    await harness.complete(job.job_id, fence)
    basic = (await harness.jobs.Status(pb.StatusRequest(job_id=job.job_id))).job
    assert not basic.HasField("result")
    full = (await harness.jobs.Status(pb.StatusRequest(job_id=job.job_id, view=FULL))).job
    assert full.result.value == '{"text":"done"}'
    assert full.expire_time.seconds - full.end_time.seconds == 7 * 86400


async def test_failure_is_told_with_its_details(harness: Harness) -> None:
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    failure = FailureRecord(
        FailureClass.PERMANENT, 3, "BAD_CODEC", "no such codec", (("codec", "x"),),
        (("codec", "unknown"),), "line 1\nline 2",
    )  # fmt: skip
    setback = m.Setback(
        job.job_id, fence, FailureClass.PERMANENT, "BAD_CODEC", failure.to_json(), 1
    )
    assert await harness.store.fail_attempts(harness.term, [setback]) == []
    ended = (await harness.jobs.Status(pb.StatusRequest(job_id=job.job_id, view=FULL))).job
    assert (ended.state, ended.error.code) == (job_pb2.JOB_STATE_FAILED, 3)
    info, bad, debug = rpc.ErrorInfo(), rpc.BadRequest(), rpc.DebugInfo()
    for detail, into in zip(ended.error.details, (info, bad, debug), strict=True):
        assert detail.Unpack(into)
    assert (info.reason, info.domain, info.metadata["codec"]) == ("BAD_CODEC", "longshore.dev", "x")
    assert bad.field_violations[0].field == "codec"
    assert list(debug.stack_entries) == ["line 1", "line 2"]
    assert ended.attempts[0].failure_class == job_pb2.FAILURE_CLASS_PERMANENT


async def test_long_poll_answers_with_the_change(harness: Harness) -> None:
    job = await harness.submit()
    ask = pb.StatusRequest(
        job_id=job.job_id, after_revision=job.revision, wait=Duration(seconds=30)
    )
    poll = asyncio.ensure_future(harness.jobs.Status(ask))
    await until(lambda: harness.server.services.hub.open_watches == 1)
    assert not poll.done()
    await harness.lease(job.job_id)
    answer = await asyncio.wait_for(poll, DEADLINE)
    assert answer.job.state == job_pb2.JOB_STATE_LEASED


async def test_long_poll_hears_of_progress(harness: Harness) -> None:
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    revision = (await harness.jobs.Status(pb.StatusRequest(job_id=job.job_id))).job.revision
    ask = pb.StatusRequest(job_id=job.job_id, after_revision=revision, wait=Duration(seconds=30))
    poll = asyncio.ensure_future(harness.jobs.Status(ask))
    await until(lambda: harness.server.services.hub.open_watches == 1)
    await harness.progress(job.job_id, fence, 0.5, message="half", metrics={"fps": 24.0})
    progress = (await asyncio.wait_for(poll, DEADLINE)).job.progress
    assert (progress.fraction, progress.message, progress.metrics["fps"]) == (0.5, "half", 24.0)


async def test_long_poll_ends_before_its_deadline(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await harness.submit()
    ask = pb.StatusRequest(job_id=job.job_id, after_revision=99, wait=Duration(seconds=3600))
    answer = await harness.jobs.Status(ask, timeout=brief_wait(monkeypatch))
    assert answer.job.state == job_pb2.JOB_STATE_QUEUED


async def test_counts_beyond_their_fields_are_shown_as_the_largest(harness: Harness) -> None:
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    await harness.progress(job.job_id, fence, 0.5, completed=2**63, total=2**64 - 1)
    listed = (await harness.jobs.ListJobs(pb.ListJobsRequest())).jobs
    assert listed[0].progress == job_pb2.Progress(
        fraction=0.5, completed=2**63 - 1, total=2**63 - 1
    )


async def test_long_poll_ends_with_its_wait(harness: Harness) -> None:
    job = await harness.submit()
    ask = pb.StatusRequest(job_id=job.job_id, after_revision=99, wait=Duration(nanos=50_000_000))
    answer = await asyncio.wait_for(harness.jobs.Status(ask), DEADLINE)
    assert answer.job == job
    assert answer.placement.pool == "cpu"


async def test_long_poll_of_an_ended_job_answers_at_once(harness: Harness) -> None:
    job = await harness.submit()
    await harness.run(job.job_id)
    ask = pb.StatusRequest(job_id=job.job_id, after_revision=99, wait=Duration(seconds=60))
    answer = await asyncio.wait_for(harness.jobs.Status(ask), DEADLINE)
    assert answer.job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert not answer.HasField("placement")


async def test_cancel_of_a_waiting_job(harness: Harness) -> None:
    job = await harness.submit()
    ask = pb.CancelRequest(job_id=job.job_id, reason="changed my mind")
    first = (await harness.jobs.Cancel(ask)).job
    assert first.state == job_pb2.JOB_STATE_CANCELLED
    assert first.HasField("error")
    assert (await harness.jobs.Cancel(ask)).job == first


async def test_cancel_of_a_running_job(harness: Harness) -> None:
    job = await harness.submit()
    await harness.start(job.job_id)
    ask = pb.CancelRequest(job_id=job.job_id)
    assert (await harness.jobs.Cancel(ask)).job.state == job_pb2.JOB_STATE_CANCELLING
    assert (await harness.jobs.Cancel(ask)).job.state == job_pb2.JOB_STATE_CANCELLING
    long = pb.CancelRequest(job_id=job.job_id, reason="x" * 1025)
    assert list((await refused(harness.jobs.Cancel(long))).fields) == ["reason"]


async def test_retry(harness: Harness) -> None:
    job = await harness.submit()
    refusal = await refused(harness.jobs.Retry(pb.RetryRequest(job_id=job.job_id)))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "JOB_NOT_TERMINAL")
    await harness.run(job.job_id)
    again = (await harness.jobs.Retry(pb.RetryRequest(job_id=job.job_id, reason="why not"))).job
    assert (again.state, again.run) == (job_pb2.JOB_STATE_QUEUED, 2)


async def test_pages_of_jobs(harness: Harness) -> None:
    ids = [(await harness.submit(labels={"n": str(n)})).job_id for n in range(7)]
    for order, expected in (("", ids[::-1]), ("create_time", ids)):
        found, token = [], ""
        while True:
            ask = pb.ListJobsRequest(page_size=3, page_token=token, order_by=order)
            page = await harness.jobs.ListJobs(ask)
            found += [job.job_id for job in page.jobs]
            token = page.next_page_token
            if not token:
                break
        assert found == expected


async def test_pages_end_early_rather_than_not_arrive(harness: Harness) -> None:
    large = json.dumps({"text": "x" * 250_000})
    for _ in range(18):
        await harness.submit(payload=large)
    page = await harness.jobs.ListJobs(pb.ListJobsRequest(view=FULL))
    assert 10 < len(page.jobs) < 18
    ask = pb.ListJobsRequest(view=FULL, page_token=page.next_page_token)
    rest = await harness.jobs.ListJobs(ask)
    assert len(page.jobs) + len(rest.jobs) == 18


async def test_token_of_another_query(harness: Harness) -> None:
    for _ in range(3):
        await harness.submit()
    page = await harness.jobs.ListJobs(pb.ListJobsRequest(page_size=1))
    for other in (
        pb.ListJobsRequest(filter="state = QUEUED", page_token=page.next_page_token),
        pb.ListJobsRequest(order_by="create_time", page_token=page.next_page_token),
        pb.ListJobsRequest(page_token="rubbish!"),
    ):
        refusal = await refused(harness.jobs.ListJobs(other))
        assert refusal.code is StatusCode.INVALID_ARGUMENT
        assert list(refusal.fields) == ["page_token"]


async def test_list_refuses_every_bad_field_at_once(harness: Harness) -> None:
    ask = pb.ListJobsRequest(filter="colour = red", page_size=-1, order_by="size", page_token="?")
    refusal = await refused(harness.jobs.ListJobs(ask))
    assert set(refusal.fields) == {"filter", "page_size", "order_by", "page_token"}
    assert "position 1" in refusal.fields["filter"]


async def test_filters_against_the_store(harness: Harness) -> None:
    a = await harness.submit(labels={"team": "ads"})
    b = await harness.submit(labels={"team": "web"}, queue="slow")
    await harness.run(a.job_id)
    for text, expected in (
        ("state = SUCCEEDED", {a.job_id}),
        ("state:(QUEUED, RUNNING)", {b.job_id}),
        ('labels.team = "web" AND queue = slow', {b.job_id}),
        ("queue != slow", {a.job_id}),
        ('task = echo AND create_time >= "2020-01-01T00:00:00Z"', {a.job_id, b.job_id}),
        ('end_time > "2020-01-01T00:00:00Z"', {a.job_id}),
        ("tenant = default", {a.job_id, b.job_id}),
        ("tenant = other", set()),
        ("state = QUEUED AND state = RUNNING", set()),
    ):
        page = await harness.jobs.ListJobs(pb.ListJobsRequest(filter=text))
        assert {job.job_id for job in page.jobs} == expected, text


async def test_queues(harness: Harness) -> None:
    await harness.submit()
    page = await harness.queues.ListQueues(queue_service_pb2.ListQueuesRequest(page_size=2))
    assert [(q.name, q.waiting) for q in page.queues] == [("default", 1), ("slow", 0)]
    ask = queue_service_pb2.ListQueuesRequest(page_token=page.next_page_token)
    rest = await harness.queues.ListQueues(ask)
    assert [q.name for q in rest.queues] == ["timed", "tiny"]
    assert rest.queues[0].attempt_timeout.seconds == 90
    assert rest.queues[1].maximum_waiting == 3


async def test_pause_and_resume(harness: Harness) -> None:
    pause = queue_service_pb2.PauseQueueRequest(queue="default", reason="upgrade")
    for _ in range(2):
        queue = (await harness.queues.PauseQueue(pause)).queue
        assert (queue.paused, queue.pause_reason) == (True, "upgrade")
    resume = queue_service_pb2.ResumeQueueRequest(queue="default")
    assert not (await harness.queues.ResumeQueue(resume)).queue.paused
    unknown = queue_service_pb2.PauseQueueRequest(queue="nope")
    assert (await refused(harness.queues.PauseQueue(unknown))).reason == "QUEUE_NOT_FOUND"


async def test_pools_and_workers(harness: Harness) -> None:
    now = harness.store.now_us()
    shape = '{"cpu_millis":4000}'
    devices = '[{"index":0,"uuid":"u","name":"l4","memory_bytes":1,"simulated":true}]'
    workers = [
        WorkerRecord(f"w{n}", pool, 2, "node", 7, shape, devices, 0, now, now)
        for n, pool in enumerate(("cpu", "gpu", "cpu"))
    ]
    await harness.store.record_workers(harness.term, workers)
    pools = (await harness.pools.ListPools(pool_service_pb2.ListPoolsRequest())).pools
    assert [(p.name, p.worker_resources.gpu_millis) for p in pools] == [("cpu", 0), ("gpu", 1000)]
    ask = pool_service_pb2.ListWorkersRequest(pool="cpu", page_size=1)
    page = await harness.pools.ListWorkers(ask)
    assert [w.worker_id for w in page.workers] == ["w0"]
    assert page.workers[0].devices[0].simulated
    ask.page_token = page.next_page_token
    assert [w.worker_id for w in (await harness.pools.ListWorkers(ask)).workers] == ["w2"]
    other = pool_service_pb2.ListWorkersRequest(page_token=page.next_page_token)
    assert list((await refused(harness.pools.ListWorkers(other))).fields) == ["page_token"]


async def test_tasks(harness: Harness) -> None:
    page = await harness.tasks.ListTasks(task_service_pb2.ListTasksRequest())
    assert [t.name for t in page.tasks] == ["echo", "transcode"]
    assert page.tasks[1].input_schema == ""
    found = await harness.tasks.GetTask(task_service_pb2.GetTaskRequest(task="transcode"))
    assert found.task.retry_policy.maximum_attempts == 2
    assert json.loads(found.task.input_schema)["required"] == ["renditions", "codec"]
    unknown = harness.tasks.GetTask(task_service_pb2.GetTaskRequest(task="nope"))
    assert (await refused(unknown)).reason == "TASK_NOT_FOUND"


async def test_store_that_is_gone(harness: Harness) -> None:
    async def gone(*args: object, **kwargs: object) -> None:
        raise m.StoreUnavailable("no database")

    harness.store.submit_jobs = gone  # type: ignore[method-assign,assignment]
    refusal = await refused(harness.jobs.Submit(request()))
    assert (refusal.code, refusal.reason) == (StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert refusal.delay == 1


async def test_surprise_has_an_id_and_no_secret(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "hunter" + "2"

    async def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError(f"payload: {secret}")

    harness.store.submit_jobs = broken  # type: ignore[method-assign,assignment]
    refusal = await refused(harness.jobs.Submit(request()))
    assert refusal.code is StatusCode.INTERNAL
    assert refusal.info.metadata["error_id"] in refusal.message
    assert refusal.info.metadata["error_id"] in caplog.text
    assert "RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text + refusal.message
