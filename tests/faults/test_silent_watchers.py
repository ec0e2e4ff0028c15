"""Row 20: 1,000 watchers that never read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from longshore import AsyncClient
from longshore.v1 import job_service_pb2 as pb
from longshore.v1.job_service_pb2_grpc import JobServiceStub
from tests.faults.closing import Told, close_books, recovered
from tests.faults.serving import Serving
from tests.server.harness import Refused

WATCHERS = 1000
CHANNELS = 20
CHUNKS, SIZE = 200, 4096
SLOW = 2.0
BOUND = 60.0
# Small windows that do not grow: what is not read is felt by the server, not kept by the client.
WINDOW = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 16 * 1024),
]
MEMORY = 256 * 1024 * 1024
# A slow machine takes seconds to write to all of them; one after the other they would hold up the
# reader for half an hour.
SEEN_LATE = 50.0


async def test_watchers_that_never_read_harm_nobody(tmp_path: Path, seed: int) -> None:
    told, gate = Told(20, seed), tmp_path / "open"
    settings = {"server": {"slow_reader_timeout": SLOW}}
    async with Serving(tmp_path, settings=settings) as server, AsyncClient(server.target) as client:
        payload = {"chunks": CHUNKS, "size": SIZE, "pause": 0.01, "gate": str(gate)}
        await client.pause_queue("default")
        handle = await client.submit("work", payload)
        told.accepted.add(handle.id)
        before = (await server.ask("stats"))["resident"]
        async with silent_watchers(server.target, handle.id) as calls:
            await recovered(lambda: _watches(server, WATCHERS), BOUND)
            lags: list[float] = []
            reading = asyncio.create_task(read_all(client, handle.id, lags))
            await recovered(lambda: _watches(server, WATCHERS + 1), BOUND)
            await client.resume_queue("default")
            peak, seconds = await peak_until_cut(server)
            await recovered(lambda: _complete(lags), BOUND)
            gate.touch()  # which would end the chunks early
            await asyncio.wait_for(reading, BOUND)
            cut = await asyncio.gather(*(drain(call) for call in calls[::100]))
        assert len(lags) == CHUNKS
        assert max(lags) < SEEN_LATE
        assert {(refused.code, refused.reason) for refused, _ in cut} == {
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_READER")
        }
        assert peak - before < MEMORY
        await resume(client, handle.id, cut[0][1])
        await server.stop()
    await close_books(server.url, told, server.marks)
    grown = f"{(peak - before) >> 20} MiB"
    print(told.heal_line(seconds, watchers=WATCHERS, grown_by=grown, lag=f"{max(lags):.2f} s"))


@asynccontextmanager
async def silent_watchers(target: str, job_id: str) -> AsyncIterator[list[Any]]:
    """Watches that are open and never read."""
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(CHANNELS):
            channel = grpc.aio.insecure_channel(target, options=WINDOW)
            stub = JobServiceStub(await stack.enter_async_context(channel))
            request = pb.WatchProgressRequest(job_id=job_id, include_logs=True)
            calls += [stub.WatchProgress(request) for _ in range(WATCHERS // CHANNELS)]
        yield calls
        for call in calls:
            call.cancel()


async def _watches(server: Serving, count: int) -> bool:
    watches: int = (await server.ask("stats"))["watches"]
    return watches == count


async def peak_until_cut(server: Serving) -> tuple[int, float]:
    """The most memory that the server had until only the reader was left, and when that was."""
    peak, begin = 0, time.monotonic()

    async def cut() -> bool:
        nonlocal peak
        stats = await server.ask("stats")
        peak = max(peak, stats["resident"])
        return bool(stats["watches"] == 1)

    await recovered(cut, BOUND, begin)
    return peak, time.monotonic() - begin


async def _complete(lags: list[float]) -> bool:
    return len(lags) == CHUNKS


async def read_all(client: AsyncClient, job_id: str, lags: list[float]) -> None:
    """Notes the seconds from each chunk to its arrival; every event comes, in order."""
    sequences = []
    async with aclosing(client.watch(job_id, include_logs=True)) as events:
        async for event in events:
            assert not event.HasField("gap")
            if event.HasField("log_chunk"):
                happened = event.event_time.ToDatetime(UTC)
                lags.append((datetime.now(UTC) - happened).total_seconds())
            if event.HasField("log_chunk") or event.HasField("state_change"):
                sequences.append(event.sequence)
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


async def drain(call: Any) -> tuple[Refused, int]:
    """Reads at last: how the watch ended, and the last sequence it had."""
    last = 0
    try:
        async with asyncio.timeout(BOUND):
            while (event := await call.read()) is not grpc.aio.EOF:
                last = max(last, event.sequence)
    except grpc.aio.AioRpcError as error:
        return Refused(error), last
    raise AssertionError("a watch that was not read ended well")


async def resume(client: AsyncClient, job_id: str, after: int) -> None:
    """Who was cut off gets the rest."""
    sequences = []
    watch = client.watch(job_id, include_logs=True, after_sequence=after)
    async with asyncio.timeout(BOUND), aclosing(watch) as events:
        async for event in events:
            if event.HasField("log_chunk") or event.HasField("state_change"):
                sequences.append(event.sequence)
    assert sequences == list(range(after + 1, after + 1 + len(sequences)))
    assert event.HasField("terminal")
