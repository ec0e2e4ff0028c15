"""What the command line says of attempts that failed, and of what follows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2
from typer.testing import CliRunner, Result

from longshore.cli import columns, times
from longshore.cli.app import app
from longshore.v1 import job_pb2
from tests.client.fake import FakeService

Run = Callable[..., Result]


@pytest.fixture
def run(target: str) -> Run:
    def invoke(*words: str) -> Result:
        return CliRunner().invoke(app, words, env={"LONGSHORE_TARGET": target, "COLUMNS": "200"})

    return invoke


def test_status_tells_what_failed_and_what_follows(service: FakeService, run: Run) -> None:
    history = service.add()
    history.end(job_pb2.JOB_STATE_RETRYING, error=status_pb2.Status(message=""))
    job = history.ended
    job.failure_counts.attempts, job.failure_counts.maximum_attempts = 1, 4
    job.failure_counts.crashes, job.failure_counts.maximum_crashes = 2, 3
    job.attempts.add(number=1, worker_id="w1", failure_class=4, error={"message": "by SIGSEGV"})
    job.attempts.add(number=2, worker_id="w1", failure_class=99, error={"message": "by what"})
    job.next_attempt_time.FromSeconds(1)
    lines = run("status", "job-1").stdout.splitlines()
    assert "next      attempt now" in lines
    assert "failures  errors 1 of 4, crashes 2 of 3" in lines
    assert "attempt   1 on w1 CRASH: by SIGSEGV" in lines
    assert "attempt   2 on w1 99: by what" in lines, "of a newer server"


def test_watch_tells_what_failed_and_what_follows(service: FakeService, run: Run) -> None:
    history = service.add().state(job_pb2.JOB_STATE_RETRYING, "VALUE_ERROR")
    event = history.events[-1]
    event.event_time.FromSeconds(100)
    event.state_change.next_attempt_time.FromMilliseconds(102_500)
    event.state_change.failure_class = job_pb2.FAILURE_CLASS_TASK_ERROR
    event.state_change.error.message = "ValueError: no"
    history.state(job_pb2.JOB_STATE_DEAD_LETTERED, "CRASH")
    change = history.events[-1].state_change
    change.failure_class, change.error.message = job_pb2.FAILURE_CLASS_CRASH, "by SIGSEGV"
    history.end(job_pb2.JOB_STATE_DEAD_LETTERED, error=status_pb2.Status(message="by SIGSEGV"))
    counts = history.ended.failure_counts
    counts.attempts, counts.maximum_attempts, counts.crashes, counts.maximum_crashes = 1, 4, 3, 3
    lines = run("watch", "job-1").stdout.splitlines()
    at = times.clock(event.event_time)
    said = f"job-1 {at} RETRYING VALUE_ERROR (TASK_ERROR): ValueError: no; next attempt in 2.5 s"
    assert said in lines
    assert "job-1 DEAD_LETTERED CRASH: by SIGSEGV" in lines
    ended = "job-1 ended DEAD_LETTERED by SIGSEGV (errors 1 of 4, crashes 3 of 3)"
    assert lines[-1] == ended


def test_a_headline_is_one_line() -> None:
    assert columns.headline("no") == "no"
    assert columns.headline("no\nfor 3 reasons") == "no …"
    assert len(columns.headline("x" * 2000)) == 202


def test_when_an_attempt_is_due() -> None:
    now = datetime(2026, 1, 31, 18, tzinfo=UTC)
    stamp = Timestamp(seconds=int(now.timestamp()) + 90)
    assert times.due(stamp, now) == "attempt in 1m"
    assert times.due(Timestamp(), now) == ""
