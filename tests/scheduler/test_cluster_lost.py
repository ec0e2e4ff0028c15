from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from longshore_cpu_workers.wire import Needs, WorkerInfo
from longshore_scheduler.cluster import ClusterLost, WorkerGone
from longshore_scheduler.ray_cluster import RayCluster
from longshore_scheduler.ray_head import LocalHead
from longshore_scheduler.worker_place import WorkerPlace
from longshore_store.process import Superseded
from tests.scheduler.harness import DEADLINE, Harness


async def test_a_lost_cluster_ends_the_scheduler(harness: Harness) -> None:
    scheduler = await harness.launch()
    harness.cluster.gone.set()
    with pytest.raises(ClusterLost):
        async with asyncio.timeout(DEADLINE):
            await scheduler.run_until(asyncio.Event())


async def test_told_to_stop_it_returns(harness: Harness) -> None:
    scheduler = await harness.launch()
    told = asyncio.Event()
    told.set()
    async with asyncio.timeout(DEADLINE):
        await scheduler.run_until(told)


async def test_a_scheduler_of_a_single_term_ends_when_it_is_replaced(harness: Harness) -> None:
    scheduler = await harness.launch(single_term=True)
    await harness.replace_leader("another", 3600.0)
    harness.clock.advance(4.0)  # its numbers are to be published, and it learns of it
    with pytest.raises(Superseded, match="another one leads"):
        async with asyncio.timeout(DEADLINE):
            await scheduler.run_until(asyncio.Event())


class StartedAnew(Exception):
    """Another local Ray was to be started."""


async def test_a_local_ray_that_died_before_it_was_joined_is_started_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec("true", stdin=asyncio.subprocess.PIPE)
    await process.wait()
    started = [LocalHead(process, "127.0.0.1:1")]

    async def start(options: object) -> LocalHead:
        if not started:
            raise StartedAnew
        return started.pop()

    monkeypatch.setattr(LocalHead, "start", start)
    cluster = RayCluster(WorkerPlace(tmp_path, tmp_path))
    with pytest.raises(ConnectionError):
        await cluster.start([])
    with pytest.raises(StartedAnew):
        await cluster.start([])
    await cluster.close()


async def test_the_head_may_be_an_ipv6_address(tmp_path: Path) -> None:
    connected = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    cluster = RayCluster(WorkerPlace(tmp_path, tmp_path), address="auto")
    # Brackets are all that matters here, and not every machine has ::1.
    cluster._head_address = f"[127.0.0.1]:{server.sockets[0].getsockname()[1]}"
    watching = asyncio.create_task(cluster.watch())
    async with asyncio.timeout(DEADLINE):
        await connected.wait()
    watching.cancel()
    await asyncio.wait((watching,))
    server.close()
    await server.wait_closed()
    await cluster.close()


async def test_a_worker_whose_answer_cannot_be_read_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may be of another release, and runs what it has."""
    cluster = RayCluster(WorkerPlace(tmp_path, tmp_path))
    info = WorkerInfo("well", "cpu", "node", 1, Needs())
    answers: dict[str, WorkerInfo | Exception] = {
        "well": info,
        "slow": TimeoutError("no answer"),
        "other": TypeError("WorkerInfo takes 8 positional arguments but 9 were given"),
        "dead": WorkerGone("its process has ended"),
        "vanished": ValueError("no actor has that name"),
    }

    async def names(_: object) -> list[str]:
        return [f"worker-{worker_id}" for worker_id in answers]

    async def find(worker_id: str) -> WorkerInfo:
        answer = answers[worker_id]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(cluster, "_ray", MagicMock())
    monkeypatch.setattr(cluster, "_in_thread", names)
    monkeypatch.setattr(cluster, "_find", find)
    assert await cluster.find_workers() == ([info], ["slow", "other"])
