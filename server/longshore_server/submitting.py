"""Submit and SubmitBatch: from requests, over admission and the store, to responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from longshore.seams import seam
from longshore.v1.job_service_pb2 import SubmitRequest, SubmitResponse
from longshore_server.admission import Admission, Admitted, Item, call_key, read_item
from longshore_server.catalogue import Catalogue, CatalogueReader
from longshore_server.jobs import JobReader
from longshore_server.overload import FullQueues, queue_full
from longshore_server.refusals import JOB, Faults, Refusal, already_exists, key_reused
from longshore_server.responses import Responses
from longshore_store.model import (
    Accepted,
    IdempotencyConflict,
    JobRecord,
    NewJob,
    QueueFull,
    StoreUnavailable,
    SubmitRefused,
    UniquenessConflict,
)
from longshore_store.store import Store

LARGEST_BATCH = 1000
MOST_LOOK_UPS = 8
"""Refused calls whose keys are looked for at a time: repeats of accepted ones are rare."""


class Submitter:
    """Accepts jobs durably, or says everything that is wrong with them."""

    def __init__(self, store: Store, catalogue: CatalogueReader, jobs: JobReader) -> None:
        self._store = store
        self._catalogue = catalogue
        self._jobs = jobs
        self._admission = Admission()
        self._full = FullQueues()
        self._looking = 0

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

        The requests are taken apart. places: the prefix of each request's fields in error
        messages, "" or "requests[3].".
        new_response: gives the next response to fill; in place, which saves a copy of each.
        brief: without what a job repeats of its request, or was found to have done since: 1,000
            of those may be more than a client can receive.

        Raises:
            Refusal: a field, a key, a full queue, or needs that no pool can meet.
        """
        items = [read_item(request) for request in requests]
        catalogue = await self._catalogue_for(items)
        admitted: Sequence[Admitted | None]
        try:
            admitted, accepted = await self._accept(items, places, catalogue, tenant)
        except Refusal as refusal:
            admitted = [None] * len(items)
            accepted = await self._accepted_before(items, tenant, refusal)
        seam("submit.committed")
        existing = await self._read_existing(accepted, tenant)
        responses = Responses(catalogue, self._store.now_us(), self._jobs, tenant, brief=brief)
        stored = not requests[0].validate_only
        for answer, one in zip(accepted, admitted, strict=True):
            if answer.created and one is not None:
                responses.fill_new(new_response(), one, answer, stored=stored)
            else:
                responses.fill_existing(new_response(), existing.get(answer.job_id), answer)

    async def _accept(
        self, items: Sequence[Item], places: Sequence[str], catalogue: Catalogue, tenant: str
    ) -> tuple[list[Admitted], list[Accepted]]:
        faults = Faults()
        now_us = self._store.now_us()
        new, admitted = await self._admission.admit(
            items, places, catalogue, tenant, now_us, faults
        )
        _check_together(items, places, faults)
        faults.check()
        self._full.check((job.queue for job in new), catalogue)
        only_validate = items[0].request.validate_only
        return admitted, await self._store_jobs(new, places, catalogue, only_validate)

    async def _accepted_before(
        self, items: Sequence[Item], tenant: str, refusal: Refusal
    ) -> list[Accepted]:
        """What the call got when it was accepted, if this is the repeat of one: since then a task
        may have another schema, a pool another size, a queue no room. Raises the refusal else."""
        if not all(item.request.idempotency_key for item in items):
            raise refusal
        if self._looking >= MOST_LOOK_UPS:  # an overload, which is refused without the store
            raise refusal
        self._looking += 1
        try:
            known = await self._store.find_accepted([call_key(item, tenant) for item in items])
        except StoreUnavailable:
            raise refusal from None
        finally:
            self._looking -= 1
        accepted = [answer for answer in known if answer is not None]
        if len(accepted) != len(items):
            raise refusal
        return accepted

    async def _catalogue_for(self, items: Sequence[Item]) -> Catalogue:
        """One reading; a newer one if it does not know a name that the items have."""
        catalogue = await self._catalogue.current()
        for item in items:
            task, queue = item.spec.task, item.spec.queue
            if (task and task not in catalogue.tasks) or (queue and queue not in catalogue.queues):
                return await self._catalogue.refresh()
        return catalogue

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
        return key_reused(JOB, refused.existing_id, text)
    if isinstance(refused, UniquenessConflict):
        text = (
            f"{lead}uniqueness key {refused.key!r} is held by job {refused.existing_id}: wait "
            "for it, or choose another on_conflict"
        )
        return already_exists("UNIQUENESS_KEY_HELD", refused.existing_id, text)
    raise refused
