"""AsyncClient: Longshore from asyncio.

async with AsyncClient() as client:
    handle = await client.submit("resize", {"width": 320}, inputs={"image": "cat.png"})
    print(await handle.result(timeout=60))
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from longshore.attempts import AttemptCalls
from longshore.batches import new_key
from longshore.calls import Calls, Timing
from longshore.handle import JobHandle
from longshore.letters import DeadLetterCalls
from longshore.specs import to_duration
from longshore.submits import SubmitCalls
from longshore.v1 import (
    job_pb2,
    job_service_pb2,
    pool_service_pb2,
    queue_service_pb2,
    task_service_pb2,
)
from longshore.watching import Event, Watch

__all__ = ["DEFAULT_TARGET", "AsyncClient", "JobHandle"]

DEFAULT_TARGET = "127.0.0.1:7233"
DEFAULT_TIMEOUT = 30.0
DEFAULT_RECONNECT_TIMEOUT = 300.0
PAGE_SIZE = 1000
# The server caps a long-poll at 60 s.
LONGEST_POLL = 60.0
# Beyond the grace: cancelling, killing, and another scheduler that has to take over.
DRAIN_MARGIN = 60.0

T = TypeVar("T")
Request = TypeVar("Request")
Response = TypeVar("Response")


class AsyncClient(SubmitCalls, AttemptCalls, DeadLetterCalls):
    """A connection to one Longshore service, for one event loop.

    The channel opens at the first call. Every method takes `timeout`, in seconds for all its
    tries together, the client's where None; idempotent calls are repeated while no server
    answers. Every method may raise `Unavailable`, `DeadlineExceeded`, `ServiceFailed` and the
    refusals in `longshore.errors`; what is listed with a method is what it adds to that.

    Args:
        target: host:port of the gRPC server, or any name gRPC can resolve.
        timeout: seconds for a call, its repetitions included.
        reconnect_timeout: seconds a watch or a wait goes on without hearing from any server.
        credentials: TLS; plain text where None.
        metadata: sent with each call, such as [("authorization", "Bearer ...")]. Without any, calls
            pass over servers that say that they do not serve; health is asked for without it.
        timing: sleep, clock and jitter; for tests.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        reconnect_timeout: float = DEFAULT_RECONNECT_TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timing: Timing | None = None,
    ) -> None:
        self._reconnect_timeout = reconnect_timeout
        self._calls = Calls(
            target,
            timeout=timeout,
            credentials=credentials,
            metadata=metadata,
            timing=timing or Timing(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel; calls and watches under way end with an error."""
        await self._calls.close()

    def handle(self, job_id: str) -> JobHandle[Any]:
        """A handle on a job whose id is known; makes no call, so the id may be wrong."""
        return JobHandle(self, job_pb2.Job(job_id=job_id))

    async def get(self, job_id: str, *, timeout: float | None = None) -> JobHandle[Any]:
        """Reads a job and returns a handle on it.

        Raises:
            JobNotFound: there is none.
        """
        return JobHandle(self, (await self.status(job_id, timeout=timeout)).job)

    async def status(
        self,
        job_id: str,
        view: job_service_pb2.JobView.ValueType = job_service_pb2.JOB_VIEW_FULL,
        *,
        after_revision: int | None = None,
        wait: float = LONGEST_POLL,
        timeout: float | None = None,
    ) -> job_service_pb2.StatusResponse:
        """Reads one job and, while it waits, its placement.

        Args:
            job_id: the job.
            view: how much of it.
            after_revision: long-poll: answer once the revision is larger than this, or after
                `wait` seconds, at most 60.

        Raises:
            JobNotFound: there is none.
        """
        request = job_service_pb2.StatusRequest(
            job_id=job_id, view=view, after_revision=after_revision
        )
        takes = 0.0
        if after_revision is not None:
            request.wait.CopyFrom(to_duration(wait))
            takes = wait
            timeout = (self._calls.timeout if timeout is None else timeout) + wait
        method = self._calls.jobs.Status
        return await self._calls.unary(method, request, timeout=timeout, takes=takes)

    def watch(
        self,
        job_id: str,
        *,
        include_logs: bool = False,
        after_sequence: int | None = None,
        control: bool = False,
        minimum_progress_interval: float | None = None,
    ) -> AsyncGenerator[Event, None]:
        """What happens to a job, live, until one terminal event; reconnects by itself.

        State changes, and log chunks if asked for, come once each and in order, however often
        the connection breaks. Progress is the newest. A Gap is followed by a Snapshot.

        Args:
            job_id: the job.
            include_logs: also log lines.
            after_sequence: resume after the event with this sequence; None starts with a
                Snapshot.
            control: also pass on Heartbeat and Reconnect.
            minimum_progress_interval: seconds between progress events, at least 0.1.

        Raises:
            JobNotFound: there is none.
            Unavailable: no server was heard for the `reconnect_timeout` of the client.
        """
        interval = minimum_progress_interval
        request = job_service_pb2.WatchProgressRequest(
            job_id=job_id,
            after_sequence=after_sequence,
            include_logs=include_logs,
            minimum_progress_interval=None if interval is None else to_duration(interval),
        )
        patience = self._reconnect_timeout
        return Watch(self._calls, request, control=control, patience=patience).events()

    async def list(
        self,
        filter: str = "",  # noqa: A002 - the name in the contract
        *,
        order_by: str = "",
        view: job_service_pb2.JobView.ValueType = job_service_pb2.JOB_VIEW_BASIC,
        page_size: int = 200,
        timeout: float | None = None,
    ) -> AsyncGenerator[job_pb2.Job, None]:
        """Jobs, newest first, over as many pages as the caller reads.

        Args:
            filter: such as 'state = RUNNING AND labels.team = "ads"'; empty is all.
            order_by: "create_time desc" (the default) or "create_time".
            view: how much of each job.
            page_size: jobs a call, at most 1,000.
            timeout: seconds for each page.

        Raises:
            InvalidRequest: the filter is wrong; `violations` says where.
        """
        request = job_service_pb2.ListJobsRequest(
            filter=filter, order_by=order_by, view=view, page_size=page_size
        )
        pages = self._calls.pages(self._calls.jobs.ListJobs, request, timeout)
        async for page in pages:
            for job in page.jobs:
                yield job

    async def cancel(
        self, job_id: str, reason: str = "", *, force: bool = False, timeout: float | None = None
    ) -> job_pb2.Job:
        """Asks for cancellation; idempotent, and never waits for a worker.

        Args:
            job_id: the job.
            reason: why; at most 1,024 characters.
            force: kill at once instead of after the cancel_grace of the job.

        Returns:
            The job: CANCELLING, CANCELLED, or in the terminal state it had reached before.
        """
        request = job_service_pb2.CancelRequest(job_id=job_id, reason=reason, force=force)
        return (await self._calls.unary(self._calls.jobs.Cancel, request, timeout=timeout)).job

    async def retry(
        self,
        job_id: str,
        reason: str = "",
        *,
        expected_run: int | None = None,
        timeout: float | None = None,
    ) -> job_pb2.Job:
        """Runs an ended job again, as a new run of the same id.

        Args:
            expected_run: only if the job is still in this run: so two people who see one failure
                start one new run.

        Raises:
            PreconditionFailed: the job has not ended, or is in another run.
            AlreadyExists: another job holds its uniqueness key.
        """
        request = job_service_pb2.RetryRequest(
            job_id=job_id, reason=reason, expected_run=expected_run, idempotency_key=new_key()
        )
        response = await self._calls.unary(self._calls.jobs.Retry, request, timeout=timeout)
        return response.job

    async def queues(
        self, *, timeout: float | None = None
    ) -> builtins.list[queue_service_pb2.Queue]:
        """Every queue, by name."""
        request = queue_service_pb2.ListQueuesRequest(page_size=PAGE_SIZE)
        pages = self._calls.pages(self._calls.queues.ListQueues, request, timeout)
        return await _collect(pages, lambda page: page.queues)

    async def pause_queue(
        self, queue: str, reason: str = "", *, timeout: float | None = None
    ) -> queue_service_pb2.Queue:
        """Stops new starts from a queue; what runs goes on. Idempotent."""
        request = queue_service_pb2.PauseQueueRequest(queue=queue, reason=reason)
        method = self._calls.queues.PauseQueue
        return (await self._calls.unary(method, request, timeout=timeout)).queue

    async def resume_queue(
        self, queue: str, *, timeout: float | None = None
    ) -> queue_service_pb2.Queue:
        """Undoes `pause_queue`. Idempotent."""
        request = queue_service_pb2.ResumeQueueRequest(queue=queue)
        method = self._calls.queues.ResumeQueue
        return (await self._calls.unary(method, request, timeout=timeout)).queue

    async def pools(self, *, timeout: float | None = None) -> builtins.list[pool_service_pb2.Pool]:
        """Every pool, by name."""
        request = pool_service_pb2.ListPoolsRequest(page_size=PAGE_SIZE)
        pages = self._calls.pages(self._calls.pools.ListPools, request, timeout)
        return await _collect(pages, lambda page: page.pools)

    async def workers(
        self, pool: str = "", *, timeout: float | None = None
    ) -> builtins.list[pool_service_pb2.Worker]:
        """Every worker, of one pool or of all.

        Raises:
            NotFound: there is no such pool.
        """
        request = pool_service_pb2.ListWorkersRequest(pool=pool, page_size=PAGE_SIZE)
        pages = self._calls.pages(self._calls.pools.ListWorkers, request, timeout)
        return await _collect(pages, lambda page: page.workers)

    async def scheduler(
        self, *, timeout: float | None = None
    ) -> pool_service_pb2.GetSchedulerResponse:
        """The scheduler that leads, or led last."""
        request = pool_service_pb2.GetSchedulerRequest()
        return await self._calls.unary(self._calls.pools.GetScheduler, request, timeout=timeout)

    async def drain_workers(
        self,
        worker_ids: Iterable[str] = (),
        *,
        pool: str = "",
        node: str = "",
        grace: float = 30.0,
        timeout: float | None = None,
    ) -> pool_service_pb2.DrainWorkersResponse:
        """Takes workers out of service and waits until nothing is left on them.

        They get no new work and their tasks are asked for a checkpoint; the pool starts others.
        Idempotent: a repeated call waits for the first, whose grace stands.

        Args:
            worker_ids, pool, node: those workers, all of that pool, and all on that Ray node.
            grace: seconds that running attempts may take before they are taken back; they go on
                elsewhere from their newest checkpoint. At most a day.
            timeout: by default the client's and the grace and a minute.

        Raises:
            NotFound: an id is no worker now, or there is no such pool.
            Unavailable: no scheduler carries it out; the order stands.
        """
        request = pool_service_pb2.DrainWorkersRequest(
            worker_ids=worker_ids, pool=pool, node=node, grace=to_duration(grace)
        )
        takes = grace + DRAIN_MARGIN
        if timeout is None:
            timeout = self._calls.timeout + takes
        method = self._calls.pools.DrainWorkers
        return await self._calls.unary(method, request, timeout=timeout, takes=takes)

    async def cordon_worker(
        self, worker_id: str, *, cordoned: bool = True, timeout: float | None = None
    ) -> pool_service_pb2.Worker:
        """Gives a worker no new work, or with `cordoned=False` work again. Idempotent.

        Raises:
            NotFound: there is no such worker now.
            PreconditionFailed: work for a worker that was drained.
        """
        request = pool_service_pb2.CordonWorkerRequest(worker_id=worker_id, cordoned=cordoned)
        method = self._calls.pools.CordonWorker
        return (await self._calls.unary(method, request, timeout=timeout)).worker

    async def tasks(self, *, timeout: float | None = None) -> builtins.list[task_service_pb2.Task]:
        """Every registered task, by name, without schemas."""
        request = task_service_pb2.ListTasksRequest(page_size=PAGE_SIZE)
        pages = self._calls.pages(self._calls.tasks.ListTasks, request, timeout)
        return await _collect(pages, lambda page: page.tasks)

    async def task(self, name: str, *, timeout: float | None = None) -> task_service_pb2.Task:
        """One task with its JSON Schemas.

        Raises:
            NotFound: no such task is registered.
        """
        request = task_service_pb2.GetTaskRequest(task=name)
        return (await self._calls.unary(self._calls.tasks.GetTask, request, timeout=timeout)).task


async def _collect(
    pages: AsyncIterator[Response], items: Callable[[Response], Iterable[T]]
) -> builtins.list[T]:
    return [item async for page in pages for item in items(page)]
