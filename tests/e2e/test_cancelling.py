"""Cancel: what waits ends at once, what runs is asked, and then made to."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from longshore import AsyncClient, JobWasCancelled
from tests.e2e.service import alive, gone, until
from tests.e2e.waiting import until_started


async def test_a_task_that_ignores_cancel_is_gone_within_its_grace_with_its_children(
    client: AsyncClient, tmp_path: Path
) -> None:
    file = tmp_path / "pids"
    handle = await client.submit("stubborn", {"path": str(file)})
    pids = await _pids(handle, file)
    assert all(map(alive, pids))
    # Its own, with which it was accepted; how soon that kills is the machine's affair too.
    assert handle.job.spec.timeouts.cancel_grace.ToTimedelta() == timedelta(seconds=0.5)
    await handle.cancel("enough")
    with pytest.raises(JobWasCancelled):
        await handle.result(timeout=60)
    gone(pids, 60)


async def _pids(handle: object, file: Path) -> list[int]:
    until(lambda: file.exists() and file.read_text().count(" ") == 1)
    return [int(pid) for pid in file.read_text().split()]


async def test_a_cooperative_task_ends_when_it_looks(client: AsyncClient, tmp_path: Path) -> None:
    handle = await client.submit("gate", {"path": str(tmp_path / "never")})
    await until_started(handle)
    await handle.cancel("changed my mind")
    with pytest.raises(JobWasCancelled) as cancelled:
        await handle.result(timeout=60)
    assert "changed my mind" in str(cancelled.value)


async def test_a_waiting_job_is_cancelled_at_once(client: AsyncClient) -> None:
    await client.pause_queue("held", "test")
    handle = await client.submit("echo", {}, queue="held")
    await handle.cancel("not needed")
    with pytest.raises(JobWasCancelled):
        await handle.result(timeout=60)
    await client.resume_queue("held")
