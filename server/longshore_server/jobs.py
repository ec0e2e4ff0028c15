"""Reading jobs for an answer: the tenant's own, as messages, with their placement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from longshore.v1 import job_pb2
from longshore.v1.watch_pb2 import WatchProgressResponse
from longshore_server.catalogue import CatalogueReader
from longshore_server.convert import attempt_message, job_message
from longshore_server.ids import is_id
from longshore_server.paging import PAGE_BYTES
from longshore_server.placement import place_record
from longshore_server.refusals import JOB, QUEUE, TASK, gone, not_found
from longshore_server.times import timestamp
from longshore_store.model import JobChanges, JobRecord
from longshore_store.settings import SchedulerSettings
from longshore_store.states import TERMINAL, WAITING, JobState
from longshore_store.store import Store

FULL_READ = 16
ReadJobs = Callable[[str | None, int], Awaitable[list[JobRecord]]]
"""Reads so many jobs after an id, in the order of a list."""


class JobReader:
    """What every method that shows a job needs.

    Args:
        kept_us: how long a job is kept after its end, by its state; for its expire_time.
        bounds: how often each class of failure may strike; the scheduler's.
    """

    def __init__(
        self,
        store: Store,
        catalogue: CatalogueReader,
        kept_us: Mapping[JobState, int],
        bounds: SchedulerSettings,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._kept_us = kept_us
        self._bounds = bounds

    def now_us(self) -> int:
        """The clock of the store."""
        return self._store.now_us()

    async def read(self, job_id: str, tenant: str, *, full: bool = False) -> JobRecord:
        """The job.

        Raises:
            Refusal: NOT_FOUND, also for an id that cannot be one and for another tenant's job.
        """
        record = await self._store.read_job(job_id, full=full) if is_id(job_id) else None
        if record is None or record.tenant != tenant:
            raise not_found(JOB, job_id)
        return record

    def message(self, record: JobRecord, *, payload: bool = False) -> job_pb2.Job:
        """The job as a message."""
        return job_message(record, self._kept_us, self._bounds, payload=payload)

    async def page(
        self, read: ReadJobs, after: str | None, limit: int, *, full: bool, payload: bool
    ) -> tuple[list[job_pb2.Job], str | None]:
        """One page of a list. It ends early at 3 MiB, so that a client can receive it.

        Returns:
            The jobs, and the id that the next page comes after, None at the end.
        """
        jobs: list[job_pb2.Job] = []
        size = 0
        while True:
            wanted = limit - len(jobs) + 1
            count = min(wanted, FULL_READ) if full else wanted
            records = await read(after, count)
            for record in records:
                job = self.message(record, payload=payload)
                size += job.ByteSize()
                if jobs and (size > PAGE_BYTES or len(jobs) == limit):
                    return jobs, jobs[-1].job_id
                jobs.append(job)
            if len(records) < count:
                return jobs, None
            after = records[-1].id

    async def attempts(
        self, job_id: str, before: int | None, limit: int
    ) -> tuple[list[job_pb2.Attempt], int | None]:
        """One page of attempts, the newest first. It ends early, as `page` does.

        Returns:
            The attempts, and the fence that those of the next page are below, None at the end.
        """
        found: list[job_pb2.Attempt] = []
        size = 0
        while True:
            count = min(limit - len(found) + 1, FULL_READ)
            records = await self._store.list_attempts(job_id, before, count)
            for record in records:
                attempt = attempt_message(record)
                size += attempt.ByteSize()
                if found and (size > PAGE_BYTES or len(found) == limit):
                    return found, found[-1].fence
                found.append(attempt)
            if len(records) < count:
                return found, None
            before = records[-1].fence

    async def require_runnable(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Refuses to run jobs again whose task or queue is there no more: they would wait for
        ever. `counts` are jobs by task and queue."""
        catalogue = await self._catalogue.refresh()
        missing: Counter[tuple[str, str]] = Counter()
        for (task, queue), count in counts.items():
            if task not in catalogue.tasks:
                missing[TASK, task] += count
            if queue not in catalogue.queues:
                missing[QUEUE, queue] += count
        if missing:
            raise gone(missing)

    async def placement(self, record: JobRecord) -> job_pb2.Placement | None:
        """Where it stands, or None where it waits no more."""
        if record.state not in WAITING:
            return None
        return place_record(await self._catalogue.current(), record, self._store.now_us())

    async def changes(self, job_id: str, cursor: int) -> JobChanges | None:
        """What is new after the cursor, or None where the job exists no more."""
        found = await self._store.read_changes({job_id: cursor})
        return found[0] if found else None

    async def terminal(self, job_id: str) -> WatchProgressResponse | None:
        """The last message of a watch, or None where the job is not terminal (any more)."""
        record = await self._store.read_job(job_id, full=True)
        if record is None or record.state not in TERMINAL:
            return None
        message = WatchProgressResponse(
            sequence=record.sequence, attempt=record.number, revision=record.revision
        )
        message.event_time.CopyFrom(timestamp(record.ended_us or record.created_us))
        message.terminal.job.CopyFrom(self.message(record))
        return message
