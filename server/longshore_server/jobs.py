"""Reading jobs for an answer: the tenant's own, as messages, with their placement."""

from __future__ import annotations

from longshore.v1 import job_pb2
from longshore.v1.watch_pb2 import WatchProgressResponse
from longshore_server.catalogue import CatalogueReader
from longshore_server.convert import job_message
from longshore_server.ids import is_id
from longshore_server.placement import place_record
from longshore_server.refusals import JOB, not_found
from longshore_server.times import timestamp
from longshore_store.model import JobChanges, JobRecord
from longshore_store.states import TERMINAL, WAITING
from longshore_store.store import Store


class JobReader:
    """What every method that shows a job needs.

    Args:
        retention_us: how long an ended job is kept, for its expire_time.
    """

    def __init__(self, store: Store, catalogue: CatalogueReader, retention_us: int) -> None:
        self._store = store
        self._catalogue = catalogue
        self._retention_us = retention_us

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
        return job_message(record, self._retention_us, payload=payload)

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
