"""A rolling change of code under load: no job is lost, and each attempt names the code that ran."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from longshore import JobHandle
from longshore.v1 import job_pb2, pool_service_pb2
from tests.faults.cluster.conftest import CHANGING
from tests.faults.cluster.deployment import DEADLINE, Deployment, kill, until
from tests.soak.chaos import led_at

BRANDNEW = """
@task(resources=Resources(cpu=0.1))
def brandnew(ctx: Context, params: dict[str, int]) -> str:
    return "v2"
"""


async def test_a_rolling_change_of_code_under_load(deployment: Deployment) -> None:
    old = await _build(deployment)
    gate, path = await deployment.gate()
    stop = asyncio.Event()
    handles: list[JobHandle[Any]] = []

    async def load() -> None:
        while not stop.is_set():
            handles.append(await deployment.submit("version", {}))
            await asyncio.sleep(0.1)  # a load, and not as much as there may be

    loads = [asyncio.create_task(load()) for _ in range(2)]
    (deployment.folder / "code" / "changing.py").write_text(CHANGING.replace("v1", "v2") + BRANDNEW)
    leader = deployment.leader
    for member in sorted(deployment.cluster.schedulers, key=lambda member: member is leader):
        pid, led = member.pid, led_at(leader.log)
        kill(pid, signal.SIGTERM)
        await until(lambda m=member, p=pid: m.pid not in (None, p))  # type: ignore[misc]
        if member is leader:
            await deployment.new_leader(led)
    await _until_known(deployment, "brandnew")
    brandnew = [await deployment.submit("brandnew", {}) for _ in range(20)]
    new = await _until_replaced(deployment, old)
    after = [await deployment.submit("version", {}) for _ in range(5)]
    stop.set()
    await asyncio.gather(*loads)
    path.touch()
    assert await gate.result(timeout=DEADLINE) == 1, "it went on as its first attempt"
    assert [await _ran(gate)] == [("1", old)]
    ran = [await _ran(handle) for handle in (*handles, *after, *brandnew)]
    assert set(ran) == {('"v1"', old), ('"v2"', new)}, "the attempt says which code it was"
    assert {await _ran(handle) for handle in (*after, *brandnew)} == {('"v2"', new)}


async def _build(deployment: Deployment) -> str:
    """What the leader brings workers to."""
    (pool,) = await deployment.client.pools(timeout=DEADLINE)
    return pool.build


async def _until_known(deployment: Deployment, task: str) -> None:
    async with asyncio.timeout(DEADLINE):
        while task not in {known.name for known in await deployment.client.tasks()}:
            await asyncio.sleep(0.1)


async def _until_replaced(deployment: Deployment, old: str) -> str:
    """Waits until no worker of the old build takes work; returns the new one."""
    ready = pool_service_pb2.WORKER_STATE_READY
    async with asyncio.timeout(DEADLINE):
        while True:
            workers: Any = await deployment.client.workers(timeout=DEADLINE)
            builds = {worker.build for worker in workers if worker.state == ready}
            if len(builds) == 1 and old not in builds:
                new: str = builds.pop()
                assert new == await _build(deployment), "scheduler and workers mean the same"
                return new
            await asyncio.sleep(0.1)


async def _ran(handle: JobHandle[Any]) -> tuple[str, str]:
    """What a job returned, and the build of the only attempt that it needed."""
    await handle.result(timeout=DEADLINE)
    job = (await handle.status()).job
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    (attempt,) = job.attempts
    return job.result.value, attempt.build
