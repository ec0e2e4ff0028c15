"""Cancel: what waits ends at once, what runs is asked, and then made to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from longshore import AsyncClient, JobWasCancelled
from tests.e2e.service import alive, gone, until


async def test_a_task_that_ignores_cancel_is_gone_within_its_grace_with_its_children(
    client: AsyncClient, tmp_path: Path
) -> None:
    file = tmp_path / "pids"
    handle = await client.submit("stubborn", {"path": str(file)})
    pids = await _pids(handle, file)
    assert all(map(alive, pids))
    began = time.monotonic()
    await handle.cancel("enough")
    with pytest.raises(JobWasCancelled):
        await handle.result(timeout=30)
    # 0.5 s of the task's own grace, 2 s from TERM to KILL, and the ways between.
    assert time.monotonic() - began < 10
    gone(pids, 5)


async def _pids(handle: object, file: Path) -> list[int]:
    until(lambda: file.exists() and file.read_text().count(" ") == 1)
    return [int(pid) for pid in file.read_text().split()]


async def test_a_cooperative_task_ends_when_it_looks(client: AsyncClient, tmp_path: Path) -> None:
    handle = await client.submit("gate", {"path": str(tmp_path / "never")})
    async for event in handle.watch():
        if event.HasField("state_change") and event.state_change.reason == "STARTED":
            break
    await handle.cancel("changed my mind")
    with pytest.raises(JobWasCancelled) as cancelled:
        await handle.result(timeout=30)
    assert "changed my mind" in str(cancelled.value)


async def test_a_waiting_job_is_cancelled_at_once(client: AsyncClient) -> None:
    await client.pause_queue("held", "test")
    handle = await client.submit("echo", {}, queue="held")
    await handle.cancel("not needed")
    with pytest.raises(JobWasCancelled):
        await handle.result(timeout=10)
    await client.resume_queue("held")
