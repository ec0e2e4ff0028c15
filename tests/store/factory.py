"""Jobs in every state, each brought there by the calls that bring jobs there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, NamedTuple, Self

from longshore.sdk.failures import FailureClass
from longshore_store.failure import FailureRecord
from longshore_store.model import (
    Attempted,
    Completion,
    JobRecord,
    Lease,
    Leased,
    NewJob,
    Setback,
    Start,
)
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from longshore_store.store import Stale

START_US = 1_700_000_000_000_000
SECOND = 1_000_000
HOUR = 3600 * SECOND
NEEDS = '{"cpu_millis":1000}'
_numbers = count(1)
next_line = count(1).__next__
"""A number for a LogUpdate."""


class FakeClock:
    """The store's time: stands still until it is told."""

    def __init__(self) -> None:
        self.us = START_US

    def __call__(self) -> int:
        return self.us

    def advance(self, us: int) -> int:
        self.us += us
        return self.us


def new_id() -> str:
    """Ids that sort by the time they were made, as the real ones do."""
    return f"0190-{next(_numbers):08d}"


def new_job(**changes: Any) -> NewJob:
    values: dict[str, Any] = {
        "id": new_id(),
        "tenant": "acme",
        "task": "resize",
        "queue": "fast",
        "spec": b"spec\x00\xff",
        "payload": '{"width":640}',
        "needs_json": NEEDS,
        "fingerprint": "f1",
    }
    return NewJob(**{**values, **changes})


class Attempt(NamedTuple):
    """The names of an attempt: what every report of it carries."""

    job_id: str
    fence: int


def completion(attempt: Attempt, started_us: int = START_US, value: str = '"done"') -> Completion:
    return Completion(attempt.job_id, attempt.fence, started_us, value, '[{"name":"a"}]')


def setback(
    attempt: Attempt, failure_class: FailureClass = FailureClass.TASK_ERROR, **changes: Any
) -> Setback:
    failure = FailureRecord(failure_class, 10, failure_class.name, "it broke").to_json()
    made = Setback(attempt.job_id, attempt.fence, failure_class, failure_class.name, failure)
    return made._replace(**{"started_us": START_US, **changes})


def recall(attempt: Attempt) -> Setback:
    """Task code never began."""
    return setback(attempt, FailureClass.DRAINED, started_us=None)


Ending = Callable[[int, list[Setback]], Awaitable[Stale]]


class Yard:
    """Makes jobs of a store and moves them, under the term of one leader."""

    def __init__(self, store: SqlStore, clock: FakeClock, term: int) -> None:
        self.store = store
        self.clock = clock
        self.term = term

    @classmethod
    async def make(cls, store: SqlStore, clock: FakeClock) -> Self:
        term = await store.lead("yard", 1000 * HOUR)
        assert term is not None
        return cls(store, clock, term)

    async def submit(self, **changes: Any) -> str:
        job = new_job(**changes)
        await self.store.submit_jobs([job])
        return job.id

    async def read(self, job_id: str) -> JobRecord:
        record = await self.store.read_job(job_id, full=True)
        assert record is not None
        return record

    async def state(self, job_id: str) -> JobState:
        return (await self.read(job_id)).state

    async def grant(self, job_id: str, worker: str = "w1") -> Leased:
        fence = (await self.read(job_id)).fence
        [leased] = await self.store.lease_jobs(
            self.term, [Lease(job_id, fence, worker, f"b-{worker}")]
        )
        return leased

    async def lease(self, job_id: str, worker: str = "w1") -> Attempt:
        leased = await self.grant(job_id, worker)
        return Attempt(leased.id, leased.fence)

    async def start(self, attempt: Attempt) -> None:
        started = Start(*attempt, self.clock(), '["gpu0"]')
        assert await self.store.start_attempts(self.term, [started]) == []

    async def leased(self, **changes: Any) -> Attempt:
        return await self.lease(await self.submit(**changes))

    async def running(self, **changes: Any) -> Attempt:
        attempt = await self.leased(**changes)
        await self.start(attempt)
        return attempt

    async def job_in(self, state: JobState) -> Attempt:
        """A job in this state, with the fence it has there."""
        job_id = await _MAKERS[state](self)
        record = await self.read(job_id)
        assert record.state == state
        return Attempt(job_id, record.fence)

    async def ended(self, ending: Ending, **changes: Any) -> str:
        attempt = await self.running()
        assert await ending(self.term, [setback(attempt, **changes)]) == []
        return attempt.job_id

    async def completed(self) -> str:
        attempt = await self.running()
        assert await self.store.complete_attempts(self.term, [completion(attempt)]) == []
        return attempt.job_id

    async def cancelling(self, force: bool = False) -> Attempt:
        attempt = await self.running()
        assert await self.store.cancel_jobs([attempt.job_id], "no longer needed", force) == []
        return attempt

    async def cancelled(self) -> str:
        attempt = await self.cancelling()
        assert await self.store.confirm_cancels(self.term, [Attempted(*attempt)]) == []
        return attempt.job_id

    async def _retrying(self) -> str:
        return await self.ended(self.store.retry_attempts, due_us=self.clock() + HOUR)

    async def _leased_id(self) -> str:
        return (await self.leased()).job_id

    async def _running_id(self) -> str:
        return (await self.running()).job_id

    async def _cancelling_id(self) -> str:
        return (await self.cancelling()).job_id


_MAKERS: dict[JobState, Callable[[Yard], Awaitable[str]]] = {
    JobState.SCHEDULED: lambda yard: yard.submit(due_us=yard.clock() + HOUR),
    JobState.QUEUED: lambda yard: yard.submit(),
    JobState.LEASED: Yard._leased_id,
    JobState.RUNNING: Yard._running_id,
    JobState.RETRYING: Yard._retrying,
    JobState.CANCELLING: Yard._cancelling_id,
    JobState.SUCCEEDED: Yard.completed,
    JobState.FAILED: lambda yard: yard.ended(yard.store.fail_attempts),
    JobState.CANCELLED: Yard.cancelled,
    JobState.EXPIRED: lambda yard: yard.ended(yard.store.expire_attempts),
    JobState.DEAD_LETTERED: lambda yard: yard.ended(yard.store.dead_letter_attempts),
}
REACHABLE = tuple(_MAKERS)
"""Every state that a job can be in today; BLOCKED waits for workflows."""
