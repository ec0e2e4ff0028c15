"""JobService: what internal callers use."""

# ruff: noqa: N802  # the contract names the methods

from __future__ import annotations

import asyncio
from dataclasses import replace

from longshore.v1 import job_service_pb2 as pb
from longshore.v1 import watch_pb2
from longshore.v1.job_service_pb2_grpc import JobServiceServicer
from longshore_server.answering import answers, streams, waiting_time
from longshore_server.filters import FilterError, parse_filter
from longshore_server.hub import WatchHub
from longshore_server.identity import Context, actor_of, tenant_of
from longshore_server.jobs import JobReader
from longshore_server.keys import key_taken, read_key
from longshore_server.mailbox import RevisionWaiter
from longshore_server.paging import make_token, page_size, read_token
from longshore_server.refusals import JOB, Code, Faults, Refusal, already_exists, refuse_field
from longshore_server.spec_checks import check_duration, check_text, check_view
from longshore_server.submitting import LARGEST_BATCH, Submitter
from longshore_server.times import SECOND, micros
from longshore_server.watch import Watch, check_watch
from longshore_store.model import (
    CallKey,
    IdempotencyConflict,
    JobQuery,
    JobRecord,
    UniquenessConflict,
)
from longshore_store.settings import ServerSettings
from longshore_store.states import TERMINAL
from longshore_store.store import Store

LONGEST_WAIT = 60.0
DEFAULT_PAGE = 50
_ORDERS = {"": True, "create_time desc": True, "create_time asc": False, "create_time": False}


class JobService(JobServiceServicer):
    """The control plane. Every method refuses with a google.rpc.Status."""

    def __init__(
        self,
        store: Store,
        settings: ServerSettings,
        jobs: JobReader,
        submitter: Submitter,
        hub: WatchHub,
    ) -> None:
        self._store = store
        self._settings = settings
        self._jobs = jobs
        self._submitter = submitter
        self._hub = hub

    @answers
    async def Submit(self, request: pb.SubmitRequest, context: Context) -> pb.SubmitResponse:
        """Accepts one job."""
        answer = pb.SubmitResponse()
        await self._submitter.submit((request,), ("",), tenant_of(context), lambda: answer)
        return answer

    @answers
    async def SubmitBatch(
        self, request: pb.SubmitBatchRequest, context: Context
    ) -> pb.SubmitBatchResponse:
        """Accepts 1 to 1000 jobs, or none."""
        count = len(request.requests)
        if not 1 <= count <= LARGEST_BATCH:
            refuse_field("requests", f"has {count} jobs; give 1 to {LARGEST_BATCH} in one call")
        places = [f"requests[{index}]." for index in range(count)]
        answer = pb.SubmitBatchResponse()
        await self._submitter.submit(
            request.requests, places, tenant_of(context), answer.responses.add, brief=True
        )
        return answer

    @answers
    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        """Reads a job; with after_revision once it has changed, ended, or its time is over."""
        tenant = tenant_of(context)
        full = request.view == pb.JOB_VIEW_FULL
        faults = Faults()
        check_view(request.view, faults)
        if request.HasField("wait"):
            check_duration(request.wait, "wait", faults)
        faults.check()
        record = await self._jobs.read(request.job_id, tenant, full=full)
        if request.HasField("after_revision") and await self._wait_for_news(
            request, record, waiting_time(context)
        ):
            record = await self._jobs.read(request.job_id, tenant, full=full)
        answer = pb.StatusResponse(job=self._jobs.message(record, payload=full))
        placement = await self._jobs.placement(record)
        if placement is not None:
            answer.placement.CopyFrom(placement)
        return answer

    async def _wait_for_news(
        self, request: pb.StatusRequest, record: JobRecord, most: float
    ) -> bool:
        """True where the job is to be read again. An ended job has no news to wait for."""
        known = request.after_revision
        asked = micros(request.wait) / SECOND if request.HasField("wait") else LONGEST_WAIT
        seconds = min(LONGEST_WAIT, asked, most)
        if record.revision > known or record.state in TERMINAL or seconds <= 0:
            return False
        waiter = RevisionWaiter(record.sequence, known)
        until = asyncio.get_running_loop().time() + seconds
        with self._hub.admitted(), self._hub.attached(record.id, waiter):
            try:
                if not waiter.done:
                    await waiter.wait(until)
            finally:
                waiter.close()
        return True

    # The stub wants an iterator; grpc.aio also takes a coroutine that writes, which alone lets a
    # single write have a deadline.
    @streams
    async def WatchProgress(  # type: ignore[override]
        self, request: pb.WatchProgressRequest, context: Context
    ) -> watch_pb2.WatchProgressResponse | None:
        """Streams a job until it ends; messages go out by context.write."""
        check_watch(request)
        with self._hub.admitted():
            tenant = tenant_of(context)
            watch = Watch(self._hub, self._jobs, self._settings, request, context, tenant)
            await watch.run()
        return None

    @answers
    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """One page of jobs. A page ends early at 3 MiB, so that a client can receive it."""
        faults = Faults()
        check_view(request.view, faults)
        limit = page_size(request.page_size, DEFAULT_PAGE, faults)
        descending = _ORDERS.get(request.order_by.strip().lower())
        if descending is None:
            text = f'is {request.order_by!r}; give "create_time desc" or "create_time"'
            faults.add("order_by", text)
        token = (request.filter, str(descending))
        after = read_token(request.page_token, faults, *token)
        query = _query(request.filter, tenant_of(context), faults)
        faults.check()
        if query is None:
            return pb.ListJobsResponse()
        full = request.view == pb.JOB_VIEW_FULL
        return await self._page(query, bool(descending), after, limit, full, token)

    async def _page(
        self,
        query: JobQuery,
        descending: bool,
        after: str | None,
        limit: int,
        full: bool,
        token: tuple[str, str],
    ) -> pb.ListJobsResponse:
        async def read(last: str | None, count: int) -> list[JobRecord]:
            return await self._store.list_jobs(_after(query, descending, last, count), full=full)

        jobs, last = await self._jobs.page(read, after, limit, full=full, payload=full)
        return pb.ListJobsResponse(
            jobs=jobs, next_page_token=make_token(last, *token) if last else ""
        )

    @answers
    async def ListAttempts(
        self, request: pb.ListAttemptsRequest, context: Context
    ) -> pb.ListAttemptsResponse:
        """One page of the attempts of a job, the newest first."""
        faults = Faults()
        limit = page_size(request.page_size, DEFAULT_PAGE, faults)
        token = ("attempts", request.job_id)
        after = read_token(request.page_token, faults, *token)
        if after is not None and not after.isdecimal():
            faults.add("page_token", "is not a token of this service; begin without one")
        faults.check()
        record = await self._jobs.read(request.job_id, tenant_of(context))
        attempts, last = await self._jobs.attempts(record.id, int(after) if after else None, limit)
        return pb.ListAttemptsResponse(
            attempts=attempts, next_page_token=make_token(str(last), *token) if last else ""
        )

    @answers
    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        """Stores the wish to cancel; what has ended stays as it ended."""
        tenant = tenant_of(context)
        await self._check_reasoned(request, tenant)
        await self._store.cancel_jobs([request.job_id], request.reason, request.force)
        record = await self._jobs.read(request.job_id, tenant)
        return pb.CancelResponse(job=self._jobs.message(record))

    @answers
    async def Retry(self, request: pb.RetryRequest, context: Context) -> pb.RetryResponse:
        """Queues a terminal job again, as a new run."""
        tenant = tenant_of(context)
        key = read_key(request.idempotency_key, tenant, "Retry", request.job_id)
        before = await self._check_reasoned(request, tenant)
        if before.state in TERMINAL and not await self._is_repeat(key):
            await self._jobs.require_runnable({(before.task, before.queue): 1})
        run = request.expected_run if request.HasField("expected_run") else None
        actor = actor_of(context)
        try:
            stale = await self._store.retry_jobs(
                [before.id], request.reason, actor, run=run, key=key
            )
        except IdempotencyConflict as taken:
            raise key_taken(taken, JOB) from None
        except UniquenessConflict as held:
            text = (
                f"job {held.existing_id} holds the uniqueness key {held.key!r} of job {before.id}"
                " by now: wait for it, or cancel it first"
            )
            raise already_exists("UNIQUENESS_KEY_HELD", held.existing_id, text) from None
        record = await self._jobs.read(before.id, tenant)
        if stale:
            raise _not_retried(record, run)
        return pb.RetryResponse(job=self._jobs.message(record))

    async def _is_repeat(self, key: CallKey | None) -> bool:
        """True of a call that was accepted before: its answer does not depend on what is there
        now."""
        return key is not None and (await self._store.find_accepted([key]))[0] is not None

    async def _check_reasoned(
        self, request: pb.CancelRequest | pb.RetryRequest, to: str
    ) -> JobRecord:
        faults = Faults()
        check_text(request.reason, 1024, "reason", faults)
        faults.check()
        return await self._jobs.read(request.job_id, to)


def _not_retried(record: JobRecord, expected_run: int | None) -> Refusal:
    if expected_run is not None and record.run != expected_run:
        text = (
            f"job {record.id} is in run {record.run}, not {expected_run}: somebody retried it; "
            "read it again, then decide"
        )
        facts = {"run": str(record.run)}
        return Refusal(Code.FAILED_PRECONDITION, "RUN_CHANGED", text, metadata=facts)
    text = (
        f"job {record.id} is {record.state.name}, and only a job that has ended can be "
        "retried: wait for it, or cancel it first"
    )
    return Refusal(Code.FAILED_PRECONDITION, "JOB_NOT_TERMINAL", text)


def _query(text: str, tenant: str, faults: Faults) -> JobQuery | None:
    try:
        return parse_filter(text, tenant)
    except FilterError as error:
        faults.add("filter", str(error))
        return None


def _after(query: JobQuery, descending: bool, after: str | None, limit: int) -> JobQuery:
    return replace(query, descending=descending, after_id=after, limit=limit)
