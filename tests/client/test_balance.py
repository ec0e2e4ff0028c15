"""Several servers behind one target: calls go round those that serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from grpc_health.v1 import health_pb2

from longshore.aio import AsyncClient
from tests.client.fake import FakeService, HealthServicer, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEADLINE = 10.0
SEVERAL = 6


async def test_calls_go_round_the_servers_that_serve() -> None:
    one, other = FakeService(), FakeService()
    healths = [HealthServicer(), HealthServicer()]
    for servicer in healths:
        await servicer.set("", SERVING)
    async with (
        serving(one, health=healths[0]) as first,
        serving(other, health=healths[1]) as second,
        AsyncClient(f"ipv4:{first},{second}") as client,
    ):

        async def submit_until(condition: Callable[[list[int]], bool]) -> None:
            """Submits several at a time; the condition is told how many each server got."""
            async with asyncio.timeout(DEADLINE):
                while True:
                    before = [_count(one), _count(other)]
                    for _ in range(SEVERAL):
                        await client.submit("resize")
                    if condition([_count(one) - before[0], _count(other) - before[1]]):
                        return

        await submit_until(lambda got: got == [SEVERAL // 2, SEVERAL // 2])
        await healths[0].set("", NOT_SERVING)
        await submit_until(lambda got: got == [0, SEVERAL])
        await healths[0].set("", SERVING)
        await submit_until(lambda got: got == [SEVERAL // 2, SEVERAL // 2])


def _count(service: FakeService) -> int:
    return len(service.requests["Submit"])
