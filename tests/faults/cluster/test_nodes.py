"""Rows 12, 13 and 24: nodes that are lost, Ray's head that dies, workers that are cut off."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress

import psutil

from longshore.v1 import job_pb2
from tests.faults.cluster.deployment import DEADLINE, Deployment, kill, name_of, recovered, until
from tests.faults.scale import SOAK
from tests.soak.chaos import led_at

_CUT = 2.0


async def test_row_12_a_lost_node_is_replaced_and_its_zombies_die(deployment: Deployment) -> None:
    await deployment.spread()
    gates = [await deployment.gate(cpu=1.0) for _ in range(4)]  # both workers are full
    raylet = psutil.Process(deployment.raylet(1))
    zombies = [p for p in raylet.children(recursive=True) if _matters(p)]
    began = time.monotonic()
    kill(raylet.pid)
    moved: list[job_pb2.Job] = []
    async with asyncio.timeout(DEADLINE):
        while not moved:  # two of the four ran there
            jobs = [(await deployment.client.status(g.id, timeout=DEADLINE)).job for g, _ in gates]
            again = [j for j in jobs if len(j.attempts) > 1]
            moved = [j for j in again if j.state == job_pb2.JOB_STATE_RUNNING]
            await asyncio.sleep(0.1)
    recovered("12", began)
    await until(lambda: not any(_lives(p) for p in zombies))
    for _, path in gates:
        path.touch()
    results = await deployment.results([g for g, _ in gates])
    assert set(results) <= {1, 2}, "each ended as its first attempt, or as the next one elsewhere"
    assert 2 in results


async def test_row_13_submits_and_watches_go_on_without_rays_head(deployment: Deployment) -> None:
    gcs = [
        p for p in psutil.Process(deployment.cluster.nodes[0].pid).children()
        if name_of(p) == "gcs_server"
    ]  # fmt: skip
    (first,) = await deployment.work(1)
    events, led = first.watch(), led_at(deployment.leader.log)
    workers = set(await deployment.worker_pids())
    began = time.monotonic()
    kill(gcs[0].pid)
    queued = await deployment.work(20)
    kinds = [event.WhichOneof("event") async for event in events]
    assert kinds[0] == "snapshot"
    assert kinds[-1] == "terminal"
    await deployment.new_leader(led)  # the one before ends with its cluster
    queued += await deployment.work(20)
    await deployment.results(queued)
    recovered("13", began)
    assert workers.isdisjoint(await deployment.worker_pids()), "the pools are made anew"


async def test_row_24_a_worker_that_is_cut_off_for_moments_keeps_its_lease(
    deployment: Deployment,
) -> None:
    gate, path = await deployment.gate()
    worked = await deployment.work(100, pause=0.05)
    began = time.monotonic()
    for _ in range(2):
        pids = await deployment.worker_pids()
        for pid in pids:
            kill(pid, signal.SIGSTOP)
        await asyncio.sleep(_CUT)  # the length of the fault itself, shorter than the lease
        for pid in pids:
            kill(pid, signal.SIGCONT)
        await deployment.results(await deployment.work(5))
    await deployment.results(worked)
    recovered("24", began)
    path.touch()
    assert await gate.result(timeout=DEADLINE) == 1


def _matters(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):  # one that has just ended
        return "longshore" in " ".join(process.cmdline()) or "WorkerActor" in process.name()
    return False


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


async def test_row_12_a_raylet_that_is_stopped_for_long(deployment: Deployment) -> None:
    """Ray gives the node up after a minute; for moments nothing happens, and nothing should."""
    seconds = 90.0 if SOAK else 6.0
    await deployment.spread()
    gates = [await deployment.gate(cpu=0.75) for _ in range(4)]  # two a worker, and room left
    raylet = psutil.Process(deployment.raylet(1))
    zombies = [p for p in raylet.children(recursive=True) if _matters(p)]
    began = time.monotonic()
    kill(raylet.pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)  # the length of the fault itself
    worked = await deployment.work(20)
    await deployment.results(worked)
    kill(raylet.pid, signal.SIGCONT)
    recovered(f"12 (raylet stopped for {seconds:.0f} s)", began + seconds)
    if SOAK:
        await until(lambda: not any(_lives(p) for p in zombies))
    for _, path in gates:
        path.touch()
    results = await deployment.results([g for g, _ in gates])
    assert set(results) == ({1, 2} if SOAK else {1})
