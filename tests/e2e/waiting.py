"""Waits on what the service tells of jobs and workers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from longshore import AsyncClient, JobHandle
from longshore.v1 import job_pb2, pool_service_pb2

DEADLINE = 60.0


async def until_started(handle: JobHandle[Any]) -> None:
    """Waits until its task runs, or has run."""
    await until_once(handle, job_pb2.JOB_STATE_RUNNING)


async def until_once(handle: JobHandle[Any], state: job_pb2.JobState.ValueType) -> None:
    """Waits until the job has come into a state, however short it was there.

    Watches from the first event on: what happens before a watch opens is in its snapshot, and no
    event of it would ever come.
    """
    async with asyncio.timeout(DEADLINE), aclosing(handle.watch(after_sequence=0)) as events:
        async for event in events:
            if event.HasField("state_change") and event.state_change.to_state == state:
                return
    raise AssertionError(f"{handle} has ended without it")


async def worker_of(client: AsyncClient, handle: JobHandle[Any]) -> pool_service_pb2.Worker:
    """The worker of its newest attempt; waits until it is listed, which may come after a start."""
    worker_id = (await handle.status()).job.attempts[-1].worker_id
    async with asyncio.timeout(DEADLINE):
        while True:
            for worker in await client.workers():
                if worker.worker_id == worker_id:
                    return worker
            await asyncio.sleep(0.05)
