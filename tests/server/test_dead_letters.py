"""Dead letters over a real channel: listed, redriven, purged. The test plays the scheduler."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2 as rpc
from grpc import StatusCode

from longshore.sdk.failures import FailureClass
from longshore.v1 import job_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore.v1 import queue_service_pb2 as queues
from longshore_server import queue_service
from longshore_store import model as m
from longshore_store.failure import FailureRecord
from longshore_store.redrive_records import Advanced, RedriveState
from longshore_store.topology_records import QueueDeclaration, TaskRecord
from tests.server.harness import Harness, echo, read_to_end, refused, take_until

UNKNOWN = "01a201db-6281-7658-a8fa-9f3f68a64e13"
WHY = "the disk is mended"


def setback(job_id: str, fence: int, failure_class: FailureClass, message: str) -> m.Setback:
    failure = FailureRecord(failure_class, 2, failure_class.name, message)
    return m.Setback(job_id, fence, failure_class, failure_class.name, failure.to_json(), 1)


async def dead(
    harness: Harness,
    failure_class: FailureClass = FailureClass.CRASH,
    message: str = "signal 11",
    **spec: Any,
) -> str:
    """A dead letter."""
    job = await harness.submit(**spec)
    await bury(harness, job.job_id, failure_class, message)
    return job.job_id


async def bury(
    harness: Harness,
    job_id: str,
    failure_class: FailureClass = FailureClass.CRASH,
    message: str = "signal 11",
) -> None:
    fence = await harness.start(job_id)
    failures = [setback(job_id, fence, failure_class, message)]
    assert await harness.store.dead_letter_attempts(harness.term, failures) == []


async def listed(
    harness: Harness, page_size: int = 0, **selection: Any
) -> list[queues.ListDeadLettersResponse]:
    """Every page."""
    pages: list[queues.ListDeadLettersResponse] = []
    request = queues.ListDeadLettersRequest(
        selection=queues.DeadLetterSelection(**selection), page_size=page_size
    )
    while not pages or request.page_token:
        pages.append(await harness.queues.ListDeadLetters(request))
        request.page_token = pages[-1].next_page_token
    return pages


def redrive(*, rate: float = 100, reason: str = WHY, **options: Any) -> queues.RedriveRequest:
    return queues.RedriveRequest(rate=rate, reason=reason, **options)


async def redrives(harness: Harness) -> list[queues.Redrive]:
    return list((await harness.queues.ListRedrives(queues.ListRedrivesRequest())).redrives)


async def test_a_dead_letter_is_shown_whole_but_for_its_payload(harness: Harness) -> None:
    job_id = await dead(harness, payload='{"text":"secret"}', labels={"a": "b"})
    [page] = await listed(harness)
    [job] = page.jobs
    assert (job.job_id, job.state) == (job_id, job_pb2.JOB_STATE_DEAD_LETTERED)
    assert (job.spec.payload, dict(job.spec.labels)) == ("", {"a": "b"})
    assert job.error.message == "signal 11"
    assert job.attempts[0].failure_class == job_pb2.FAILURE_CLASS_CRASH
    assert job.HasField("end_time")


async def test_pages_are_newest_first_and_bound_to_their_selection(harness: Harness) -> None:
    ids = [await dead(harness) for _ in range(5)]
    await harness.submit()
    pages = await listed(harness, page_size=2, task="echo")
    assert [[job.job_id for job in page.jobs] for page in pages] == [
        ids[:2:-1],
        ids[2:0:-1],
        ids[:1],
    ]
    token = pages[0].next_page_token
    for other in (None, queues.DeadLetterSelection(task="transcode")):
        request = queues.ListDeadLettersRequest(selection=other, page_token=token)
        refusal = await refused(harness.queues.ListDeadLetters(request))
        assert list(refusal.fields) == ["page_token"]


async def test_a_page_ends_early_where_it_grows_too_large(harness: Harness) -> None:
    for _ in range(5):
        await dead(harness, message="x" * 500_000)
    pages = await listed(harness)
    assert sum(len(page.jobs) for page in pages) == 5
    assert len(pages) > 1
    assert all(page.ByteSize() < 4 * 1024 * 1024 for page in pages)


async def test_selections(harness: Harness) -> None:
    crashed = await dead(harness, queue="slow")
    raised = await dead(harness, FailureClass.TASK_ERROR)
    ended = {job.job_id: job.end_time for page in await listed(harness) for job in page.jobs}
    for selection, expected in (
        ({"queue": "slow"}, [crashed]),
        ({"failure_class": job_pb2.FAILURE_CLASS_TASK_ERROR}, [raised]),
        ({"ended_after": ended[raised]}, [raised]),
        ({"ended_before": ended[raised]}, [crashed]),
        ({"task": "no-such-task"}, []),
    ):
        [page] = await listed(harness, **selection)
        assert [job.job_id for job in page.jobs] == expected


async def test_every_wrong_field_is_named(harness: Harness) -> None:
    selection = queues.DeadLetterSelection(
        queue="q" * 257,
        task="a\0b",
        failure_class=99,  # type: ignore[arg-type]  # a newer client's
        ended_after=Timestamp(seconds=2),
        ended_before=Timestamp(seconds=1),
    )
    wrong = redrive(selection=selection, rate=float("nan"), reason=" ", maximum_failure_share=1.5)
    refusal = await refused(harness.queues.Redrive(wrong))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert set(refusal.fields) == {
        "selection.queue",
        "selection.task",
        "selection.failure_class",
        "selection.ended_after",
        "rate",
        "reason",
        "maximum_failure_share",
    }
    listing = queues.ListDeadLettersRequest(selection=selection, page_size=-1)
    refusal = await refused(harness.queues.ListDeadLetters(listing))
    assert len(refusal.fields) == 5
    purge = queues.PurgeDeadLettersRequest(reason="r" * 1025)
    assert list((await refused(harness.queues.PurgeDeadLetters(purge))).fields) == ["reason"]


@pytest.mark.parametrize(
    ("rate", "share", "fields"),
    [
        (0.1, 0.001, []),
        (1000, 1, []),
        (0.09, 0, ["rate"]),
        (1001, 0, ["rate"]),
        (0, 0, ["rate"]),
        (1, 0.0001, ["maximum_failure_share"]),
        (1, -1, ["maximum_failure_share"]),
    ],
)
async def test_limits(harness: Harness, rate: float, share: float, fields: list[str]) -> None:
    call = harness.queues.Redrive(redrive(rate=rate, maximum_failure_share=share))
    if fields:
        assert list((await refused(call)).fields) == fields
        return
    assert (await call).redrive_id
    [begun] = await redrives(harness)
    assert (begun.rate, begun.maximum_failure_share) == (rate, share)


async def test_a_dry_run_counts_and_changes_nothing(harness: Harness) -> None:
    ids = [await dead(harness) for _ in range(queue_service.SAMPLE + 2)]
    await dead(harness, queue="slow")
    selection = queues.DeadLetterSelection(queue="default")
    request = queues.RedriveRequest(dry_run=True, selection=selection)
    answer = await harness.queues.Redrive(request)
    assert (answer.redrive_id, answer.count) == ("", len(ids))
    assert [job.job_id for job in answer.sample] == ids[:-21:-1]
    assert await redrives(harness) == []
    assert len((await listed(harness))[0].jobs) == len(ids) + 1


async def test_a_redrive_and_its_progress(harness: Harness) -> None:
    ids = [await dead(harness) for _ in range(3)]
    selection = queues.DeadLetterSelection(task="echo")
    request = redrive(selection=selection, maximum_failure_share=0.25)
    answer = await harness.queues.Redrive(request)
    assert (answer.count, len(answer.sample)) == (3, 3)
    late = await dead(harness)
    [begun] = await redrives(harness)
    assert (begun.redrive_id, begun.selection) == (answer.redrive_id, selection)
    assert (begun.state, begun.total, begun.redriven) == (1, 3, 0)
    assert (begun.reason, begun.rate, begun.maximum_failure_share) == (WHY, 100, 0.25)
    assert begun.actor.startswith("default at ipv4:127.0.0.1:")
    assert not begun.HasField("end_time")

    step = await harness.store.advance_redrive(harness.term, answer.redrive_id, 2)
    assert step == Advanced(2, RedriveState.RUNNING)
    await bury(harness, ids[0])
    await harness.store.advance_redrive(harness.term, answer.redrive_id, 2)
    [ended] = await redrives(harness)
    assert (ended.state, ended.redriven, ended.failed) == (2, 3, 1)
    assert ended.end_time.ToNanoseconds() >= ended.create_time.ToNanoseconds()
    left = [job.job_id for job in (await listed(harness))[0].jobs]
    assert left == [late, ids[0]]


async def test_a_watcher_sees_who_and_why(harness: Harness) -> None:
    redriven, retried = await dead(harness), await dead(harness, task="echo", queue="slow")
    selection = queues.DeadLetterSelection(queue="default")
    redrive_id = (await harness.queues.Redrive(redrive(selection=selection))).redrive_id
    await harness.store.advance_redrive(harness.term, redrive_id, 10)
    await harness.jobs.Retry(pb.RetryRequest(job_id=retried, reason="new code"))
    for job_id, reason, why, part_of in (
        (redriven, "REDRIVEN", WHY, redrive_id),
        (retried, "RETRY_REQUESTED", "new code", ""),
    ):
        await harness.run(job_id)
        events = await read_to_end(harness.watch(job_id, after_sequence=1))
        changes = [e.state_change for e in events if e.HasField("state_change")]
        [ordered] = [change for change in changes if change.HasField("order")]
        assert (ordered.reason, ordered.to_state) == (reason, job_pb2.JOB_STATE_QUEUED)
        assert (ordered.order.reason, ordered.order.redrive_id) == (why, part_of)
        assert ordered.order.actor.startswith("default at ipv4:127.0.0.1:")


async def test_a_redriven_job_is_watched_on(harness: Harness) -> None:
    """Its events go on where they ended."""
    job_id = await dead(harness)
    before = (await harness.jobs.Status(pb.StatusRequest(job_id=job_id))).job
    redrive_id = (await harness.queues.Redrive(redrive())).redrive_id
    await harness.store.advance_redrive(harness.term, redrive_id, 10)
    call = harness.watch(job_id, after_sequence=before.latest_sequence)
    [event] = await take_until(call, "state_change")
    assert event.sequence == before.latest_sequence + 1
    call.cancel()


async def without_echo(harness: Harness) -> None:
    tasks = [task for task in await harness.store.list_tasks() if task.name != "echo"]
    await harness.store.publish_tasks(tasks)


@pytest.mark.parametrize("dry_run", [True, False])
async def test_jobs_of_a_task_that_is_gone_are_refused(harness: Harness, dry_run: bool) -> None:
    job_id = await dead(harness)
    await dead(harness, task="transcode", payload='{"renditions":[],"codec":"x"}')
    await without_echo(harness)
    refusal = await refused(harness.queues.Redrive(redrive(dry_run=dry_run)))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "TASK_NOT_FOUND")
    assert refusal.message == (
        "task 'echo', which these jobs name, is there no more: bring it back, choose other jobs,"
        " or purge these"
    )
    [violation] = refusal.of(rpc.PreconditionFailure).violations
    assert (violation.type, violation.subject) == ("TASK_NOT_FOUND", "echo")
    assert await redrives(harness) == []
    others = queues.DeadLetterSelection(task="transcode")
    answer = await harness.queues.Redrive(redrive(dry_run=dry_run, selection=others))
    assert answer.count == 1
    refusal = await refused(harness.jobs.Retry(pb.RetryRequest(job_id=job_id)))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "TASK_NOT_FOUND")
    record = await harness.store.read_job(job_id)
    assert record is not None
    assert record.run == 1


async def test_jobs_of_a_queue_that_is_gone_are_refused(harness: Harness) -> None:
    """Nobody would look for them there."""
    job_id = await dead(harness, queue="slow")
    await dead(harness, queue="tiny")
    declared = [QueueDeclaration("default", 0, None, "")]
    await harness.store.declare_queues(declared)
    await without_echo(harness)
    refusal = await refused(harness.queues.Redrive(redrive()))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "TASK_NOT_FOUND")
    assert refusal.message.startswith("task 'echo' (and 2 more), which these jobs name")
    violations = refusal.of(rpc.PreconditionFailure).violations
    assert [(v.type, v.subject, v.description.split()[0]) for v in violations] == [
        ("TASK_NOT_FOUND", "echo", "2"),
        ("QUEUE_NOT_FOUND", "slow", "1"),
        ("QUEUE_NOT_FOUND", "tiny", "1"),
    ]
    await harness.store.publish_tasks([TaskRecord("echo", json.dumps(echo.describe()))])
    refusal = await refused(harness.jobs.Retry(pb.RetryRequest(job_id=job_id)))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "QUEUE_NOT_FOUND")


async def test_stopping(harness: Harness) -> None:
    await dead(harness)
    redrive_id = (await harness.queues.Redrive(redrive())).redrive_id
    for reason in ("enough", "more than enough"):
        stop = queues.StopRedriveRequest(redrive_id=redrive_id, reason=reason)
        stopped = (await harness.queues.StopRedrive(stop)).redrive
        assert (stopped.redrive_id, stopped.state) == (redrive_id, 3)
        assert stopped.stop_reason.startswith("by default at ipv4:127.0.0.1:")
        assert stopped.stop_reason.endswith(": enough")
    assert await harness.store.advance_redrive(harness.term, redrive_id, 1) is None
    for unknown in (UNKNOWN, "", "nonsense", "a\0b"):
        stop = queues.StopRedriveRequest(redrive_id=unknown)
        refusal = await refused(harness.queues.StopRedrive(stop))
        assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "REDRIVE_NOT_FOUND")


async def test_redrives_are_paged_newest_first(harness: Harness) -> None:
    ids = [(await harness.queues.Redrive(redrive())).redrive_id for _ in range(3)]
    request = queues.ListRedrivesRequest(page_size=2)
    first = await harness.queues.ListRedrives(request)
    request.page_token = first.next_page_token
    second = await harness.queues.ListRedrives(request)
    assert [r.redrive_id for r in (*first.redrives, *second.redrives)] == ids[::-1]
    assert second.next_page_token == ""


async def test_a_purge_of_many_batches_is_logged(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queue_service, "PURGE_BATCH", 2)
    for _ in range(5):
        await dead(harness, payload='{"text":"hunter"}')
    kept = await dead(harness, queue="slow")
    selection = queues.DeadLetterSelection(queue="default")
    dry = queues.PurgeDeadLettersRequest(selection=selection, dry_run=True)
    assert (await harness.queues.PurgeDeadLetters(dry)).count == 5
    caplog.set_level(logging.INFO, "longshore.server")
    purge = queues.PurgeDeadLettersRequest(selection=selection, reason="too old")
    answer = await harness.queues.PurgeDeadLetters(purge)
    assert (answer.count, answer.more) == (5, False)
    [page] = await listed(harness)
    assert [job.job_id for job in page.jobs] == [kept]
    [line] = [r.getMessage() for r in caplog.records if "purged" in r.getMessage()]
    assert "purged 5 dead letters" in line
    assert line.startswith("default at ipv4:")
    assert line.endswith(": too old")
    assert "hunter" not in caplog.text


async def test_a_purge_that_runs_out_of_time_says_so(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_service, "PURGE_BATCH", 2)
    monkeypatch.setattr(queue_service, "PURGE_MARGIN", 3600.0)
    for _ in range(3):
        await dead(harness)
    purge = queues.PurgeDeadLettersRequest(reason="too old")
    answers = [await harness.queues.PurgeDeadLetters(purge, timeout=60) for _ in range(2)]
    assert [(answer.count, answer.more) for answer in answers] == [(2, True), (1, False)]
    last = await harness.queues.PurgeDeadLetters(purge, timeout=60)
    assert (last.count, last.more) == (0, False)
