"""Rows 4, 5, 6 and 23: leaders that die, sleep or are deposed, and a rolling deploy."""

from __future__ import annotations

import asyncio
import signal
import time

import asyncpg
import pytest

from longshore_store.model import Fenced
from longshore_store.sql import SqlStore
from tests.faults.cluster.deployment import DEADLINE, Deployment, kill, recovered, until
from tests.soak.chaos import led_at


async def test_row_4_a_killed_leader_is_replaced_and_running_jobs_go_on(
    deployment: Deployment,
) -> None:
    gate, path = await deployment.gate()
    queued = await deployment.work(200, pause=0.05)
    leader, led = deployment.leader, led_at(deployment.leader.log)
    began = time.monotonic()
    kill(leader.pid)
    await deployment.new_leader(led)
    assert time.monotonic() - began < 30.0, "15 s are claimed; the machine may pause as well"
    await deployment.results(queued)
    recovered("4", began)
    path.touch()
    assert await gate.result(timeout=DEADLINE) == 1, "it went on as its first attempt"


async def test_row_5_a_leader_that_slept_through_its_term_ends_and_writes_nothing(
    deployment: Deployment,
) -> None:
    gate, path = await deployment.gate()
    leader, led = deployment.leader, led_at(deployment.leader.log)
    pid, began = leader.pid, time.monotonic()
    kill(pid, signal.SIGSTOP)
    queued = await deployment.work(100, pause=0.02)
    await deployment.new_leader(led)
    await deployment.results(queued)
    recovered("5", began)
    kill(pid, signal.SIGCONT)
    await until(lambda: leader.pid != pid)  # fenced, it ends; another one is started
    path.touch()
    assert await gate.result(timeout=DEADLINE) == 1


async def test_row_6_a_deposed_leader_changes_nothing(deployment: Deployment) -> None:
    leader, pid = deployment.leader, deployment.leader.pid
    connection = await asyncpg.connect(deployment.cluster.store_url)
    store = SqlStore(deployment.cluster.store_url)
    await store.open()
    try:
        began = time.monotonic()
        await connection.execute("UPDATE leaders SET until_us = 0")
        term = await store.lead("usurper", 3_000_000)
        while term is None:  # the leader has renewed in between
            await connection.execute("UPDATE leaders SET until_us = 0")
            term = await store.lead("usurper", 3_000_000)
        queued = await deployment.work(50)
        with pytest.raises(Fenced):
            await store.promote_jobs(term - 1, 10)
        await until(lambda: leader.pid != pid)  # it saw that it is deposed
        await store.resign("usurper")
        await deployment.results(queued)
        recovered("6", began)
    finally:
        await store.close()
        await connection.close()


async def test_row_23_a_rolling_deploy_fails_no_submit_and_moves_no_running_job(
    deployment: Deployment,
) -> None:
    gate, path = await deployment.gate()
    stop = asyncio.Event()
    slowest = 0.0

    async def load() -> None:
        nonlocal slowest
        while not stop.is_set():
            began = time.monotonic()
            await deployment.work(1, pause=0.01)
            slowest = max(slowest, time.monotonic() - began)

    clients = [asyncio.create_task(load()) for _ in range(8)]
    began = time.monotonic()
    for member in (*deployment.cluster.servers, *deployment.cluster.schedulers):
        pid = member.pid
        kill(pid, signal.SIGTERM)
        await until(lambda m=member, p=pid: m.pid not in (None, p))  # type: ignore[misc]
        await deployment.work(1)  # and it serves
    stop.set()
    await asyncio.gather(*clients)
    await deployment.results(await deployment.work(5))
    recovered("23", began)
    print(f"slowest Submit {slowest:.1f} s")
    path.touch()
    assert await gate.result(timeout=DEADLINE) == 1
