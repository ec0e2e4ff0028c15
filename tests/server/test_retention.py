"""What callers see of retention: until when a job is kept, and a log that is kept no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.sdk.failures import FailureClass
from longshore.v1 import job_service_pb2 as pb
from longshore_store import model as m
from longshore_store.failure import FailureRecord
from longshore_store.retention_records import Ages
from longshore_store.settings import parse_settings
from longshore_store.states import TERMINAL, JobState
from tests.server.harness import Harness, kinds, opened, read_to_end, states

DAYS = {"succeeded": 1.0, "failed": 2.0, "cancelled": 3.0, "expired": 4.0, "dead_lettered": 5.5}


async def end(harness: Harness, state: JobState) -> str:
    """A job that has come to this state."""
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    failure = FailureRecord(FailureClass.TASK_ERROR, 3, "BROKEN", "it broke").to_json()
    setback = m.Setback(
        job.job_id, fence, FailureClass.TASK_ERROR, "BROKEN", failure, harness.store.now_us()
    )
    match state:
        case JobState.SUCCEEDED:
            await harness.complete(job.job_id, fence)
        case JobState.FAILED:
            await harness.store.fail_attempts(harness.term, [setback])
        case JobState.EXPIRED:
            await harness.store.expire_attempts(harness.term, [setback])
        case JobState.DEAD_LETTERED:
            await harness.store.dead_letter_attempts(harness.term, [setback])
        case JobState.CANCELLED:
            await harness.store.cancel_jobs([job.job_id], "", False)
            attempt = m.Attempted(job.job_id, fence)
            await harness.store.confirm_cancels(harness.term, [attempt])
    return job.job_id


@pytest.mark.parametrize("state", sorted(TERMINAL))
async def test_expire_time_is_the_age_of_its_state(tmp_path: Path, state: JobState) -> None:
    async with opened(tmp_path, parse_settings({"retention": DAYS})) as harness:
        job_id = await end(harness, state)
        job = (await harness.jobs.Status(pb.StatusRequest(job_id=job_id))).job
        assert int(job.state) == state
        kept = job.expire_time.ToMicroseconds() - job.end_time.ToMicroseconds()
        assert kept == DAYS[state.name.lower()] * 86400 * 1e6


async def test_a_watch_of_a_job_whose_log_is_gone(harness: Harness) -> None:
    job = await harness.submit()
    fence = await harness.start(job.job_id)
    await harness.log(job.job_id, fence, "one", "two")
    await harness.complete(job.job_id, fence)
    found = await harness.store.prunable_jobs(Ages(dict.fromkeys(TERMINAL, 10**15), logs=0), "", 10)
    assert await harness.store.prune_logs(harness.term, found.logs) == []
    fresh = await read_to_end(harness.watch(job.job_id))
    assert kinds(fresh) == ["snapshot", "terminal"]
    resumed = await read_to_end(harness.watch(job.job_id, after_sequence=1))
    assert kinds(resumed)[:2] == ["gap", "snapshot"]
    assert kinds(resumed)[-1] == "terminal"
    assert states(resumed) in ([], ["SUCCEEDED"])
