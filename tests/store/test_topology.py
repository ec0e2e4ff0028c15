from __future__ import annotations

import pytest

from longshore_store.model import Fenced
from longshore_store.orders import DrainUpdate, WorkerOrder
from longshore_store.sql import SqlStore
from longshore_store.topology_records import (
    PoolRecord,
    QueueDeclaration,
    QueueRecord,
    TaskRecord,
    WorkerRecord,
)
from tests.store.factory import HOUR, SECOND, START_US, FakeClock, Yard, new_job, setback

READY, CORDONED, DRAINING = 2, 3, 4


def queue(
    name: str, maximum: int = 0, timeout_us: int | None = None, to: str = ""
) -> QueueDeclaration:
    return QueueDeclaration(name, maximum, timeout_us, to)


async def test_queues_are_as_declared(store: SqlStore) -> None:
    await store.declare_queues([queue("slow", 5, SECOND, "fast"), queue("fast")])
    assert await store.list_queues() == [
        QueueRecord("fast", False, "", None, 0, None, "", 0, 0, 0),
        QueueRecord("slow", False, "", None, 5, SECOND, "fast", 0, 0, 0),
    ]
    await store.declare_queues([queue("slow", 9)])
    assert await store.list_queues() == [QueueRecord("slow", False, "", None, 9, None, "", 0, 0, 0)]
    await store.declare_queues([])
    assert await store.list_queues() == []


async def test_a_queue_with_jobs_stays(yard: Yard) -> None:
    await yard.store.declare_queues([queue("fast"), queue("slow"), queue("idle"), queue("done")])
    waiting = await yard.submit()
    await yard.running(queue="slow")
    done = await yard.submit(queue="done")
    await yard.store.cancel_jobs([done], "", False)
    await yard.store.declare_queues([queue("other")])
    assert [q.name for q in await yard.store.list_queues()] == ["fast", "other", "slow"]
    await yard.store.cancel_jobs([waiting], "", False)
    await yard.store.declare_queues([queue("other")])
    assert [q.name for q in await yard.store.list_queues()] == ["other", "slow"]


async def test_jobs_of_a_queue_that_has_gone_do_not_wait_for_ever(yard: Yard) -> None:
    """A redrive goes on while a deploy drops the queue, which was empty at that moment."""
    await yard.store.declare_queues([queue("fast")])
    dead = await yard.ended(yard.store.dead_letter_attempts)
    await yard.store.declare_queues([queue("other")])
    assert [q.name for q in await yard.store.list_queues()] == ["other"]
    assert await yard.store.retry_jobs([dead], "again") == []
    [lane] = await yard.store.waiting_lanes()
    [head] = await yard.store.queue_heads([(lane, 10)])
    assert (lane.queue, head.id) == ("fast", dead)


async def test_counters_of_queues(yard: Yard) -> None:
    await yard.store.declare_queues([queue("fast"), queue("slow")])
    for tenant in ("a", "b"):
        await yard.submit(tenant=tenant)
        await yard.running(tenant=tenant)
    await yard.completed()
    await yard.cancelling()
    fast, slow = await yard.store.list_queues()
    assert (fast.waiting, fast.active, fast.drained) == (2, 3, 4)
    assert (slow.waiting, slow.active, slow.drained) == (0, 0, 0)


async def test_what_waits_for_a_time_is_counted_apart(yard: Yard) -> None:
    await yard.store.declare_queues([QueueDeclaration("fast", 0, None, "")])
    await yard.submit()
    await yard.submit(due_us=yard.clock() + SECOND)
    retrying = await yard.running()
    await yard.store.retry_attempts(yard.term, [setback(retrying, due_us=yard.clock() + SECOND)])
    (queue,) = await yard.store.list_queues()
    assert (queue.waiting, queue.not_due) == (3, 2)
    yard.clock.advance(SECOND)
    await yard.store.promote_jobs(yard.term, 10)
    (queue,) = await yard.store.list_queues()
    assert (queue.waiting, queue.not_due) == (3, 0)


async def test_who_leads_is_read(store: SqlStore, clock: FakeClock) -> None:
    assert await store.leader() is None
    term = await store.lead("a", SECOND)
    leader = await store.leader()
    assert leader is not None
    assert leader == ("a", term, clock() + SECOND)


async def test_pause_and_resume(store: SqlStore, clock: FakeClock) -> None:
    await store.declare_queues([queue("fast")])
    heard: list[str] = []
    store.subscribe(heard.extend)
    assert await store.pause_queue("fast", "disk full") is True
    [paused] = await store.list_queues()
    assert (paused.paused, paused.pause_reason, paused.paused_us) == (True, "disk full", START_US)
    clock.advance(SECOND)
    await store.declare_queues([queue("fast", 7)])
    [still] = await store.list_queues()
    assert (still.paused, still.pause_reason, still.maximum_waiting) == (True, "disk full", 7)
    assert await store.resume_queue("fast") is True
    [resumed] = await store.list_queues()
    assert (resumed.paused, resumed.pause_reason, resumed.paused_us) == (False, "", None)
    assert heard, "a scheduler that waits for a hint gets one"
    assert await store.pause_queue("none", "") is False
    assert await store.resume_queue("none") is False


async def test_a_paused_queue_accepts_jobs(yard: Yard) -> None:
    await yard.store.declare_queues([queue("fast")])
    await yard.store.pause_queue("fast", "")
    await yard.store.submit_jobs([new_job()])
    assert await yard.store.waiting_lanes() == []
    [paused] = await yard.store.list_queues()
    assert paused.waiting == 1


async def test_the_catalogue_is_replaced(store: SqlStore) -> None:
    await store.publish_tasks([TaskRecord("b", "{}"), TaskRecord("a", '{"ü":1}')])
    assert await store.list_tasks() == [TaskRecord("a", '{"ü":1}'), TaskRecord("b", "{}")]
    await store.publish_tasks([TaskRecord("b", "[]")])
    assert await store.list_tasks() == [TaskRecord("b", "[]")]
    await store.publish_tasks([])
    assert await store.list_tasks() == []


async def test_pools_are_replaced(store: SqlStore) -> None:
    cpu = PoolRecord("cpu", '{"cpu_millis":1}', 1, 4, 2, 1, 3, False, "a1b2", '["new"]')
    gpu = PoolRecord("gpu", "{}", 0, 1, 0, 0, 0, True)
    await store.publish_pools([gpu, cpu])
    assert await store.list_pools() == [cpu, gpu]
    grown = cpu._replace(ready_workers=4, active_attempts=9)
    await store.publish_pools([grown])
    assert await store.list_pools() == [grown]


async def test_workers_beat(yard: Yard) -> None:
    store = yard.store
    one = WorkerRecord("w1", "cpu", 1, "node-1", 42, "{}", "[]", 0, START_US - 5, START_US)
    two = one._replace(id="w2", pid=43, heartbeat_us=START_US - 4 * SECOND)
    await store.record_workers(yard.term, [two, one])
    assert await store.list_workers() == [one, two], "when it was heard is the scheduler's to say"
    busy = one._replace(active_attempts=3, state=2, heartbeat_us=START_US + SECOND)
    busy = busy._replace(build="a1b2", build_description="mltasks 1.2")
    await store.record_workers(yard.term, [busy])
    assert await store.list_workers() == [busy, two]
    await store.remove_workers(yard.term, ["w1", "no-such-worker"])
    assert await store.list_workers() == [two]
    await store.remove_workers(yard.term, [])
    with pytest.raises(Fenced):
        await store.remove_workers(yard.term - 1, ["w2"])
    with pytest.raises(Fenced):
        await store.record_workers(yard.term - 1, [busy])
    assert await store.list_workers() == [two]


async def test_orders_outlive_what_schedulers_publish(yard: Yard) -> None:
    store, term = yard.store, yard.term
    worker = WorkerRecord("w1", "cpu", READY, "node-1", 42, "{}", "[]", 3, START_US, START_US)
    await store.record_workers(term, [worker, worker._replace(id="w2")])
    assert await store.worker_orders() == []
    heard: list[str] = []
    leave = store.subscribe(heard.extend)
    await store.order_workers(["w1", "no-such-worker"], CORDONED)
    leave()
    assert heard, "a scheduler that waits for a hint gets one"
    await store.record_workers(term, [worker])
    assert await store.worker_orders() == [WorkerOrder("w1", CORDONED, None, 0, 0)]
    await store.order_workers(["w1"], READY)
    assert await store.worker_orders() == [WorkerOrder("w1", READY, None, 0, 0)]


async def test_a_drain_stands_and_counts(yard: Yard) -> None:
    store, term, until = yard.store, yard.term, START_US + 30 * SECOND
    worker = WorkerRecord("w1", "cpu", READY, "node-1", 42, "{}", "[]", 3, START_US, START_US)
    await store.record_workers(term, [worker, worker._replace(id="w2")])
    await store.record_drains(term, [DrainUpdate("w2", 9, 9, True)])  # nobody ordered it
    await store.order_workers(["w1"], DRAINING, until)
    await store.order_workers(["w1"], DRAINING, until + SECOND)
    await store.order_workers(["w1"], READY)
    await store.record_drains(term, [DrainUpdate("w1", 2, 1, False)])
    assert await store.worker_orders() == [WorkerOrder("w1", DRAINING, until, 2, 1)]
    await store.record_drains(term, [DrainUpdate("w1", 0, 1, True)])
    assert await store.worker_orders() == [WorkerOrder("w1", DRAINING, None, 2, 2)]
    idle, other = await store.list_workers()
    assert (idle.state, idle.active_attempts) == (DRAINING, 0)
    assert other == worker._replace(id="w2")
    await store.resign("yard")
    await store.lead("another", HOUR)
    with pytest.raises(Fenced):
        await store.record_drains(term, [DrainUpdate("w1", 5, 5, True)])
