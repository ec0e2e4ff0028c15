"""Jobs that outlive the attempt timeout of their queue, and go on in another one."""

from __future__ import annotations

import json

import pytest

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.wire import Checkpointed, Failure
from longshore_scheduler.declaring import declare_queues
from longshore_scheduler.time_limits import attempt_limit, overflow_of
from longshore_store.model import JobRecord
from longshore_store.settings import QueueSettings
from longshore_store.states import JobState
from longshore_store.topology_records import QueueDeclaration
from tests.scheduler.fake_cluster import FakeWorker, hang
from tests.scheduler.harness import Harness, make_job, make_settings, make_spec, until

FAST = QueueSettings(attempt_timeout=5.0, overflow_to="slow")
SLOW = QueueSettings(attempt_timeout=60.0)
BARE = QueueSettings()
ONCE = make_spec("echo", retry={"maximum_attempts": 1})
TIMEOUT = Failure(FailureClass.TIMEOUT, 4, "ATTEMPT_TIMEOUT", "it ran too long")


@pytest.mark.parametrize(
    ("own", "queue", "limit", "overflow"),
    [
        (None, FAST, 5.0, "slow"),
        (9.0, FAST, 5.0, "slow"),
        (5.0, FAST, 5.0, ""),
        (2.0, FAST, 2.0, ""),
        (None, SLOW, 60.0, ""),
        (9.0, SLOW, 9.0, ""),
        (90.0, SLOW, 90.0, ""),
        (None, BARE, None, ""),
        (9.0, BARE, 9.0, ""),
        (None, None, None, ""),
        (9.0, None, 9.0, ""),
    ],
)
def test_whose_limit_holds(
    own: float | None, queue: QueueSettings | None, limit: float | None, overflow: str
) -> None:
    assert (attempt_limit(own, queue), overflow_of(own, queue)) == (limit, overflow)


@pytest.fixture
async def worker(harness: Harness) -> FakeWorker:
    """Its jobs hang, in a queue from which long ones go to `slow`."""
    queues = {"default": FAST.model_dump(), "slow": SLOW.model_dump()}
    declared = [QueueDeclaration(name, 0, None, "") for name in queues]
    await harness.store.declare_queues(declared)
    harness.cluster.default = hang
    await harness.launch(make_settings(queues=queues))
    return harness.cluster.only()


async def started(harness: Harness, spec: bytes = ONCE) -> str:
    """A job that runs in the queue of short ones."""
    (job_id,) = await harness.submit(make_job(spec=spec))
    await harness.reach(JobState.RUNNING, job_id)
    return job_id


async def moved(harness: Harness, worker: FakeWorker) -> JobRecord:
    """It outlives its limit there; the job as it runs for the second time."""
    worker.fail(worker.assigned[0], TIMEOUT)
    await until(lambda: len(worker.assigned) == 2)
    (job,) = await harness.reach(JobState.RUNNING, worker.assigned[0].job_id)
    return job


async def test_it_goes_on_in_the_other_queue(harness: Harness, worker: FakeWorker) -> None:
    job_id = await started(harness)
    fence = worker.assigned[0].fence
    worker.report(Checkpointed(job_id, fence, worker.clock(), '{"page":7}'))
    job = await moved(harness, worker)
    assert [attempt.attempt_timeout for attempt in worker.assigned] == [5.0, 60.0]
    assert worker.assigned[1].checkpoint == '{"page":7}'
    assert (job.queue, job.counted) == ("slow", (0, 0, 0, 0))
    depths = {q.name: (q.waiting, q.active) for q in await harness.store.list_queues()}
    assert depths == {"default": (0, 0), "slow": (0, 1)}


async def test_the_attempt_says_so(harness: Harness, worker: FakeWorker) -> None:
    await started(harness)
    attempt = (await moved(harness, worker)).attempts[0]
    failure = json.loads(attempt.failure_json or "")
    assert failure["class"] == attempt.failure_class == FailureClass.DEMOTED
    assert (failure["reason"], failure["metadata"]["queue"]) == ("DEMOTED", "slow")
    assert failure["message"] == "it ran too long; the job goes on in queue slow"


async def test_there_it_counts_as_raised(harness: Harness, worker: FakeWorker) -> None:
    job_id = await started(harness)
    await moved(harness, worker)
    worker.fail(worker.assigned[1], TIMEOUT)
    (job,) = await harness.reach(JobState.DEAD_LETTERED, job_id)
    assert [a.failure_class for a in job.attempts] == [FailureClass.DEMOTED, FailureClass.TIMEOUT]


async def test_its_own_limit_stays_its_own(harness: Harness, worker: FakeWorker) -> None:
    job_id = await started(harness, make_spec("echo", retry={"maximum_attempts": 1}, attempt=2.0))
    assert worker.assigned[0].attempt_timeout == 2.0
    worker.fail(worker.assigned[0], TIMEOUT)
    (job,) = await harness.reach(JobState.DEAD_LETTERED, job_id)
    assert job.queue == "default"


async def test_the_limit_of_a_queue_outlives_its_declaration(harness: Harness) -> None:
    """Its jobs rely on it: they were accepted without one of their own."""
    former = {"default": BARE, "fast": FAST, "slow": SLOW}
    declared = make_settings(queues={n: q.model_dump() for n, q in former.items()})
    await declare_queues(harness.store, declared)
    (job_id,) = await harness.submit(make_job(spec=ONCE, queue="fast"))
    now = make_settings(queues={"default": BARE.model_dump()})
    harness.cluster.default = hang
    await harness.launch(now, declare=lambda term: declare_queues(harness.store, now, term))
    await harness.reach(JobState.RUNNING, job_id)
    worker = harness.cluster.only()
    job = await moved(harness, worker)
    assert job.queue == "slow"
    assert [attempt.attempt_timeout for attempt in worker.assigned] == [5.0, 60.0]
    assert [q.name for q in await harness.store.list_queues()] == ["default", "fast", "slow"]


async def test_a_cancel_that_was_ordered_stands(harness: Harness, worker: FakeWorker) -> None:
    worker.obeys = False
    job_id = await started(harness)
    await harness.store.cancel_jobs([job_id], "", False)
    await until(lambda: bool(worker.cancelled))
    worker.fail(worker.assigned[0], TIMEOUT)
    (job,) = await harness.reach(JobState.CANCELLED, job_id)
    assert job.queue == "default"
