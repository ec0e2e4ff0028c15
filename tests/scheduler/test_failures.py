"""Attempts that fail, and what the store says of their jobs afterwards."""

from __future__ import annotations

import json

import pytest

from longshore.sdk.failures import FailureClass
from longshore_store.needs import needs_json, parse_needs
from longshore_store.states import JobState
from tests.scheduler.fake_cluster import Behaviour, FakeWorker, echo, fail, hang
from tests.scheduler.harness import GIB, Harness, make_job, make_settings, make_spec, until

QUOTE = "what a job of some tenant said"
RETRY = {"maximum_attempts": 3, "initial_backoff": 10.0, "jitter": 0.0}


def times(count: int, behaviour: Behaviour) -> Behaviour:
    """So many times that, then echo."""
    left = [count]

    def behave(worker: FakeWorker, job: object) -> None:
        left[0] -= 1
        (behaviour if left[0] >= 0 else echo)(worker, job)  # type: ignore[arg-type]

    return behave


async def run_out(harness: Harness, job_id: str, count: int) -> None:
    """Lets so many backoffs pass."""
    for number in range(1, count + 1):
        await harness.retrying(job_id, number)
        harness.clock.advance(100.0)


async def test_a_failure_is_retried_after_its_backoff(harness: Harness) -> None:
    harness.cluster.default = times(2, fail(FailureClass.TASK_ERROR, "FLAKY", "no luck"))
    await harness.launch()
    (job_id,) = await harness.submit(make_job(spec=make_spec("echo", retry=RETRY)))
    (job,) = await harness.reach(JobState.RETRYING, job_id)
    assert job.due_us == harness.store.now_us() + 10_000_000
    assert json.loads(job.attempts[0].failure_json or "")["reason"] == "FLAKY"
    harness.clock.advance(10.1)
    await harness.retrying(job_id, 2)
    harness.clock.advance(20.1)  # the second backoff is twice the first
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert [a.failure_class for a in job.attempts] == [1, 1, 0]


@pytest.mark.parametrize(
    ("kind", "retries"),
    [
        (FailureClass.TASK_ERROR, 2),
        (FailureClass.TIMEOUT, 2),
        (FailureClass.CRASH, 2),
        (FailureClass.OUT_OF_MEMORY, 2),
    ],
)
async def test_failures_end_as_dead_letters(
    harness: Harness, kind: FailureClass, retries: int
) -> None:
    harness.cluster.default = fail(kind, "POISON")
    await harness.launch()
    (job_id,) = await harness.submit(make_job(spec=make_spec("echo", retry=RETRY)))
    await run_out(harness, job_id, retries)
    (job,) = await harness.reach(JobState.DEAD_LETTERED, job_id)
    assert json.loads(job.failure_json or "")["reason"] == "POISON"
    assert len(job.attempts) == retries + 1


async def test_crashes_do_not_use_up_attempts(harness: Harness) -> None:
    harness.cluster.default = times(2, fail(FailureClass.CRASH))
    await harness.launch()
    retry = {**RETRY, "maximum_attempts": 1}
    (job_id,) = await harness.submit(make_job(spec=make_spec("echo", retry=retry)))
    await run_out(harness, job_id, 2)
    await harness.reach(JobState.SUCCEEDED, job_id)


async def test_permanent_errors_and_listed_reasons_fail_at_once(harness: Harness) -> None:
    harness.cluster.behaviour["bad"] = fail(FailureClass.PERMANENT)
    harness.cluster.default = fail(FailureClass.TASK_ERROR, "BAD_INPUT")
    await harness.launch()
    retry = {**RETRY, "non_retryable_reasons": ["BAD_INPUT"]}
    ids = await harness.submit(
        make_job("bad"), make_job("echo", spec=make_spec("echo", retry=retry))
    )
    await harness.reach(JobState.FAILED, *ids)


async def test_out_of_memory_asks_for_more(harness: Harness) -> None:
    harness.cluster.default = times(1, fail(FailureClass.OUT_OF_MEMORY))
    await harness.launch()
    needs = needs_json(cpu_millis=1000, memory_bytes=2 * GIB)
    (job_id,) = await harness.submit(make_job(needs_json=needs))
    await run_out(harness, job_id, 1)
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    assert parse_needs(job.needs_json).memory_bytes == 3 * GIB
    assert harness.cluster.only().assigned[-1].needs.memory_bytes == 3 * GIB


async def test_a_passed_total_deadline_expires_the_job(harness: Harness) -> None:
    harness.cluster.default = hang
    await harness.launch()
    (job_id,) = await harness.submit(make_job(total_timeout_us=30_000_000))
    await harness.reach(JobState.RUNNING, job_id)
    harness.clock.advance(31.0)
    worker = harness.cluster.only()
    fail(FailureClass.TIMEOUT)(worker, worker.assigned[0])
    await harness.reach(JobState.EXPIRED, job_id)


async def test_device_faults_and_drains_are_refunded(harness: Harness) -> None:
    for kind, counted in ((FailureClass.DEVICE_FAULT, 1), (FailureClass.DRAINED, 0)):
        harness.cluster.default = times(1, fail(kind))
        if not harness.schedulers:
            await harness.launch()
        (job_id,) = await harness.submit(make_job())
        await run_out(harness, job_id, counted)
        (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
        assert [a.failure_class for a in job.attempts] == [int(kind), 0], counted


async def test_interruptions_end_as_a_dead_letter_at_last(harness: Harness) -> None:
    harness.cluster.default = fail(FailureClass.DEVICE_FAULT)
    await harness.launch(make_settings(maximum_interruptions=4))
    (job_id,) = await harness.submit(make_job())
    await run_out(harness, job_id, 3)
    (job,) = await harness.reach(JobState.DEAD_LETTERED, job_id)
    assert len(job.attempts) == 4


async def test_an_attempt_that_was_not_begun_may_be_given_back(harness: Harness) -> None:
    from longshore_cpu_workers.wire import Returned

    give_back: Behaviour = lambda w, j: w.report(  # noqa: E731
        Returned(j.job_id, j.fence, w.clock())
    )
    harness.cluster.default = times(20, give_back)
    await harness.launch()
    (job_id,) = await harness.submit(make_job())
    await harness.reach(JobState.SUCCEEDED, job_id)
    await until(lambda: len(harness.cluster.only().assigned) == 21)


async def test_what_the_store_refuses_is_not_quoted(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database quotes the row that it refuses, and rows are callers' data."""

    async def refuse(_: int, rows: object) -> None:
        raise ValueError(QUOTE, rows)

    monkeypatch.setattr(harness.store, "complete_attempts", refuse)
    await harness.launch()
    await harness.submit(make_job())
    await until(lambda: "the store refuses a Completion of job" in caplog.text)
    assert "ValueError" in caplog.text
    assert QUOTE not in caplog.text


async def test_a_worker_that_cannot_be_followed_is_lost_without_quotes(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its other jobs may be another tenant's: they do not learn what could not be read."""
    job_id = await harness.launch_hanging()

    async def garble(*_: object) -> None:
        raise ValueError(QUOTE)

    with monkeypatch.context() as patched:
        patched.setattr(harness.cluster, "poll", garble)
        harness.cluster.only().report()  # ends the poll under way
        await until(lambda: "cannot be followed" in caplog.text)
        harness.cluster.default = echo
    (job,) = await harness.reach(JobState.SUCCEEDED, job_id)
    lost = json.loads(job.attempts[0].failure_json or "")
    assert (lost["class"], lost["message"]) == (6, "its reports cannot be read: ValueError")
    assert QUOTE not in caplog.text


async def test_what_a_lost_worker_held_comes_back_though_the_store_refuses_to_forget_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await harness.launch_hanging()
    await harness.sweeps()  # it is published: only its death asks the store to forget it

    async def refuse(term: int, worker_ids: list[str]) -> None:
        raise RuntimeError("it cannot be written")

    with monkeypatch.context() as refusing:
        refusing.setattr(harness.store, "remove_workers", refuse)
        harness.cluster.only().die()
        await until(lambda: harness.cluster.created == 2)
        await until(lambda: harness.schedulers[-1].ready_workers == 1)
    harness.cluster.default = echo
    for _ in range(3):
        harness.clock.advance(6.0)
        await harness.sweeps()
    await harness.reach(JobState.SUCCEEDED, job_id)
