"""What a caller sees of attempts that failed: on the job, on its attempts, among its events."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2 as rpc
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from longshore.sdk.failures import CODES, FailureClass
from longshore.v1 import job_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore.v1.watch_pb2 import StateChange
from longshore_store import model as m
from longshore_store.failure import FailureRecord
from tests.server.harness import Harness, read_to_end

COUNTED = {
    FailureClass.TASK_ERROR: "attempts",
    FailureClass.PERMANENT: "attempts",
    FailureClass.TIMEOUT: "attempts",
    FailureClass.CRASH: "crashes",
    FailureClass.OUT_OF_MEMORY: "out_of_memory",
    FailureClass.WORKER_LOST: "interruptions",
    FailureClass.DEVICE_FAULT: "interruptions",
}
PAUSE = 2_500_000


def setback(job_id: str, fence: int, kind: FailureClass, due_us: int | None = None) -> m.Setback:
    failure = FailureRecord(
        kind, CODES["INTERNAL"], f"WAS_{kind.name}", f"it was {kind.name}",
        (("signal", "SIGSEGV"),), (("codec", "is none"),), "Traceback:\n  in run",
    )  # fmt: skip
    return m.Setback(job_id, fence, kind, failure.reason, failure.to_json(), None, due_us)


async def job_of(harness: Harness, job_id: str, view: pb.JobView.ValueType) -> job_pb2.Job:
    return (await harness.jobs.Status(pb.StatusRequest(job_id=job_id, view=view))).job


async def changes_of(harness: Harness, job_id: str) -> list[StateChange]:
    """Those that tell of a failure."""
    events = await read_to_end(harness.watch(job_id, after_sequence=0))
    return [e.state_change for e in events if e.state_change.failure_class]


def kinds_of(status: Status) -> list[str]:
    return [detail.type_url.rpartition(".")[2] for detail in status.details]


@pytest.mark.parametrize("kind", [k for k in FailureClass if k != FailureClass.CANCELLED])
async def test_a_class_on_attempt_job_and_event(harness: Harness, kind: FailureClass) -> None:
    job_id = (await harness.submit()).job_id
    fence = await harness.start(job_id)
    due_us = harness.store.now_us() + PAUSE
    await harness.store.retry_attempts(harness.term, [setback(job_id, fence, kind, due_us)])
    waiting = await job_of(harness, job_id, pb.JOB_VIEW_BASIC)
    assert waiting.next_attempt_time.ToMicroseconds() == due_us
    counts = {f.name: n for f, n in waiting.failure_counts.ListFields()}
    expected = {name: n for name, n in counts.items() if not name.startswith("maximum")}
    assert expected == ({COUNTED[kind]: 1} if kind in COUNTED else {})
    await harness.store.cancel_jobs([job_id], "enough", force=False)
    job = await job_of(harness, job_id, pb.JOB_VIEW_FULL)
    [attempt] = job.attempts
    assert attempt.failure_class == int(kind)
    assert (attempt.error.code, attempt.error.message) == (Code.INTERNAL, f"it was {kind.name}")
    assert kinds_of(attempt.error) == ["ErrorInfo", "BadRequest", "DebugInfo"]
    assert not job.HasField("next_attempt_time"), "none follows"
    failed, cancelled = await changes_of(harness, job_id)
    assert (failed.failure_class, failed.reason) == (int(kind), f"WAS_{kind.name}")
    assert failed.will_retry
    assert failed.next_attempt_time.ToMicroseconds() == due_us
    assert kinds_of(failed.error) == ["ErrorInfo", "BadRequest"], "a traceback is for those who ask"
    info = rpc.ErrorInfo()
    assert failed.error.details[0].Unpack(info)
    assert info == rpc.ErrorInfo(
        reason=f"WAS_{kind.name}", domain="longshore.dev", metadata={"signal": "SIGSEGV"}
    )
    assert (cancelled.error.message, cancelled.will_retry) == ("enough", False)


async def test_what_was_given_back_is_told_and_costs_nothing(harness: Harness) -> None:
    job_id = (await harness.submit()).job_id
    fence = await harness.lease(job_id)
    given_back = setback(job_id, fence, FailureClass.PREEMPTED)
    await harness.store.release_attempts(harness.term, [given_back])
    job = await job_of(harness, job_id, pb.JOB_VIEW_FULL)
    assert not job.attempts
    assert not job.HasField("failure_counts")
    await harness.run(job_id)
    [change] = await changes_of(harness, job_id)
    assert change.failure_class == job_pb2.FAILURE_CLASS_PREEMPTED
    assert (change.to_state, change.will_retry) == (job_pb2.JOB_STATE_QUEUED, True)
    assert not change.HasField("next_attempt_time")


async def test_a_confirmed_cancel_has_an_error_everywhere(harness: Harness) -> None:
    job_id = (await harness.submit()).job_id
    fence = await harness.start(job_id)
    await harness.store.cancel_jobs([job_id], "enough", force=False)
    await harness.store.confirm_cancels(harness.term, [m.Attempted(job_id, fence)])
    job = await job_of(harness, job_id, pb.JOB_VIEW_FULL)
    assert (job.error.code, job.error.message) == (Code.CANCELLED, "enough")
    assert job.attempts[0].error.code == Code.CANCELLED
    asked, ended = await changes_of(harness, job_id)
    assert (asked.error.message, asked.will_retry) == ("enough", False)
    assert (ended.error.code, ended.will_retry) == (Code.CANCELLED, False)


async def test_a_new_run_begins_with_nothing_counted(harness: Harness) -> None:
    job_id = (await harness.submit()).job_id
    fence = await harness.start(job_id)
    crash = setback(job_id, fence, FailureClass.CRASH)
    await harness.store.dead_letter_attempts(harness.term, [crash])
    counts = (await job_of(harness, job_id, pb.JOB_VIEW_BASIC)).failure_counts
    assert (counts.crashes, counts.maximum_crashes) == (1, 3)
    assert (counts.maximum_out_of_memory, counts.maximum_interruptions) == (3, 10)
    await harness.jobs.Retry(pb.RetryRequest(job_id=job_id, reason="mended"))
    assert not (await job_of(harness, job_id, pb.JOB_VIEW_BASIC)).HasField("failure_counts")
