"""Row 16: Postgres is slow, then silent, and every connection of the pools is taken."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longshore import AsyncClient
from longshore.v1 import job_pb2
from longshore.v1 import job_service_pb2 as pb
from longshore.v1.job_service_pb2_grpc import JobServiceStub
from tests.faults.closing import Told, all_ended, close_books, recovered
from tests.faults.proxy import Proxy
from tests.faults.scale import times
from tests.faults.serving import Serving
from tests.server.harness import Refused
from tests.store.places import Postgres

if TYPE_CHECKING:
    from longshore.v1.job_service_pb2_grpc import JobServiceAsyncStub

CALLS = 60
DEADLINE = 20.0
ANSWER_TIME = 15.5  # before the deadline: room for a machine that pauses
ROUNDS = times(5, 1)  # of slowness, and of silence
SLOWEST = 0.4
BOUND = 60.0
CHECKS = 25
# An attempt that was leased and not handed over when the term ended waits for as long as a lease.
SETTINGS = {"scheduler": {"lease": 2.0, "abandon": 4.0, "term": 3.0}}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Calls:
    """Many calls at once that read and write, and how each ended."""

    def __init__(self, stub: JobServiceAsyncStub, told: Told, job_id: str) -> None:
        self._stub = stub
        self._told = told
        self._job_id = job_id
        self.ends: Counter[str] = Counter()
        self.slowest = 0.0

    async def some(self, count: int) -> None:
        """A third each of Submit, Status and ListJobs; all end within their deadline."""
        makers = (self._submit, self._status, self._list)
        await asyncio.gather(*(self._one(makers[n % 3]) for n in range(count)))

    async def _one(self, call: Callable[[], Awaitable[Any]]) -> None:
        begin = time.monotonic()
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            refused = Refused(error)
            assert refused.code is UNAVAILABLE
            assert refused.reason == "STORE_UNAVAILABLE"
            assert refused.delay > 0
            self.ends["refused"] += 1
        else:
            self.ends["answered"] += 1
        self.slowest = max(self.slowest, time.monotonic() - begin)

    async def _submit(self) -> None:
        request = pb.SubmitRequest(spec=job_pb2.JobSpec(task="work"))
        self._told.accepted.add((await self._stub.Submit(request, timeout=DEADLINE)).job.job_id)

    async def _status(self) -> None:
        await self._stub.Status(pb.StatusRequest(job_id=self._job_id), timeout=DEADLINE)

    async def _list(self) -> None:
        await self._stub.ListJobs(pb.ListJobsRequest(page_size=10), timeout=DEADLINE)


async def test_a_slow_store_is_said_in_time(
    postgres: Postgres, postgres_url: str, tmp_path: Path, seed: int
) -> None:
    told, seeded = Told(16, seed), random.Random(seed)
    folder = postgres_url.partition("host=")[2]
    database = postgres_url.partition("@/")[2].partition("?")[0]
    async with Proxy(f"{folder}/.s.PGSQL.5432") as proxy:
        url = f"postgresql://postgres@{proxy.target}/{database}"
        server = Serving(tmp_path, url, settings=SETTINGS, answer_time=ANSWER_TIME, patient=False)
        async with server, AsyncClient(server.target, timeout=BOUND) as client:
            handle = await client.submit("work")
            told.accepted.add(handle.id)
            async with calling(server.target) as stub, healthy(server.target) as checks:
                slow, silent = Calls(stub, told, handle.id), Calls(stub, told, handle.id)
                for _ in range(ROUNDS):
                    proxy.delay = seeded.uniform(SLOWEST / 2, SLOWEST)
                    await slow.some(CALLS)
                proxy.delay = 0.0
                proxy.pause()
                answered = len(checks)
                for _ in range(ROUNDS):
                    await silent.some(CALLS)
                # Health is not held up by the store: then there would not be so many in time.
                await recovered(lambda: _checked(checks, answered + CHECKS), BOUND)
                begin = time.monotonic()
                proxy.resume()
                told.accepted.add((await client.submit("work")).id)
                await recovered(lambda: all_ended(client), BOUND)
                seconds = time.monotonic() - begin
            await server.stop()
    assert silent.ends == {"refused": ROUNDS * CALLS}
    assert max(slow.slowest, silent.slowest) < DEADLINE + 1
    # Submits that were refused may have been stored: nobody had a key to ask again with.
    await close_books(postgres_url, told, server.marks, unanswered=2 * ROUNDS * CALLS)
    counts = {f"{name}_when_slow": count for name, count in slow.ends.items()}
    print(
        told.heal_line(
            seconds, **counts, refused_when_silent=ROUNDS * CALLS, health_checks=len(checks)
        )
    )


@asynccontextmanager
async def calling(target: str) -> AsyncIterator[JobServiceAsyncStub]:
    """A stub, whose calls are not repeated."""
    async with grpc.aio.insecure_channel(target) as channel:
        yield JobServiceStub(channel)


@asynccontextmanager
async def healthy(target: str) -> AsyncIterator[list[float]]:
    """Asks all the time whether the server is healthy. It does not flap: long slowness of the store
    it says once, and a long silence, and each time once that it is over."""
    checks: list[float] = []
    changes: list[int] = [SERVING]

    async def ask() -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                begin = time.monotonic()
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=BOUND)
                if answer.status != changes[-1]:
                    changes.append(answer.status)
                checks.append(time.monotonic() - begin)
                await asyncio.sleep(0.1)

    asking = asyncio.create_task(ask())
    yield checks
    async with asyncio.timeout(BOUND):
        while changes[-1] != SERVING and not asking.done():
            await asyncio.sleep(0.05)
    if asking.done():
        await asking  # raises what was wrong
    asking.cancel()
    assert changes.count(NOT_SERVING) <= 2
    assert changes[-1] == SERVING


async def _checked(checks: list[float], count: int) -> bool:
    return len(checks) >= count
