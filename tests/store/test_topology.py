from __future__ import annotations

from longshore_store.model import (
    PoolRecord,
    QueueDeclaration,
    QueueRecord,
    TaskRecord,
    WorkerRecord,
)
from longshore_store.sql import SqlStore
from tests.store.factory import SECOND, START_US, FakeClock, Yard, new_job


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
    cpu = PoolRecord("cpu", '{"cpu_millis":1}', 1, 4, 2, 1, 3, False)
    gpu = PoolRecord("gpu", "{}", 0, 1, 0, 0, 0, True)
    await store.publish_pools([gpu, cpu])
    assert await store.list_pools() == [cpu, gpu]
    grown = cpu._replace(ready_workers=4, active_attempts=9)
    await store.publish_pools([grown])
    assert await store.list_pools() == [grown]


async def test_workers_beat(store: SqlStore, clock: FakeClock) -> None:
    one = WorkerRecord("w1", "cpu", 1, "node-1", 42, "{}", "[]", 0, START_US - 5, 0)
    two = one._replace(id="w2", pid=43)
    await store.record_workers([two, one])
    seen = [w._replace(heartbeat_us=START_US) for w in (one, two)]
    assert await store.list_workers() == seen
    now = clock.advance(SECOND)
    busy = one._replace(active_attempts=3, state=2)
    await store.record_workers([busy])
    assert await store.list_workers() == [busy._replace(heartbeat_us=now), seen[1]]
    await store.remove_workers(["w1", "no-such-worker"])
    assert await store.list_workers() == [seen[1]]
    await store.remove_workers([])
    assert await store.list_workers() == [seen[1]]
