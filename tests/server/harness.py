"""A real server on a real channel over a real SQLite store; the test plays the scheduler."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as rpc
from grpc_status import rpc_status
from pydantic import BaseModel, ConfigDict, Field

from longshore import Context, Resources, task
from longshore.v1 import job_pb2, watch_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore.v1.job_service_pb2_grpc import JobServiceStub
from longshore.v1.pool_service_pb2_grpc import PoolServiceStub
from longshore.v1.queue_service_pb2_grpc import QueueServiceStub
from longshore.v1.task_service_pb2_grpc import TaskServiceStub
from longshore_server import answering
from longshore_server.server import LongshoreServer
from longshore_store import model as m
from longshore_store.needs import needs_json
from longshore_store.settings import Settings, parse_settings
from longshore_store.sql import SqlStore
from longshore_store.topology_records import PoolRecord, QueueDeclaration, TaskRecord

GIB = 1024**3
_lines = itertools.count(1)
DEADLINE = 30.0
Event = watch_pb2.WatchProgressResponse


class Text(BaseModel):
    model_config = ConfigDict(extra="ignore")

    text: str = "x"


class Rendition(BaseModel):
    height: int = Field(ge=1)


class Video(BaseModel):
    renditions: list[Rendition]
    codec: str


@task
def echo(ctx: Context, params: Text) -> Text:
    """Gives back what it got."""
    return params


@task(queue="slow", resources=Resources(cpu=2, memory=GIB), max_attempts=2)
def transcode(ctx: Context, params: Video) -> Text:
    """Makes smaller videos."""
    return Text()


POOLS = [
    PoolRecord(
        "cpu", needs_json(cpu_millis=4000, memory_bytes=8 * GIB), 1, 2, 1, 0, 0, simulated=False
    ),
    PoolRecord(
        "gpu",
        needs_json(
            cpu_millis=8000,
            memory_bytes=32 * GIB,
            gpu_millis=1000,
            gpu_memory_bytes=24 * GIB,
            accelerators=["l4"],
        ),
        0, 1, 0, 1, 0, simulated=True,
    ),
]  # fmt: skip


def make_settings(**server: Any) -> Settings:
    """Patient, since a machine may pause: what a test wants to be short, it says."""
    patient = {"shutdown_grace": 60.0, "slow_reader_timeout": 60.0}
    return parse_settings({"server": {**patient, **server}})


class Harness:
    """What a test holds. `term` is that of the scheduler which the test plays."""

    def __init__(self, store: SqlStore, server: LongshoreServer, channel: grpc.aio.Channel) -> None:
        self.store = store
        self.server = server
        self.channel = channel
        self.jobs = JobServiceStub(channel)
        self.queues = QueueServiceStub(channel)
        self.pools = PoolServiceStub(channel)
        self.tasks = TaskServiceStub(channel)
        self.term = 0

    async def submit(self, **spec: Any) -> job_pb2.Job:
        """Submits one echo, unless the spec says otherwise."""
        answer = await self.jobs.Submit(request(**spec), timeout=DEADLINE)
        return answer.job

    async def lease(self, job_id: str, worker: str = "w1") -> int:
        """LEASED; returns the fence."""
        record = await self.store.read_job(job_id)
        assert record is not None
        leased = await self.store.lease_jobs(self.term, [m.Lease(job_id, record.fence, worker)])
        return leased[0].fence

    async def start(self, job_id: str) -> int:
        """RUNNING; returns the fence."""
        fence = await self.lease(job_id)
        started = m.Start(job_id, fence, self.store.now_us(), '["cpu:0"]')
        assert await self.store.start_attempts(self.term, [started]) == []
        return fence

    async def complete(self, job_id: str, fence: int, value: str = '{"text":"done"}') -> None:
        """SUCCEEDED."""
        done = m.Completion(job_id, fence, self.store.now_us(), value)
        assert await self.store.complete_attempts(self.term, [done]) == []

    async def run(self, job_id: str) -> None:
        """From QUEUED to SUCCEEDED."""
        await self.complete(job_id, await self.start(job_id))

    async def progress(self, job_id: str, fence: int, fraction: float, **more: Any) -> None:
        body = json.dumps({"fraction": fraction, **more})
        await self.store.record_progress(self.term, [m.ProgressUpdate(job_id, fence, body)])

    async def log(self, job_id: str, fence: int, *lines: str) -> None:
        body = json.dumps({"lines": lines, "dropped": 0})
        update = m.LogUpdate(job_id, fence, next(_lines), body)
        await self.store.record_logs(self.term, [update])

    def watch(self, job_id: str, **options: Any) -> Any:
        return self.jobs.WatchProgress(
            pb.WatchProgressRequest(job_id=job_id, **options), timeout=3 * DEADLINE
        )


@asynccontextmanager
async def opened(folder: Path, settings: Settings | None = None) -> AsyncIterator[Harness]:
    """A harness over a fresh store, with two tasks, four queues and two pools."""
    store = SqlStore(f"sqlite+aiosqlite:///{folder}/longshore.db")
    await store.open()
    queues = [("default", 0), ("slow", 0), ("tiny", 3), ("timed", 0)]
    await store.declare_queues(
        [QueueDeclaration(n, most, 90_000_000 if n == "timed" else None, "") for n, most in queues]
    )
    await store.publish_tasks(
        [TaskRecord(t.name, json.dumps(t.describe())) for t in (echo, transcode)]
    )
    await store.publish_pools(POOLS)
    term = await store.lead("test", 600_000_000) or 0
    server = LongshoreServer(store, settings or make_settings(), listen="127.0.0.1:0", poll=0.2)
    await server.start()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        harness = Harness(store, server, channel)
        harness.term = term
        try:
            yield harness
        finally:
            await server.stop(0)
            await store.close()


def request(**spec: Any) -> pb.SubmitRequest:
    return pb.SubmitRequest(spec=job_pb2.JobSpec(**{"task": "echo", **spec}))


def brief_wait(patch: pytest.MonkeyPatch) -> float:
    """A deadline, from now on, of which a handler waits for half a second. All the rest is for
    reading and answering, on however slow a machine."""
    patch.setattr(answering, "ANSWER_SHARE", 1.0)
    patch.setattr(answering, "ANSWER_TIME", DEADLINE)
    return 2 * DEADLINE + 0.5


class Refused:
    """A status that is not OK, with its details."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.message = error.details() or ""
        status = rpc_status.from_call(cast(grpc.Call, error))
        assert status is not None, f"{self.code} {self.message} has no details"
        self._details = status.details
        self.info = self.of(rpc.ErrorInfo)
        assert self.info.domain == "longshore.dev"
        self.reason = self.info.reason

    def of(self, kind: type[Message]) -> Any:
        for detail in self._details:
            if detail.Is(kind.DESCRIPTOR):
                return kind.FromString(detail.value)
        return kind()

    @property
    def fields(self) -> dict[str, str]:
        return {v.field: v.description for v in self.of(rpc.BadRequest).field_violations}

    @property
    def resource(self) -> tuple[str, str]:
        info = self.of(rpc.ResourceInfo)
        return info.resource_type, info.resource_name

    @property
    def delay(self) -> float:
        info = self.of(rpc.RetryInfo).retry_delay
        return float(info.seconds + info.nanos / 1e9)


async def refused(call: Awaitable[Any]) -> Refused:
    """The refusal that the call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, DEADLINE)
    return Refused(caught.value)


async def read_to_end(call: Any) -> list[Event]:
    """Every event of a watch that ends with OK."""
    events: list[Event] = []
    async with asyncio.timeout(2 * DEADLINE):
        while (event := await call.read()) is not grpc.aio.EOF:
            events.append(event)
        assert await call.code() is grpc.StatusCode.OK
    return events


async def take(call: Any, count: int) -> list[Event]:
    """The next events of a watch."""
    async with asyncio.timeout(DEADLINE):
        return [await call.read() for _ in range(count)]


async def take_until(call: Any, kind: str) -> list[Event]:
    """Events up to and with the first of a kind."""
    events: list[Event] = []
    async with asyncio.timeout(DEADLINE):
        while not events or kind_of(events[-1]) != kind:
            event = await call.read()
            assert event is not grpc.aio.EOF, f"no {kind} after {list(map(kind_of, events))}"
            events.append(event)
    return events


def kind_of(event: Event) -> str:
    return event.WhichOneof("event") or ""


def kinds(events: Sequence[Event]) -> list[str]:
    return [kind_of(event) for event in events]


def states(events: Sequence[Event]) -> list[str]:
    """The states that the changes among them lead to."""
    return [
        job_pb2.JobState.Name(e.state_change.to_state).removeprefix("JOB_STATE_")
        for e in events
        if kind_of(e) == "state_change"
    ]


async def until(condition: Callable[[], bool]) -> None:
    """Returns once it holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # nothing tells when a counter falls
            await asyncio.sleep(0.01)
