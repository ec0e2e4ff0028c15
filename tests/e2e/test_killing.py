"""The process dies; no accepted job does."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from longshore import AsyncClient, JobHandle
from longshore.v1 import job_pb2
from tests.e2e.service import Service, alive, until

JOBS = 200


async def test_two_hundred_jobs_in_every_state_survive_a_sigkill(
    own: Service, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    own.start()
    async with AsyncClient(own.target) as client:
        handles = await _jobs_in_every_state(client, gate)
        before = {job.job_id: job.state async for job in client.list()}
        pids = own.processes()
        own.kill()
    gate.touch()
    own.start(own.target)
    until(lambda: not any(map(alive, pids)), 10)
    async with AsyncClient(own.target) as client:
        await _all_ended_well(client, handles, before)


async def _jobs_in_every_state(client: AsyncClient, gate: Path) -> list[JobHandle]:
    """SUCCEEDED, CANCELLED, FAILED, RUNNING, CANCELLING, RETRYING, SCHEDULED, QUEUED."""
    done = [await client.submit("echo", {"n": n}) for n in range(20)]
    failed = [await client.submit("failing", {"permanent": True}) for _ in range(5)]
    for handle in (*done, *failed):
        await handle.wait(60)
    await client.pause_queue("held", "they wait")
    soon = datetime.now(UTC) + timedelta(seconds=20)
    scheduled = [await client.submit("echo", {"n": n}, schedule_time=soon) for n in range(15)]
    running = [await client.submit("gate", {"path": str(gate)}) for _ in range(10)]
    retrying = [await client.submit("failing", {"times": 2}) for _ in range(10)]
    queued = [await client.submit("echo", {"n": n}, queue="held") for n in range(20)]
    for handle in queued[:5]:
        await handle.cancel("not this one")
    missing = JOBS - 80
    rest = await client.submit_many(
        job_pb2.JobSpec(task="gate", payload=f'{{"path": "{gate}"}}') for _ in range(missing)
    )
    async with asyncio.timeout(60):
        while Counter([job.state async for job in client.list("state = RUNNING")]).total() < 10:
            await asyncio.sleep(0.05)
    await running[0].cancel("in the middle")
    return [*done, *failed, *scheduled, *running, *retrying, *queued, *rest]


async def _all_ended_well(
    client: AsyncClient, handles: list[JobHandle], before: Mapping[str, int]
) -> None:
    async with asyncio.timeout(100):
        await client.resume_queue("held")
        while jobs := [
            job
            async for job in client.list(
                "state:(QUEUED, LEASED, RUNNING, RETRYING, SCHEDULED, CANCELLING)"
            )
        ]:
            assert jobs
            await asyncio.sleep(0.2)
    after = {job.job_id: job.state async for job in client.list()}
    assert set(after) == {handle.id for handle in handles}
    assert len(after) == JOBS
    ended = {i: s for i, s in before.items() if s >= job_pb2.JOB_STATE_SUCCEEDED}
    assert {i: after[i] for i in ended} == ended, "a terminal state changed"
    assert Counter(after.values()) == {
        job_pb2.JOB_STATE_SUCCEEDED: JOBS - 11,
        job_pb2.JOB_STATE_FAILED: 5,
        job_pb2.JOB_STATE_CANCELLED: 6,
    }


async def test_the_parent_starts_a_service_that_died_and_running_jobs_go_on(
    own: Service, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    own.start()
    async with AsyncClient(own.target) as client:
        handle = await client.submit("gate", {"path": str(gate)})
        async for event in handle.watch():
            if event.HasField("state_change") and event.state_change.reason == "STARTED":
                break
        own_port = own.target.rpartition(":")[2]
    assert own_port != "0"
    os.kill(own.service_pid(), signal.SIGKILL)
    until(own.restarted, 60)
    gate.touch()
    async with AsyncClient(own._listens()) as client:
        job = await (await client.get(handle.id)).wait(60)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
