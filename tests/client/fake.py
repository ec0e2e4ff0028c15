"""A Longshore service that does what a test scripts: refuses, cuts streams, trims history."""

# ruff: noqa: N802 - methods are named by the contract

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as rpc
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_status import rpc_status

from longshore.calls import Timing
from longshore.v1 import (
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    pool_service_pb2,
    pool_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
    watch_pb2,
)

Event = watch_pb2.WatchProgressResponse
HealthServicer = health_aio.HealthServicer
DURABLE = ("state_change", "log_chunk")
DEADLINE = 60.0
TRIMMED = watch_pb2.Gap.REASON_RETENTION


class FakeTime:
    """A clock that only moves when somebody sleeps; remembers the sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        await asyncio.sleep(0)

    @property
    def timing(self) -> Timing:
        return Timing(sleep=self.sleep, clock=lambda: self.now, random=lambda: 0.0)


@dataclass
class Refusal:
    """A status that a call gets instead of an answer."""

    code: grpc.StatusCode
    message: str = "no"
    details: tuple[Message, ...] = ()

    async def raise_in(self, context: Any) -> None:
        packed = []
        for detail in self.details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        await context.abort_with_status(rpc_status.to_status(status))


def unavailable() -> Refusal:
    return Refusal(grpc.StatusCode.UNAVAILABLE, "down")


def queue_full(seconds: int) -> Refusal:
    retry = rpc.RetryInfo()
    retry.retry_delay.seconds = seconds
    quota = rpc.QuotaFailure(violations=[{"subject": "queue:fast", "description": "1000 wait"}])
    info = rpc.ErrorInfo(reason="QUEUE_FULL", domain="longshore.dev", metadata={"queue": "fast"})
    return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue 'fast' is full", (info, quota, retry))


@dataclass
class Cut:
    """How a stream breaks: after so many events, in this way. `how` is a status, "eof" or
    "reconnect"."""

    after: int
    how: grpc.StatusCode | str = grpc.StatusCode.UNAVAILABLE


@dataclass
class History:
    """Everything that will have happened to a job; a stream tells it from a cursor on."""

    job: job_pb2.Job
    events: list[Event] = field(default_factory=list)
    trimmed: int = 0

    @property
    def latest(self) -> int:
        return max((event.sequence for event in self.events), default=0)

    def state(self, to: int, reason: str = "TEST") -> Self:
        change = watch_pb2.StateChange(to_state=to, reason=reason)  # type: ignore[arg-type]
        return self._add(Event(sequence=self.latest + 1, state_change=change))

    def log(self, *lines: str) -> Self:
        chunk = watch_pb2.LogChunk(lines=lines)
        return self._add(Event(sequence=self.latest + 1, log_chunk=chunk))

    def progress(self, fraction: float, message: str = "") -> Self:
        progress = job_pb2.Progress(fraction=fraction, message=message)
        return self._add(Event(sequence=self.latest, progress=progress))

    def end(self, state: int, value: str = "", error: status_pb2.Status | None = None) -> Self:
        self.state(state)
        job = job_pb2.Job()
        job.CopyFrom(self.job)
        job.state = state  # type: ignore[assignment]
        if error is None:
            job.result.value = value
        else:
            job.error.CopyFrom(error)
        return self._add(Event(sequence=self.latest, terminal=watch_pb2.Terminal(job=job)))

    @property
    def ended(self) -> job_pb2.Job:
        return self.events[-1].terminal.job

    def _add(self, event: Event) -> Self:
        event.revision = len(self.events) + 1
        self.events.append(event)
        return self

    def after(self, sequence: int | None, *, logs: bool) -> list[Event]:
        """What the contract says a stream tells."""
        start = self.trimmed if sequence is None else sequence
        told: list[Event] = []
        if sequence is None or sequence < self.trimmed:
            start = self.trimmed
            if sequence is not None:
                told.append(_gap(sequence, self.trimmed))
            told.append(self._snapshot())
        for event in self.events:
            kind = event.WhichOneof("event")
            fresh = event.sequence > start if kind in DURABLE else event.sequence >= start
            if fresh and (logs or kind != "log_chunk"):
                told.append(event)
        return told

    def _snapshot(self) -> Event:
        revision = sum(1 for event in self.events if event.sequence <= self.trimmed)
        snapshot = watch_pb2.Snapshot(job=self.job)
        return Event(sequence=self.trimmed, revision=revision, snapshot=snapshot)


def _gap(sequence: int, trimmed: int) -> Event:
    gap = watch_pb2.Gap(first_sequence=sequence + 1, last_sequence=trimmed, reason=TRIMMED)
    return Event(sequence=trimmed, gap=gap)


class FakeService(
    job_service_pb2_grpc.JobServiceServicer,
    queue_service_pb2_grpc.QueueServiceServicer,
    pool_service_pb2_grpc.PoolServiceServicer,
    task_service_pb2_grpc.TaskServiceServicer,
):
    """Accepts everything, except what is scripted in `refusals` (by method) and `cuts`."""

    def __init__(self) -> None:
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.refusals: dict[str, deque[Refusal]] = defaultdict(deque)
        self.cuts: deque[Cut] = deque()
        self.histories: dict[str, History] = {}
        self.trims: deque[int] = deque()
        self.reports_created = True
        self.holds = False
        self.attempts: list[job_pb2.Attempt] = []
        self.drained = ["w1"]
        self.on_enter: Callable[[Any], None] = lambda context: None

    def add(self, job_id: str = "job-1", **spec: Any) -> History:
        spec.setdefault("task", "resize")
        asked = job_pb2.JobSpec(**spec)
        state = job_pb2.JOB_STATE_QUEUED
        job = job_pb2.Job(job_id=job_id, state=state, spec=asked, queue=asked.queue)
        self.histories[job_id] = History(job)
        return self.histories[job_id]

    async def _enter(self, request: Any, context: Any) -> None:
        name = type(request).__name__.removesuffix("Request")
        copy = type(request)()
        copy.CopyFrom(request)
        self.requests[name].append(copy)
        self.on_enter(context)
        if self.refusals[name]:
            await self.refusals[name].popleft().raise_in(context)

    async def _find(self, job_id: str, context: Any) -> History:
        if job_id not in self.histories:
            info = rpc.ResourceInfo(resource_type="longshore.v1.Job", resource_name=job_id)
            refusal = Refusal(grpc.StatusCode.NOT_FOUND, f"job {job_id!r} is unknown", (info,))
            await refusal.raise_in(context)
        return self.histories[job_id]

    def _accept(self, request: job_service_pb2.SubmitRequest) -> job_service_pb2.SubmitResponse:
        job = job_pb2.Job(job_id=f"id-{request.idempotency_key}", spec=request.spec)
        job.state = job_pb2.JOB_STATE_QUEUED
        return job_service_pb2.SubmitResponse(
            job=job,
            created=self.reports_created,
            placement=job_pb2.Placement(approximate_position=3),
        )

    async def Submit(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        response = self._accept(request)
        if request.spec.task == "known":
            response.job.job_id = "job-1"
        return response

    async def SubmitBatch(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return job_service_pb2.SubmitBatchResponse(
            responses=[self._accept(one) for one in request.requests]
        )

    async def Status(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        history = await self._find(request.job_id, context)
        ended = history.events and history.events[-1].HasField("terminal")
        return job_service_pb2.StatusResponse(job=history.ended if ended else history.job)

    async def WatchProgress(self, request: Any, context: Any) -> AsyncIterator[Event]:
        await self._enter(request, context)
        history = await self._find(request.job_id, context)
        if self.holds:
            yield history.after(None, logs=False)[0]
            await asyncio.Event().wait()
        if self.trims:
            history.trimmed = max(history.trimmed, min(self.trims.popleft(), history.latest))
        sequence = request.after_sequence if request.HasField("after_sequence") else None
        if sequence is not None and sequence > history.latest:
            await Refusal(grpc.StatusCode.OUT_OF_RANGE, "beyond the end").raise_in(context)
        told = history.after(sequence, logs=request.include_logs)
        cut = self.cuts.popleft() if self.cuts else None
        for event in told if cut is None else told[: min(cut.after, len(told) - 1)]:
            yield event
        if cut is not None:
            await _break(cut, context)
            if cut.how == "reconnect":
                yield Event(reconnect=watch_pb2.Reconnect(retry_delay=Duration(seconds=5)))
                await unavailable().raise_in(context)

    async def ListJobs(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        jobs = [history.job for history in self.histories.values()]
        start = int(request.page_token or 0)
        end = start + request.page_size
        return job_service_pb2.ListJobsResponse(
            jobs=jobs[start:end], next_page_token=str(end) if end < len(jobs) else ""
        )

    async def Cancel(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        history = await self._find(request.job_id, context)
        history.job.state = job_pb2.JOB_STATE_CANCELLING
        return job_service_pb2.CancelResponse(job=history.job)

    async def ListAttempts(self, request: Any, context: Any) -> Any:
        return job_service_pb2.ListAttemptsResponse(attempts=self.attempts[::-1])

    async def Retry(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        history = await self._find(request.job_id, context)
        return job_service_pb2.RetryResponse(job=history.job)

    async def ListQueues(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        second = request.page_token == "2"
        queue = queue_service_pb2.Queue(name="slow" if second else "fast", waiting=7)
        token = "" if second else "2"
        return queue_service_pb2.ListQueuesResponse(queues=[queue], next_page_token=token)

    async def PauseQueue(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        queue = queue_service_pb2.Queue(name=request.queue, pause_reason=request.reason)
        queue.paused = True
        return queue_service_pb2.PauseQueueResponse(queue=queue)

    async def ResumeQueue(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        queue = queue_service_pb2.Queue(name=request.queue)
        return queue_service_pb2.ResumeQueueResponse(queue=queue)

    async def ListPools(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        each = job_pb2.Resources(cpu_millis=1500, memory_bytes=2**31)
        pool = pool_service_pb2.Pool(name="cpu", simulated=True, worker_resources=each)
        return pool_service_pb2.ListPoolsResponse(pools=[pool])

    async def GetScheduler(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        return pool_service_pb2.GetSchedulerResponse(leads=True, scheduler_id="host:1", term=7)

    async def ListWorkers(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        worker = pool_service_pb2.Worker(
            worker_id="w1", pool=request.pool or "cpu", state=pool_service_pb2.WORKER_STATE_READY
        )
        return pool_service_pb2.ListWorkersResponse(workers=[worker])

    async def ListTasks(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        task = task_service_pb2.Task(name="resize", description="Makes images smaller.")
        return task_service_pb2.ListTasksResponse(tasks=[task])

    async def GetTask(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        task = task_service_pb2.Task(name=request.task, input_schema='{"type": "object"}')
        return task_service_pb2.GetTaskResponse(task=task)

    async def DrainWorkers(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        draining = pool_service_pb2.WORKER_STATE_DRAINING
        workers = [
            pool_service_pb2.Worker(worker_id=worker_id, state=draining)
            for worker_id in request.worker_ids or self.drained
        ]
        return pool_service_pb2.DrainWorkersResponse(
            workers=workers, finished_attempts=2, released_attempts=1
        )

    async def CordonWorker(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        cordoned, ready = (
            pool_service_pb2.WORKER_STATE_CORDONED,
            pool_service_pb2.WORKER_STATE_READY,
        )
        worker = pool_service_pb2.Worker(
            worker_id=request.worker_id, state=cordoned if request.cordoned else ready
        )
        return pool_service_pb2.CordonWorkerResponse(worker=worker)

    async def ListDeadLetters(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        second = request.page_token == "2"
        job = job_pb2.Job(job_id="dead-2" if second else "dead-1", run=1)
        job.spec.task, job.state = "resize", job_pb2.JOB_STATE_DEAD_LETTERED
        job.error.message = "bad video"
        job.attempts.add(number=1, failure_class=job_pb2.FAILURE_CLASS_CRASH)
        return queue_service_pb2.ListDeadLettersResponse(
            jobs=[job], next_page_token="" if second else "2"
        )

    async def Redrive(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        job = job_pb2.Job(job_id="dead-1", state=job_pb2.JOB_STATE_DEAD_LETTERED)
        redrive_id = "" if request.dry_run else "redrive-1"
        return queue_service_pb2.RedriveResponse(redrive_id=redrive_id, count=2, sample=[job])

    async def ListRedrives(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        running = queue_service_pb2.REDRIVE_STATE_RUNNING
        redrive = queue_service_pb2.Redrive(
            redrive_id="redrive-1", state=running, total=2, redriven=1
        )
        return queue_service_pb2.ListRedrivesResponse(redrives=[redrive])

    async def StopRedrive(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        redrive = queue_service_pb2.Redrive(
            redrive_id=request.redrive_id,
            state=queue_service_pb2.REDRIVE_STATE_STOPPED,
            stop_reason=request.reason,
        )
        return queue_service_pb2.StopRedriveResponse(redrive=redrive)

    async def PurgeDeadLetters(self, request: Any, context: Any) -> Any:
        await self._enter(request, context)
        more = len(self.requests["PurgeDeadLetters"]) == 1 and not request.dry_run
        return queue_service_pb2.PurgeDeadLettersResponse(count=2, more=more)


async def _break(cut: Cut, context: Any) -> None:
    if isinstance(cut.how, grpc.StatusCode):
        await Refusal(cut.how, "cut").raise_in(context)


@asynccontextmanager
async def serving(
    service: FakeService,
    address: str = "127.0.0.1:0",
    health: HealthServicer | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> AsyncIterator[str]:
    """Serves it in this loop; gives the target."""
    server = grpc.aio.server(interceptors=tuple(interceptors))
    if health is None:
        health = HealthServicer()
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    job_service_pb2_grpc.add_JobServiceServicer_to_server(service, server)
    queue_service_pb2_grpc.add_QueueServiceServicer_to_server(service, server)
    pool_service_pb2_grpc.add_PoolServiceServicer_to_server(service, server)
    task_service_pb2_grpc.add_TaskServiceServicer_to_server(service, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class ServerThread:
    """Serves it in a loop and a thread of its own, for callers that block."""

    def __init__(self, service: FakeService) -> None:
        self._service = service
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.target = ""

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        # Two loops that use grpc.aio in one process: a harmless report of grpc#25364.
        self._loop.set_exception_handler(lambda loop, context: None)
        async with serving(self._service) as self.target:
            self._ready.set()
            await self._over.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(DEADLINE)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(DEADLINE)
