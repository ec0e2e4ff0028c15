"""Row 24 between processes: parts that live on, but are cut off from the store and the bus."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from longshore import AsyncClient
from tests.faults.cluster.deployment import DEADLINE, Deployment, recovered, until
from tests.soak.cables import cabled
from tests.soak.chaos import led_at

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
WAITING = 8
CALLS = 50
HELD_UP = 2.0


async def test_row_24_a_leader_that_is_cut_off_from_the_stores_is_replaced(
    deployment: Deployment,
) -> None:
    leader, standby = deployment.cluster.schedulers
    led = led_at(leader.log)
    async with cabled(leader) as cable:
        await standby.down()
        await until(lambda: led_at(leader.log) > led)
        await standby.start()
        gate, path = await deployment.gate()
        queued = await deployment.work(200, pause=0.05)
        pid, began, led = leader.pid, time.monotonic(), led_at(leader.log)
        cable.cut()
        await deployment.new_leader(led)  # and the one that is cut off still reaches the workers
        await deployment.results(queued)
        recovered("24, leader", began)
        await until(lambda: leader.pid != pid)  # it saw that its term has run out
        cable.mend()
        path.touch()
        assert await gate.result(timeout=DEADLINE) == 1, "it went on as its first attempt"


async def test_row_24_a_server_that_is_cut_off_from_the_stores_fails_no_client(
    deployment: Deployment,
) -> None:
    server, target = deployment.cluster.servers[0], deployment.cluster.targets[0]
    async with cabled(server) as cable, AsyncClient(deployment.cluster.target) as client:
        await until_health(target, SERVING)
        gate, path = await deployment.gate()
        waits = [client.handle(gate.id).result(timeout=2 * DEADLINE) for _ in range(WAITING)]
        waiting = [asyncio.create_task(wait) for wait in waits]
        cable.cut()
        before = await _submit_until_health(client, target, NOT_SERVING)
        after = sorted([await _submit(client) for _ in range(CALLS)])
        print(f"slowest Submit {before:.1f} s, then {after[-1]:.3f} s")
        # A machine that pauses delays a call or two; the server would delay its half of them.
        assert after[CALLS * 3 // 4] < HELD_UP, "nobody asks the server that is cut off"
        path.touch()
        assert await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE) == [1] * WAITING
        cable.mend()
        await until_health(target, SERVING)


async def _submit(client: AsyncClient) -> float:
    """Seconds until a job was accepted."""
    began = time.monotonic()
    await client.submit("echo", {}, timeout=DEADLINE)
    return time.monotonic() - began


async def _submit_until_health(client: AsyncClient, target: str, status: int) -> float:
    """The longest that a Submit took; there are several under way all the time."""
    began = time.monotonic()
    changed = asyncio.create_task(until_health(target, status))
    changed.add_done_callback(lambda _: recovered("24, server", began))
    slowest = 0.0

    async def go_on() -> None:
        nonlocal slowest
        while not changed.done():
            slowest = max(slowest, await _submit(client))

    await asyncio.gather(changed, *(go_on() for _ in range(4)))
    return slowest


async def until_health(target: str, status: int) -> None:
    """Waits until the server at the address says so of itself."""
    async with asyncio.timeout(DEADLINE), grpc.aio.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while True:
            with suppress(grpc.aio.AioRpcError):
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5.0)
                if answer.status == status:
                    return
            await asyncio.sleep(0.1)
