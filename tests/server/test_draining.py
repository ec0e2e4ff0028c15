"""Drains and cordons as callers see them; the test plays the scheduler."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from longshore.v1 import pool_service_pb2 as pools
from longshore_server import pool_service
from longshore_server.refusals import Faults, Refusal
from longshore_store.orders import DrainUpdate, WorkerOrder
from longshore_store.topology_records import WorkerRecord
from tests.server.harness import DEADLINE, Harness, brief_wait, refused

READY, CORDONED, DRAINING, LOST = 2, 3, 4, 5


async def record(harness: Harness, *ids: str, state: int = READY, active: int = 0) -> None:
    now = harness.store.now_us()
    rows = [
        WorkerRecord(i, i.split("-")[0], state, f"node-{i}", 7, "{}", "[]", active, now, now)
        for i in ids
    ]
    await harness.store.record_workers(harness.term, rows)


async def ordered(harness: Harness, *ids: str) -> list[WorkerOrder]:
    """Waits until workers have orders."""
    async with asyncio.timeout(DEADLINE):
        while True:
            orders = [o for o in await harness.store.worker_orders() if o.worker_id in ids]
            if len(orders) == len(ids):
                return orders
            await asyncio.sleep(0.01)


def drain(harness: Harness, *ids: str, grace: float | None = 5, **choice: str) -> asyncio.Task:  # type: ignore[type-arg]
    span = None if grace is None else Duration(seconds=int(grace))
    request = pools.DrainWorkersRequest(worker_ids=ids, grace=span, **choice)
    call = harness.pools.DrainWorkers(request, timeout=3 * DEADLINE)
    return asyncio.ensure_future(call)


async def test_a_drain_is_ordered_and_waited_for(harness: Harness) -> None:
    await record(harness, "cpu-1", "cpu-2", "gpu-1", active=3)
    before = harness.store.now_us()
    call = drain(harness, "cpu-1", "gpu-1")
    first, second = await ordered(harness, "cpu-1", "gpu-1")
    assert (first.state, second.state) == (DRAINING, DRAINING)
    began = (first.drain_until_us or 0) - 5_000_000
    assert before <= began <= harness.store.now_us()
    again = drain(harness, "cpu-1", grace=500)
    drains = [DrainUpdate("cpu-1", 2, 1, True), DrainUpdate("gpu-1", 1, 0, False)]
    await harness.store.record_drains(harness.term, drains)
    repeated = await again
    assert (repeated.finished_attempts, repeated.released_attempts) == (2, 1)
    assert not call.done()
    await harness.store.record_drains(harness.term, [DrainUpdate("gpu-1", 1, 0, True)])
    done = await call
    assert [(w.worker_id, w.state, w.active_attempts) for w in done.workers] == [
        ("cpu-1", DRAINING, 0),
        ("gpu-1", DRAINING, 0),
    ]
    assert (done.finished_attempts, done.released_attempts) == (4, 1)


async def test_workers_are_chosen_by_pool_and_by_node(harness: Harness) -> None:
    await record(harness, "cpu-1", "cpu-2", "gpu-1")
    by_pool = drain(harness, pool="cpu")
    await ordered(harness, "cpu-1", "cpu-2")
    by_node = drain(harness, node="node-gpu-1", grace=None)
    await ordered(harness, "gpu-1")
    idle = [DrainUpdate(i, 0, 0, True) for i in ("cpu-1", "cpu-2", "gpu-1")]
    await harness.store.record_drains(harness.term, idle)
    assert [w.worker_id for w in (await by_pool).workers] == ["cpu-1", "cpu-2"]
    assert [w.worker_id for w in (await by_node).workers] == ["gpu-1"]
    assert not (await drain(harness, node="one that has none")).workers, "so a hook can repeat it"


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("big-1", ["big-1/a1b2", "big-1/c3d4"]),
        ("big-1/c3d4", ["big-1/c3d4"]),
        ("c3", ["big-1/c3d4"]),
        ("big-10", ["big-10/e5f6"]),
        ("z", []),
    ],
)
def test_a_node_is_named_by_host_or_id_or_how_one_begins(wanted: str, chosen: list[str]) -> None:
    faults = Faults()
    nodes = {"big-1/a1b2", "big-1/c3d4", "big-10/e5f6"}
    assert sorted(pool_service._nodes(wanted, nodes, faults)) == chosen
    assert not faults


def test_a_beginning_of_several_nodes_is_refused() -> None:
    faults = Faults()
    pool_service._nodes("big", {"big-1/a1b2", "big-10/e5f6"}, faults)
    with pytest.raises(Refusal, match="begins the names of several nodes: big-1/a1b2, big-10"):
        faults.check()


async def test_a_worker_that_vanishes_in_its_drain_is_no_reason_to_wait(harness: Harness) -> None:
    await record(harness, "cpu-1", active=3)
    call = drain(harness, "cpu-1")
    await ordered(harness, "cpu-1")
    await harness.store.remove_workers(harness.term, ["cpu-1"])
    done = await call
    assert [(w.state, w.active_attempts) for w in done.workers] == [(LOST, 0)]
    assert (done.finished_attempts, done.released_attempts) == (0, 3)


async def test_a_drain_says_what_is_wrong(harness: Harness) -> None:
    await record(harness, "cpu-1")
    nothing = await refused(drain(harness))
    assert (nothing.code, list(nothing.fields)) == (StatusCode.INVALID_ARGUMENT, ["worker_ids"])
    unknown = await refused(drain(harness, "cpu-1", "w8", "w9"))
    assert (unknown.code, unknown.reason) == (StatusCode.NOT_FOUND, "WORKER_NOT_FOUND")
    assert list(unknown.fields) == ["worker_ids[1]", "worker_ids[2]"]
    assert "'w9'" in unknown.fields["worker_ids[2]"]
    long = await refused(drain(harness, "cpu-1", grace=90_000))
    assert (long.code, list(long.fields)) == (StatusCode.INVALID_ARGUMENT, ["grace"])
    assert await harness.store.worker_orders() == [], "nothing was ordered"


async def test_an_unknown_pool_is_named_with_those_there_are(harness: Harness) -> None:
    listing = harness.pools.ListWorkers(pools.ListWorkersRequest(pool="nope"))
    for call in (listing, drain(harness, pool="nope")):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (StatusCode.NOT_FOUND, "POOL_NOT_FOUND")
        assert refusal.message == "pool: there is no pool 'nope'; there are: cpu, gpu"
    empty = await harness.pools.ListWorkers(pools.ListWorkersRequest(pool="cpu"))
    assert not empty.workers


async def test_an_order_that_nobody_carries_out_stands(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_service, "MARGIN", 0.1)
    monkeypatch.setattr(pool_service, "CORDON_PATIENCE", 0.1)
    await record(harness, "cpu-1", "cpu-2")
    pending = await refused(drain(harness, "cpu-1", grace=0))
    assert (pending.code, pending.reason) == (StatusCode.UNAVAILABLE, "ORDER_PENDING")
    assert "cpu-1" in pending.message
    assert pending.delay == 1.0
    await ordered(harness, "cpu-1")
    cordon = pools.CordonWorkerRequest(worker_id="cpu-2", cordoned=True)
    assert (await refused(harness.pools.CordonWorker(cordon))).reason == "ORDER_PENDING"
    assert (await ordered(harness, "cpu-2"))[0].state == CORDONED


async def test_a_caller_with_little_time_is_told_what_is_pending(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_service, "CORDON_PATIENCE", 3600.0)
    timeout = brief_wait(monkeypatch)
    await record(harness, "cpu-1")
    request = pools.DrainWorkersRequest(worker_ids=["cpu-1"], grace=Duration(seconds=3600))
    pending = await refused(harness.pools.DrainWorkers(request, timeout=timeout))
    assert pending.reason == "ORDER_PENDING"
    await record(harness, "cpu-2")
    cordon = pools.CordonWorkerRequest(worker_id="cpu-2", cordoned=True)
    pending = await refused(harness.pools.CordonWorker(cordon, timeout=timeout))
    assert pending.reason == "ORDER_PENDING"


async def test_cordon_and_uncordon(harness: Harness) -> None:
    await record(harness, "cpu-1")
    for cordoned, state in ((True, CORDONED), (False, READY)):
        request = pools.CordonWorkerRequest(worker_id="cpu-1", cordoned=cordoned)
        call = asyncio.ensure_future(harness.pools.CordonWorker(request, timeout=DEADLINE))
        async with asyncio.timeout(DEADLINE):
            while (await ordered(harness, "cpu-1"))[0].state != state:
                await asyncio.sleep(0.01)
        await record(harness, "cpu-1", state=state)
        assert (await call).worker.state == state
    nobody = await refused(harness.pools.CordonWorker(pools.CordonWorkerRequest()))
    assert (nobody.code, list(nobody.fields)) == (StatusCode.INVALID_ARGUMENT, ["worker_id"])
    unknown = pools.CordonWorkerRequest(worker_id="w9", cordoned=True)
    assert (await refused(harness.pools.CordonWorker(unknown))).resource[1] == "w9"


async def test_a_drained_worker_gets_no_work_again(harness: Harness) -> None:
    await record(harness, "cpu-1", state=DRAINING)
    await harness.store.order_workers(["cpu-1"], DRAINING, harness.store.now_us())
    cordon = pools.CordonWorkerRequest(worker_id="cpu-1", cordoned=True)
    assert (await harness.pools.CordonWorker(cordon)).worker.state == DRAINING
    cordon.cordoned = False
    refusal = await refused(harness.pools.CordonWorker(cordon))
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "WORKER_DRAINING")


async def test_a_worker_of_which_nothing_is_left_reads_as_drained(harness: Harness) -> None:
    await record(harness, "cpu-1", state=DRAINING)
    await harness.store.order_workers(["cpu-1"], DRAINING, harness.store.now_us())
    (worker,) = (await harness.pools.ListWorkers(pools.ListWorkersRequest())).workers
    assert not worker.drained
    done = DrainUpdate("cpu-1", finished=0, released=0, idle=True)
    await harness.store.record_drains(harness.term, [done])
    (worker,) = (await harness.pools.ListWorkers(pools.ListWorkersRequest())).workers
    assert worker.drained


async def test_who_leads_is_told(harness: Harness) -> None:
    request = pools.GetSchedulerRequest()
    leader = await harness.pools.GetScheduler(request)
    assert (leader.leads, leader.scheduler_id, leader.term) == (True, "test", harness.term)
    await harness.store.resign("test")
    assert not (await harness.pools.GetScheduler(request)).leads
