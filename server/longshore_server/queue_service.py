"""QueueService: queues as they stand, and what ended in their dead letters."""

# ruff: noqa: N802  # the contract names the methods

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from longshore.v1 import queue_service_pb2 as queues
from longshore.v1.queue_service_pb2_grpc import QueueServiceServicer
from longshore_server.answering import answers
from longshore_server.catalogue import CatalogueReader
from longshore_server.convert import queue_message, redrive_message
from longshore_server.identity import Context, actor_of, tenant_of
from longshore_server.ids import IdSource, is_id
from longshore_server.jobs import JobReader
from longshore_server.keys import key_taken, read_key
from longshore_server.paging import check_name, make_token, named_page, page_size, read_token
from longshore_server.refusals import QUEUE, REDRIVE, Faults, not_found
from longshore_server.selections import (
    check_reason,
    read_rate,
    read_selection,
    read_share,
    selection_key,
)
from longshore_server.spec_checks import check_text
from longshore_store.model import IdempotencyConflict, JobRecord
from longshore_store.redrive_records import DeadLetters, RedriveRecord
from longshore_store.store import Store

_log = logging.getLogger("longshore.server")
DEFAULT_PAGE = 50
SAMPLE = 20
PURGE_BATCH = 200
PURGE_MARGIN = 1.0
"""Seconds before its deadline at which a purge answers with what it has done."""


class QueueService(QueueServiceServicer):
    """Queues are read anew for each call; redrives are stored for the leader to carry out."""

    def __init__(self, store: Store, catalogue: CatalogueReader, jobs: JobReader) -> None:
        self._store = store
        self._catalogue = catalogue
        self._jobs = jobs
        self._new_id = IdSource()

    @answers
    async def ListQueues(
        self, request: queues.ListQueuesRequest, context: Context
    ) -> queues.ListQueuesResponse:
        """A page of queues, by name."""
        catalogue = await self._catalogue.refresh()
        rows = sorted(catalogue.queues.values(), key=lambda queue: queue.name)
        found, token = named_page(
            rows,
            lambda queue: queue.name,
            lambda queue: queue_message(queue, catalogue.rate(queue.name)),
            request,
            "queues",
        )
        return queues.ListQueuesResponse(queues=found, next_page_token=token)

    @answers
    async def PauseQueue(
        self, request: queues.PauseQueueRequest, context: Context
    ) -> queues.PauseQueueResponse:
        """Stops leases from a queue."""
        check_name(request.queue, "queue")
        faults = Faults()
        check_text(request.reason, 1024, "reason", faults)
        faults.check()
        known = "\0" not in request.queue
        if not known or not await self._store.pause_queue(request.queue, request.reason):
            raise not_found(QUEUE, request.queue)
        return queues.PauseQueueResponse(queue=await self._queue(request.queue))

    @answers
    async def ResumeQueue(
        self, request: queues.ResumeQueueRequest, context: Context
    ) -> queues.ResumeQueueResponse:
        """Undoes PauseQueue."""
        check_name(request.queue, "queue")
        known = "\0" not in request.queue
        if not known or not await self._store.resume_queue(request.queue):
            raise not_found(QUEUE, request.queue)
        return queues.ResumeQueueResponse(queue=await self._queue(request.queue))

    async def _queue(self, name: str) -> queues.Queue:
        catalogue = await self._catalogue.refresh()
        if name not in catalogue.queues:
            raise not_found(QUEUE, name)
        return queue_message(catalogue.queues[name], catalogue.rate(name))

    @answers
    async def ListDeadLetters(
        self, request: queues.ListDeadLettersRequest, context: Context
    ) -> queues.ListDeadLettersResponse:
        """One page of dead letters. It ends early at 3 MiB, so that a client can receive it."""
        faults = Faults()
        letters = read_selection(request.selection, tenant_of(context), faults)
        limit = page_size(request.page_size, DEFAULT_PAGE, faults)
        token = ("dead letters", selection_key(request.selection))
        after = read_token(request.page_token, faults, *token)
        faults.check()

        async def read(last: str | None, count: int) -> list[JobRecord]:
            return await self._store.list_dead_letters(letters, last, count, full=True)

        jobs, last = await self._jobs.page(read, after, limit, full=True, payload=False)
        return queues.ListDeadLettersResponse(
            jobs=jobs, next_page_token=make_token(last, *token) if last else ""
        )

    @answers
    async def Redrive(
        self, request: queues.RedriveRequest, context: Context
    ) -> queues.RedriveResponse:
        """Counts and shows a sample; stores the redrive unless it is a dry run."""
        faults = Faults()
        tenant = tenant_of(context)
        letters = read_selection(request.selection, tenant, faults)
        if not request.dry_run:
            check_reason(request.reason, faults)
        elif request.idempotency_key:
            faults.add("idempotency_key", "goes with a redrive, not with a dry run: leave it out")
        rate = read_rate(request.rate, faults, required=not request.dry_run)
        share = read_share(request.maximum_failure_share, faults)
        faults.check()
        created_us = self._store.now_us()
        covered = _until(letters, created_us + 1)
        counts = await self._store.count_dead_letters(covered)
        await self._jobs.require_runnable(counts)
        total = sum(counts.values())
        answer = queues.RedriveResponse(count=total)

        async def newest(after: str | None, count: int) -> list[JobRecord]:
            return await self._store.list_dead_letters(covered, after, count)

        sample, _ = await self._jobs.page(newest, None, SAMPLE, full=False, payload=False)
        answer.sample.extend(sample)
        if not request.dry_run:
            record = RedriveRecord(
                self._new_id(), letters, rate, share, request.reason, actor_of(context),
                created_us, total,
            )  # fmt: skip
            begun = await self._begin(record, request, tenant)
            answer.redrive_id, answer.count = begun.id, begun.total
        return answer

    async def _begin(
        self, record: RedriveRecord, request: queues.RedriveRequest, tenant: str
    ) -> RedriveRecord:
        asked = (selection_key(request.selection), request.reason)
        numbers = (request.rate, request.maximum_failure_share)
        key = read_key(request.idempotency_key, tenant, "Redrive", *asked, *map(repr, numbers))
        try:
            return await self._store.create_redrive(record, key)
        except IdempotencyConflict as taken:
            raise key_taken(taken, REDRIVE) from None

    @answers
    async def ListRedrives(
        self, request: queues.ListRedrivesRequest, context: Context
    ) -> queues.ListRedrivesResponse:
        """One page of redrives, the newest first."""
        faults = Faults()
        limit = page_size(request.page_size, DEFAULT_PAGE, faults)
        after = read_token(request.page_token, faults, "redrives")
        faults.check()
        found = await self._store.list_redrives(tenant_of(context), after, limit + 1)
        page = found[:limit]
        token = make_token(page[-1].id, "redrives") if len(found) > limit else ""
        return queues.ListRedrivesResponse(
            redrives=map(redrive_message, page), next_page_token=token
        )

    @answers
    async def StopRedrive(
        self, request: queues.StopRedriveRequest, context: Context
    ) -> queues.StopRedriveResponse:
        """Ends a redrive; one that is over stays as it ended."""
        faults = Faults()
        check_text(request.reason, 1024, "reason", faults)
        faults.check()
        why = f"by {actor_of(context)}: {request.reason or 'no reason was given'}"
        redrive_id, tenant = request.redrive_id, tenant_of(context)
        known = is_id(redrive_id)
        redrive = await self._store.stop_redrive(redrive_id, tenant, why) if known else None
        if redrive is None:
            raise not_found(REDRIVE, redrive_id)
        return queues.StopRedriveResponse(redrive=redrive_message(redrive))

    @answers
    async def PurgeDeadLetters(
        self, request: queues.PurgeDeadLettersRequest, context: Context
    ) -> queues.PurgeDeadLettersResponse:
        """Deletes what was a dead letter when the call began, until none is left or no time."""
        faults = Faults()
        letters = read_selection(request.selection, tenant_of(context), faults)
        if not request.dry_run:
            check_reason(request.reason, faults)
        faults.check()
        if request.dry_run:
            counts = await self._store.count_dead_letters(letters)
            return queues.PurgeDeadLettersResponse(count=sum(counts.values()))
        return await self._purge(letters, request.reason, context)

    async def _purge(
        self, letters: DeadLetters, reason: str, context: Context
    ) -> queues.PurgeDeadLettersResponse:
        letters = _until(letters, self._store.now_us() + 1)
        answer = queues.PurgeDeadLettersResponse()
        try:
            after_id: str | None = ""
            while after_id is not None and not answer.more:
                step = await self._store.purge_dead_letters(letters, after_id, PURGE_BATCH)
                answer.count += step.deleted
                after_id = step.after_id
                answer.more = after_id is not None and _runs_out(context)
        finally:  # what is gone is gone, also where the caller has left or the store fails
            _log.info(
                "%s purged %d dead letters of %s: %s",
                actor_of(context), answer.count, letters.to_json(), reason,
            )  # fmt: skip
        return answer


def _runs_out(context: Context) -> bool:
    left: Any = context.time_remaining()  # None without a deadline, whatever its type says
    return left is not None and left < PURGE_MARGIN


def _until(letters: DeadLetters, us: int) -> DeadLetters:
    """Those of the dead letters that ended before a time."""
    before = us if letters.ended_before_us is None else min(us, letters.ended_before_us)
    return replace(letters, ended_before_us=before)
