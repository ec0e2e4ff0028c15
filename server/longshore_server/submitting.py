"""Submit and SubmitBatch: from requests, over admission and the store, to responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from longshore.seams import seam
from longshore.v1 import job_pb2
from longshore.v1.job_service_pb2 import SubmitRequest, SubmitResponse
from longshore_server.admission import Admission, Item, Prepared, read_items
from longshore_server.catalogue import Catalogue, CatalogueReader
from longshore_server.jobs import JobReader
from longshore_server.overload import FullQueues, queue_full
from longshore_server.placement import place
from longshore_server.refusals import Faults, Refusal, already_exists
from longshore_server.times import timestamp
from longshore_store.model import (
    Accepted,
    IdempotencyConflict,
    JobRecord,
    NewJob,
    QueueFull,
    SubmitRefused,
    UniquenessConflict,
)
from longshore_store.states import WAITING, JobState
from longshore_store.store import Store

LARGEST_BATCH = 1000


class Submitter:
    """Accepts jobs durably, or says everything that is wrong with them."""

    def __init__(self, store: Store, catalogue: CatalogueReader, jobs: JobReader) -> None:
        self._store = store
        self._catalogue = catalogue
        self._jobs = jobs
        self._admission = Admission()
        self._full = FullQueues()

    async def submit(
        self,
        requests: Sequence[SubmitRequest],
        places: Sequence[str],
        tenant: str,
        new_response: Callable[[], SubmitResponse],
        *,
        brief: bool = False,
    ) -> None:
        """Fills one response for each request, in order; all are accepted or none.

        places: the prefix of each request's fields in error messages, "" or "requests[3].".
        new_response: gives the next response to fill; in place, which saves a copy of each.
        brief: without what a job repeats of its request, or was found to have done since: 1,000
            of those may be more than a client can receive.

        Raises:
            Refusal: a field, a key, a full queue, or needs that no pool can meet.
        """
        items = read_items(requests)
        catalogue = await self._catalogue.current()
        new, prepared, catalogue = await self._admit(items, places, tenant, catalogue)
        only_validate = requests[0].validate_only
        accepted = await self._store_jobs(new, places, catalogue, only_validate)
        seam("submit.committed")
        existing = await self._read_existing(accepted, tenant)
        now_us = self._store.now_us()
        answers = _Answers(catalogue, now_us, self._jobs, tenant, new_response, brief=brief)
        answers.build(accepted, prepared, existing, stored=not only_validate)

    async def _admit(
        self, items: Sequence[Item], places: Sequence[str], tenant: str, catalogue: Catalogue
    ) -> tuple[list[NewJob], list[Prepared], Catalogue]:
        """Checks all items. A name that is unknown gets one newer catalogue before the refusal."""
        faults = Faults()
        now_us = self._store.now_us()
        args = (items, places, catalogue, tenant, now_us, faults)
        new, prepared = self._admission.admit(*args)
        if faults.is_missing:
            catalogue, faults = await self._catalogue.refresh(), Faults()
            args = (items, places, catalogue, tenant, now_us, faults)
            new, prepared = self._admission.admit(*args)
        _check_together(items, places, faults)
        faults.check()
        self._full.check((job.queue for job in new), catalogue)
        return new, prepared, catalogue

    async def _store_jobs(
        self, new: list[NewJob], places: Sequence[str], catalogue: Catalogue, only_validate: bool
    ) -> list[Accepted]:
        write = self._store.check_jobs if only_validate else self._store.submit_jobs
        try:
            return await write(new)
        except QueueFull as refused:
            self._full.remember(refused)
            wanted = sum(job.queue == refused.queue for job in new)
            raise queue_full(refused, wanted, catalogue) from None
        except SubmitRefused as refused:
            raise _conflict(refused, places[refused.index]) from None

    async def _read_existing(
        self, accepted: Sequence[Accepted], tenant: str
    ) -> dict[str, JobRecord]:
        ids = {answer.job_id for answer in accepted if not answer.created}
        if not ids:
            return {}
        records = await self._store.read_jobs(list(ids))
        return {record.id: record for record in records if record.tenant == tenant}


def _check_together(items: Sequence[Item], places: Sequence[str], faults: Faults) -> None:
    """A key appears once, and validate_only is all or none."""
    first: dict[str, str] = {}
    validate_only = items[0].request.validate_only
    for item, at in zip(items, places, strict=True):
        request = item.request
        if request.validate_only != validate_only:
            text = f"is {request.validate_only} and that of {places[0]} is not: all or none"
            faults.add(f"{at}validate_only", text.replace(". is", " is"))
        key = request.idempotency_key
        if key and first.setdefault(key, at) != at:
            text = f"repeats that of {first[key].rstrip('.')}: give each its own"
            faults.add(f"{at}idempotency_key", text)


def _conflict(refused: SubmitRefused, at: str) -> Refusal:
    where = at.rstrip(".")
    lead = f"{where}: " if where else ""
    if isinstance(refused, IdempotencyConflict):
        text = (
            f"{lead}idempotency_key {refused.key!r} belongs to job {refused.existing_id}, whose "
            "spec is another: give a new key, or send the same spec"
        )
        return already_exists("IDEMPOTENCY_KEY_REUSED", refused.existing_id, text)
    if isinstance(refused, UniquenessConflict):
        text = (
            f"{lead}uniqueness key {refused.key!r} is held by job {refused.existing_id}: wait "
            "for it, or choose another on_conflict"
        )
        return already_exists("UNIQUENESS_KEY_HELD", refused.existing_id, text)
    raise refused


class _Answers:
    """Builds the responses of one call. Equal jobs share a template, which is then copied."""

    def __init__(
        self,
        catalogue: Catalogue,
        now_us: int,
        jobs: JobReader,
        tenant: str,
        new_response: Callable[[], SubmitResponse],
        *,
        brief: bool,
    ) -> None:
        self._brief = brief
        self._catalogue = catalogue
        self._now_us = now_us
        self._jobs = jobs
        self._tenant = tenant
        self._new_response = new_response
        self._templates: dict[tuple[Prepared, JobState, int], SubmitResponse] = {}

    def build(
        self,
        accepted: Sequence[Accepted],
        prepared: Sequence[Prepared],
        existing: dict[str, JobRecord],
        *,
        stored: bool,
    ) -> None:
        """Fills the responses in order. Jobs that were only checked have no id."""
        for (job_id, created, state, created_us), one in zip(accepted, prepared, strict=True):
            response = self._new_response()
            if created:
                key = (one, state, created_us)
                template = self._templates.get(key)
                if template is None:
                    template = self._templates[key] = self._template(*key)
                response.CopyFrom(template)
                if stored:
                    response.job.job_id = job_id
            else:
                self._fill_existing(response, existing.get(job_id), job_id, state)

    def _template(self, one: Prepared, state: JobState, created_us: int) -> SubmitResponse:
        """A job as the store has just made it: its first event is its submission."""
        job = job_pb2.Job(
            spec=None if self._brief else one.message,
            state=job_pb2.JobState.ValueType(state),
            revision=1,
            latest_sequence=1,
            run=1,
            tenant=self._tenant,
            queue=one.queue,
            create_time=timestamp(created_us),
        )
        placed = None
        if state in WAITING:
            placed = place(
                self._catalogue, one.task, one.queue, one.needs_json, state,
                due_us=one.due_us, now_us=self._now_us,
            )  # fmt: skip
        return SubmitResponse(job=job, created=True, placement=placed)

    def _fill_existing(
        self, response: SubmitResponse, record: JobRecord | None, job_id: str, state: JobState
    ) -> None:
        if record is None:  # deleted by age since the store answered
            response.job.job_id = job_id
            response.job.state = job_pb2.JobState.ValueType(state)
            return
        response.job.CopyFrom(self._jobs.message(record))
        if self._brief:
            _shorten(response.job)
        if record.state in WAITING:
            response.placement.CopyFrom(
                place(
                    self._catalogue, record.task, record.queue, record.needs_json, record.state,
                    due_us=record.due_us, now_us=self._now_us, own=1,
                )
            )  # fmt: skip


def _shorten(job: job_pb2.Job) -> None:
    """Leaves out what may be large."""
    job.ClearField("spec")
    job.ClearField("progress")
    job.ClearField("failure_counts")
    job.ClearField("outcome")
