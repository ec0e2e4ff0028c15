"""Watches of a running service: many at once, and one that is cut again and again."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc

from longshore import AsyncClient, JobHandle
from longshore.v1 import job_service_pb2, job_service_pb2_grpc, watch_pb2
from tests.e2e.service import Service

WATCHERS = 50
SEED = 20261122


async def _kinds(handle: JobHandle[Any]) -> list[str | None]:
    return [event.WhichOneof("event") async for event in handle.watch()]


async def test_fifty_watches_at_once_end_in_one_terminal_event_each(client: AsyncClient) -> None:
    handles = [await client.submit("steps", {"count": 10, "pause": 0.05}) for _ in range(WATCHERS)]
    async with asyncio.timeout(90):
        streams = await asyncio.gather(*map(_kinds, handles))
    assert len(streams) == WATCHERS
    for kinds in streams:
        assert kinds.count("terminal") == 1
        assert kinds[-1] == "terminal"


async def test_a_watch_cut_at_random_points_misses_and_repeats_nothing(
    client: AsyncClient, shared: Service
) -> None:
    chance = random.Random(SEED)
    handle = await client.submit("steps", {"count": 40, "pause": 0.03})
    whole = asyncio.create_task(_durable(handle))
    sequences: list[int] = []
    [snapshot] = await _some(shared.target, handle.id, None, 1)
    cursor = snapshot.sequence
    async with asyncio.timeout(90):
        while True:
            cut_after = chance.randrange(1, 6)
            events = await _some(shared.target, handle.id, cursor, cut_after)
            durable = [e for e in events if e.WhichOneof("event") in ("state_change", "log_chunk")]
            sequences.extend(e.sequence for e in durable)
            cursor = max([cursor, *(e.sequence for e in events)])
            if events[-1].HasField("terminal"):
                break
        expected = await whole
    assert expected == list(range(1, len(expected) + 1))
    assert sequences == expected[snapshot.sequence :]


async def _durable(handle: JobHandle[Any]) -> list[int]:
    return [
        event.sequence
        async for event in handle.watch(include_logs=True, after_sequence=0)
        if event.WhichOneof("event") in ("state_change", "log_chunk")
    ]


async def _some(
    target: str, job_id: str, cursor: int | None, count: int
) -> list[watch_pb2.WatchProgressResponse]:
    """Some events of a bare stream, which is then cut off."""
    request = job_service_pb2.WatchProgressRequest(
        job_id=job_id, after_sequence=cursor, include_logs=True
    )
    events: list[watch_pb2.WatchProgressResponse] = []
    async with grpc.aio.insecure_channel(target) as channel:
        call = job_service_pb2_grpc.JobServiceStub(channel).WatchProgress(request, timeout=60)
        async for event in call:
            events.append(event)
            if len(events) >= count:
                call.cancel()
                break
    return events
