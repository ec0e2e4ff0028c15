"""What the scheduler's log says of jobs and workers."""

from __future__ import annotations

import logging

import pytest

from longshore.sdk.failures import FailureClass
from longshore_scheduler import journal
from longshore_scheduler.journal import Journal
from longshore_scheduler.policy import DeadLetter, Release
from longshore_scheduler.roster import Held
from longshore_store.model import Setback
from longshore_store.needs import Needs
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import fail
from tests.scheduler.harness import Harness, make_job, make_spec, until


def ended(number: int, kind: FailureClass = FailureClass.CRASH) -> tuple[Held, Setback]:
    held = Held(None, f"job-{number}", "echo", Needs(), None, False, 0.0)
    held.queue = "default"
    return held, Setback(held.job_id, 1, kind, "BROKEN", "{}")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == journal.__name__]


def test_a_flood_of_failures_is_no_flood_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    told = Journal(lambda: now)
    with caplog.at_level(logging.INFO):
        for number in range(journal.LINES + 1000):
            told.attempt_ended(*ended(number), DeadLetter())
        assert len(lines(caplog)) == journal.LINES
        told.sum_up()
        assert len(lines(caplog)) == journal.LINES
        now += journal.PERIOD
        told.sum_up()
        assert lines(caplog)[-1] == "1000 more attempts ended without a result"
        told.attempt_ended(*ended(1), DeadLetter())
        assert "job-1" in lines(caplog)[-1]


def test_what_was_only_recalled_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        Journal(lambda: 0.0).attempt_ended(*ended(1, FailureClass.PREEMPTED), Release())
    assert not lines(caplog)


async def test_jobs_and_workers_are_named(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.cluster.behaviour["bad"] = fail(FailureClass.TASK_ERROR, message="a secret")
    spec = make_spec("bad", retry={"maximum_attempts": 2, "initial_backoff": 1.0})
    with caplog.at_level(logging.INFO):
        await harness.launch()
        (job_id,) = await harness.submit(make_job("bad", spec=spec))
        await harness.retrying(job_id, 1)
        harness.clock.advance(60.0)
        await harness.reach(JobState.DEAD_LETTERED, job_id)
        worker = harness.cluster.only()
        worker.die()
        await until(lambda: any("it held" in record.getMessage() for record in caplog.records))
    worker_id = worker.info.worker_id
    assert lines(caplog) == [
        f"job {job_id} (bad): an attempt on {worker_id} ended with TASK_ERROR; it is tried again",
        f"job {job_id} (bad): an attempt on {worker_id} ended with TASK_ERROR; it is a dead letter",
    ]
    assert "secret" not in caplog.text
    told = [record for record in caplog.records if record.name == journal.__name__]
    assert [vars(record)["job_id"] for record in told] == [job_id, job_id]
    of_worker = [r.getMessage() for r in caplog.records if vars(r).get("worker_id") == worker_id]
    assert any(message.startswith(f"worker {worker_id} of pool cpu is up") for message in of_worker)
    assert any(message.startswith(f"worker {worker_id} left") for message in of_worker)
