"""The process dies; no accepted job does."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from longshore import AsyncClient, JobHandle, Retry, Timeouts
from longshore.v1 import job_pb2
from tests.e2e.ports import reserved_port
from tests.e2e.service import Service, gone, until
from tests.e2e.waiting import until_once, until_started

JOBS = 200
UNFINISHED = "state:(QUEUED, LEASED, RUNNING, RETRYING, SCHEDULED, CANCELLING)"
TRANSIENT = {job_pb2.JOB_STATE_LEASED, job_pb2.JOB_STATE_BLOCKED, job_pb2.JOB_STATE_UNSPECIFIED}
LASTING = set(job_pb2.JobState.values()) - TRANSIENT


async def test_two_hundred_jobs_in_every_state_survive_a_sigkill(
    own: Service, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    with reserved_port() as port:
        own.start(f"127.0.0.1:{port}")
        async with AsyncClient(own.target) as client:
            handles = await _jobs_in_every_state(client, gate)
            before = {job.job_id: job.state async for job in client.list()}
            assert set(before.values()) >= LASTING
            known = await _workers(client)
            pids = own.processes()
            own.kill()
        gate.touch()
        own.start(own.target)
    gone(pids, 60)
    async with AsyncClient(own.target) as client:
        await _all_ended_well(client, handles, before)
        async with asyncio.timeout(60):  # one of each pool, and the dead ones are forgotten
            while len(workers := await _workers(client)) != 2 or workers & known:
                await asyncio.sleep(0.05)


async def _workers(client: AsyncClient) -> set[str]:
    return {worker.worker_id for worker in await client.workers()}


async def _jobs_in_every_state(client: AsyncClient, gate: Path) -> list[JobHandle[Any]]:
    """Every state that lasts: not LEASED, and BLOCKED has no way in yet.

    On a slow machine what is due in 15 s may have run before the kill; the first two stay.
    """
    staying = await _jobs_that_stay(client)
    ended = await _ended_jobs(client)
    await client.pause_queue("held", "they wait")
    soon = datetime.now(UTC) + timedelta(seconds=15)
    scheduled = [await client.submit("echo", {"n": n}, schedule_time=soon) for n in range(15)]
    pids = gate.with_name("pids")
    stubborn = await client.submit(
        "stubborn", {"path": str(pids)}, timeouts=Timeouts(cancel_grace=600)
    )
    retrying = [
        await client.submit("failing", {"times": 1}, retry=Retry(3, initial_backoff=15))
        for _ in range(10)
    ]
    queued = [await client.submit("echo", {"n": n}, queue="held") for n in range(20)]
    for handle in queued[:5]:
        await handle.cancel("not this one")
    known = [*staying, *ended, *scheduled, stubborn, *retrying, *queued]
    rest = await client.submit_many(
        job_pb2.JobSpec(task="gate", payload=f'{{"path": "{gate}"}}')
        for _ in range(JOBS - len(known))
    )
    await _until_counted(client, "state = RUNNING", 10)
    for handle in (staying[1], *retrying):
        await until_once(handle, job_pb2.JOB_STATE_RETRYING)
    until(pids.exists)  # else its cancel would end it at once
    await stubborn.cancel("in the middle")
    return [*known, *rest]


async def _jobs_that_stay(client: AsyncClient) -> list[JobHandle[Any]]:
    """One SCHEDULED, one on its way to RETRYING; both for longer than any test."""
    never = Retry(2, initial_backoff=3600, max_backoff=3600, jitter=0)
    return [
        await client.submit("echo", schedule_time=timedelta(hours=1)),
        await client.submit("failing", {"times": 1}, retry=never),
    ]


async def _ended_jobs(client: AsyncClient) -> list[JobHandle[Any]]:
    done = [await client.submit("echo", {"n": n}) for n in range(20)]
    failed = [await client.submit("failing", {"permanent": True}) for _ in range(5)]
    dead = [await client.submit("failing", {"times": 9}) for _ in range(3)]
    late = Timeouts(queue=0.1)
    await client.pause_queue("small", "they expire")
    expired = [await client.submit("echo", {}, queue="small", timeouts=late) for _ in range(3)]
    for handle in (*done, *failed, *dead, *expired):
        await handle.wait(60)
    return [*done, *failed, *dead, *expired]


async def _until_counted(client: AsyncClient, wanted: str, count: int) -> None:
    async with asyncio.timeout(60):
        while len([job async for job in client.list(wanted)]) < count:
            await asyncio.sleep(0.05)


async def _all_ended_well(
    client: AsyncClient, handles: list[JobHandle[Any]], before: Mapping[str, int]
) -> None:
    staying = [await client.get(handle.id) for handle in handles[:2]]
    states = [handle.job.state for handle in staying]
    assert states == [job_pb2.JOB_STATE_SCHEDULED, job_pb2.JOB_STATE_RETRYING]
    for handle in staying:
        await handle.cancel("seen")
    async with asyncio.timeout(100):
        await client.resume_queue("held")
        while [job async for job in client.list(UNFINISHED)]:
            await asyncio.sleep(0.2)
    after = {job.job_id: job.state async for job in client.list()}
    assert set(after) == {handle.id for handle in handles}
    assert len(after) == JOBS
    ended = {i: s for i, s in before.items() if s >= job_pb2.JOB_STATE_SUCCEEDED}
    assert {i: after[i] for i in ended} == ended, "a terminal state changed"
    assert Counter(after.values()) == {
        job_pb2.JOB_STATE_SUCCEEDED: JOBS - 19,
        job_pb2.JOB_STATE_FAILED: 5,
        job_pb2.JOB_STATE_CANCELLED: 8,
        job_pb2.JOB_STATE_EXPIRED: 3,
        job_pb2.JOB_STATE_DEAD_LETTERED: 3,
    }


async def test_the_parent_starts_a_service_that_died_and_running_jobs_go_on(
    own: Service, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    own.start()
    async with AsyncClient(own.target) as client:
        handle = await client.submit("gate", {"path": str(gate)})
        await until_started(handle)
        own_port = own.target.rpartition(":")[2]
    assert own_port != "0"
    os.kill(own.service_pid(), signal.SIGKILL)
    until(own.restarted, 60)
    gate.touch()
    async with AsyncClient(own._listens()) as client:
        job = await (await client.get(handle.id)).wait(60)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
