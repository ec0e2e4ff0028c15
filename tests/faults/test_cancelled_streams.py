"""Row 22: 100,000 streams that their clients cancel."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from longshore import AsyncClient
from longshore.v1 import job_service_pb2 as pb
from longshore.v1.job_service_pb2_grpc import JobServiceStub
from tests.faults.closing import Told, close_books, recovered
from tests.faults.scale import times
from tests.faults.serving import Serving

if TYPE_CHECKING:
    from longshore.v1.job_service_pb2_grpc import JobServiceAsyncStub

STREAMS = times(100_000, 4_000)
WARM_UP = 1_500
AT_ONCE = 50
BOUND = 60.0
MEMORY = 16 * 1024 * 1024


async def test_memory_stays_flat(tmp_path: Path, seed: int) -> None:
    told, gate = Told(22, seed), tmp_path / "open"
    async with Serving(tmp_path) as server, AsyncClient(server.target) as client:
        handle = await client.submit("work", {"gate": str(gate)})
        told.accepted.add(handle.id)
        seeded = random.Random(seed)
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = JobServiceStub(channel)
            await cancel_streams(stub, handle.id, WARM_UP, seeded)
            before = await settled(server)
            await cancel_streams(stub, handle.id, STREAMS, seeded)
            seconds = await recovered(lambda: _closed(server), BOUND)
            grown = await settled(server) - before
        assert grown < MEMORY
        gate.touch()
        told.ended[handle.id] = (await handle.wait(BOUND)).state
        await server.stop()
    await close_books(server.url, told, server.marks)
    print(told.heal_line(seconds, streams=STREAMS, grown_by=f"{grown / 2**20:.1f} MiB"))


async def cancel_streams(
    stub: JobServiceAsyncStub, job_id: str, count: int, seeded: random.Random
) -> None:
    """Opens streams and cancels each: at once, or after its first message."""
    left = iter(range(count))

    async def some() -> None:
        for _ in left:
            call = stub.WatchProgress(pb.WatchProgressRequest(job_id=job_id))
            if seeded.random() < 0.7:
                await call.read()
            call.cancel()

    async with asyncio.timeout(BOUND + count / 100):
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))


async def settled(server: Serving) -> int:
    """The memory of the server once every stream is closed there."""
    await recovered(lambda: _closed(server), BOUND)
    resident: int = (await server.ask("stats"))["resident"]
    return resident


async def _closed(server: Serving) -> bool:
    return bool((await server.ask("stats"))["watches"] == 0)
