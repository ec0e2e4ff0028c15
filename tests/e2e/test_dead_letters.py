"""Dead letters of a running service: found, run again, deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from longshore import AsyncClient, JobDeadLettered, JobHandle, JobNotFound
from longshore.v1 import job_pb2, queue_service_pb2


async def test_what_is_dead_is_redriven_and_succeeds(client: AsyncClient) -> None:
    """It fails three times, which is its maximum; the attempts of the new run go on counting."""
    handles = [await client.submit("failing", {"times": 3}) for _ in range(3)]
    lost = await client.submit("failing", {"times": 99})
    for handle in (*handles, lost):
        with pytest.raises(JobDeadLettered):
            await handle.result(timeout=60)
    wanted = {handle.id for handle in (*handles, lost)}
    letters = {job.job_id: job async for job in client.dead_letters(task="failing")}
    assert wanted <= letters.keys()
    assert letters[lost.id].attempts[-1].failure_class == job_pb2.FAILURE_CLASS_TASK_ERROR
    assert (await client.redrive(task="failing", dry_run=True)).count == len(letters)

    begun = await client.redrive(task="failing", rate=20, reason="the code is mended")
    for handle in handles:
        again = await new_run(client, handle.id)
        assert await again.result(timeout=60) == 4
    redrive = await ended(client, begun.redrive_id)
    assert (redrive.state, redrive.redriven) == (
        queue_service_pb2.REDRIVE_STATE_COMPLETED,
        len(letters),
    )
    changes = [e.state_change async for e in client.watch(handles[0].id, after_sequence=1)]
    [order] = [change.order for change in changes if change.reason == "REDRIVEN"]
    assert (order.reason, order.redrive_id) == ("the code is mended", begun.redrive_id)
    for job_id in letters:  # those that die again do so before another test counts the dead
        await (await new_run(client, job_id)).wait(60)


async def new_run(client: AsyncClient, job_id: str) -> JobHandle[Any]:
    """Waits until a redrive has reached a job; until then it is as dead as before."""
    async with asyncio.timeout(60):
        while (handle := await client.get(job_id)).job.run == 1:
            await asyncio.sleep(0.05)
    return handle


async def ended(client: AsyncClient, redrive_id: str) -> queue_service_pb2.Redrive:
    """Waits for the end of a redrive."""
    async with asyncio.timeout(60):
        while True:
            [found] = [r async for r in client.redrives() if r.redrive_id == redrive_id]
            if found.HasField("end_time"):
                return found
            await asyncio.sleep(0.05)


async def test_what_is_purged_is_gone(client: AsyncClient) -> None:
    handle = await client.submit("failing", {"times": 99}, queue="default")
    with pytest.raises(JobDeadLettered):
        await handle.result(timeout=60)
    assert await client.purge_dead_letters(task="failing", reason="a test") >= 1
    with pytest.raises(JobNotFound):
        await client.status(handle.id)
    assert [job.job_id async for job in client.dead_letters(task="failing")] == []
