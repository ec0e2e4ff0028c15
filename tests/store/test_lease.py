from __future__ import annotations

import asyncio

from longshore_store.model import CheckpointUpdate, Lane, Lease
from longshore_store.states import JobState
from longshore_store.topology_records import QueueDeclaration
from tests.store.factory import (
    HOUR,
    NEEDS,
    REACHABLE,
    SECOND,
    START_US,
    Attempt,
    Yard,
    new_job,
    recall,
    setback,
)


def fast(name: str = "fast") -> QueueDeclaration:
    return QueueDeclaration(name, 0, None, "")


def lane(queue: str = "fast", tenant: str = "acme", waiting: int = 1) -> Lane:
    return Lane(queue, tenant, waiting)


async def test_a_lease_carries_what_an_assignment_needs(yard: Yard) -> None:
    job = new_job(total_timeout_us=HOUR, spec=b"\x00spec", payload='{"n":1}')
    await yard.store.submit_jobs([job])
    now = yard.clock.advance(SECOND)
    leased = await yard.grant(job.id, "w7")
    assert (leased.id, leased.fence, leased.number, leased.worker_id) == (job.id, 1, 1, "w7")
    assert (leased.tenant, leased.task, leased.queue) == ("acme", "resize", "fast")
    assert (leased.attempts, leased.crashes, leased.ooms, leased.interruptions) == (0, 0, 0, 0)
    assert (leased.needs_json, leased.total_deadline_us) == (NEEDS, START_US + HOUR)
    assert (leased.spec, leased.payload, leased.checkpoint_json) == (b"\x00spec", '{"n":1}', None)
    record = await yard.read(job.id)
    assert (record.state, record.worker_id, record.fence) == (JobState.LEASED, "w7", 1)
    [attempt] = record.attempts
    assert (attempt.queued_us, attempt.leased_us, attempt.started_us) == (START_US, now, None)


async def test_lease_in_each_state(yard: Yard) -> None:
    for state in REACHABLE:
        job = await yard.job_in(state)
        before = await yard.read(job.job_id)
        for fence in (job.fence - 1, job.fence + 1, job.fence):
            granted = await yard.store.lease_jobs(yard.term, [Lease(job.job_id, fence, "w2")])
            if state == JobState.QUEUED and fence == job.fence:
                assert [(g.id, g.fence) for g in granted] == [(job.job_id, fence + 1)]
            else:
                assert granted == []
                assert await yard.read(job.job_id) == before


async def test_only_what_is_granted_is_answered(yard: Yard) -> None:
    ids = [await yard.submit() for _ in range(3)]
    await yard.lease(ids[1])
    leases = [Lease(job_id, 0, "w1") for job_id in [*ids, "no-such-job"]]
    granted = await yard.store.lease_jobs(yard.term, leases)
    assert [g.id for g in granted] == [ids[0], ids[2]]
    assert await yard.store.lease_jobs(yard.term, []) == []


async def test_one_job_for_two_workers(yard: Yard) -> None:
    """In one call and in one transaction: one of them gets it, once."""
    job_id = await yard.submit()
    both = [Lease(job_id, 0, "w1"), Lease(job_id, 0, "w2"), Lease(job_id, 0, "w1")]
    one, two = await asyncio.gather(
        yard.store.lease_jobs(yard.term, both), yard.store.lease_jobs(yard.term, both)
    )
    assert [(g.fence, g.worker_id) for g in [*one, *two]] == [(1, "w1")]
    assert (await yard.read(job_id)).sequence == 2


async def test_a_stale_lease_beside_a_good_one(yard: Yard) -> None:
    job_id = await yard.submit()
    await yard.store.release_attempts(yard.term, [recall(await yard.lease(job_id))])
    leases = [Lease(job_id, 0, "w1"), Lease(job_id, 1, "w2")]
    granted = await yard.store.lease_jobs(yard.term, leases)
    assert [(g.fence, g.worker_id, g.number) for g in granted] == [(2, "w2", 1)]


async def test_the_next_attempt_gets_the_checkpoint(yard: Yard) -> None:
    attempt = await yard.running()
    update = CheckpointUpdate(*attempt, '{"page":7}')
    await yard.store.save_checkpoints(yard.term, [update])
    await yard.store.release_attempts(yard.term, [setback(attempt)])
    assert (await yard.grant(attempt.job_id)).checkpoint_json == '{"page":7}'


async def test_heads_are_by_priority_then_age(yard: Yard) -> None:
    await yard.store.declare_queues([fast()])
    older = await yard.submit(priority=50)
    urgent = await yard.submit(priority=90)
    same_time = await yard.submit(priority=50)
    yard.clock.advance(SECOND)
    later, idle = await yard.submit(priority=50), await yard.submit(priority=0)
    await yard.job_in(JobState.SCHEDULED)
    await yard.job_in(JobState.RUNNING)
    heads = await yard.store.queue_heads([(lane(), 10)])
    assert [h.id for h in heads] == [urgent, older, same_time, later, idle]
    first = heads[0]
    assert (first.fence, first.queue, first.tenant, first.task) == (0, "fast", "acme", "resize")
    assert (first.priority, first.needs_json, first.ready_us) == (90, NEEDS, START_US)
    assert [h.id for h in await yard.store.queue_heads([(lane(), 2)])] == [urgent, older]


async def test_heads_of_many_lanes(yard: Yard) -> None:
    """More lanes than fit into one query."""
    batch = [new_job(queue=f"q{i}", tenant=f"t{i}") for i in range(120) for _ in range(3)]
    await yard.store.submit_jobs(batch)
    lanes = [(lane(f"q{i}", f"t{i}"), 2) for i in range(120)]
    heads = await yard.store.queue_heads([*lanes, (lane("empty"), 5)])
    assert [h.queue for h in heads] == [f"q{i}" for i in range(120) for _ in range(2)]
    assert [h.id for h in heads] == [j.id for i in range(0, 360, 3) for j in batch[i : i + 2]]
    assert await yard.store.queue_heads([]) == []


async def test_a_released_job_keeps_its_place(yard: Yard) -> None:
    first = await yard.submit()
    yard.clock.advance(SECOND)
    second = await yard.submit()
    await yard.store.release_attempts(yard.term, [recall(await yard.lease(first))])
    heads = await yard.store.queue_heads([(lane(), 5)])
    assert [(h.id, h.fence) for h in heads] == [(first, 1), (second, 0)]


async def test_lanes_are_unpaused_and_not_empty(yard: Yard) -> None:
    await yard.store.declare_queues([fast(), fast("slow"), fast("idle")])
    await yard.store.submit_jobs(
        [new_job(), new_job(), new_job(tenant="b"), new_job(queue="slow"), new_job(queue="x")]
    )
    running = await yard.running(tenant="c")
    lanes = [lane(waiting=2), lane(tenant="b"), lane("slow"), lane("x")]
    assert await yard.store.waiting_lanes() == lanes
    await yard.store.pause_queue("fast", "")
    assert await yard.store.waiting_lanes() == lanes[2:]
    await yard.store.resume_queue("fast")
    await yard.store.release_attempts(yard.term, [setback(running)])
    assert await yard.store.waiting_lanes() == [*lanes[:2], lane(tenant="c"), *lanes[2:]]


async def test_what_a_new_leader_starts_from(yard: Yard) -> None:
    held = {}
    for state in REACHABLE:
        job = await yard.job_in(state)
        if state in (JobState.LEASED, JobState.RUNNING, JobState.CANCELLING):
            held[job.job_id] = (job.fence, state)
    active = await yard.store.active_attempts()
    assert {a.id: (a.fence, a.state) for a in active} == held
    for a in active:
        assert (a.number, a.tenant, a.task, a.queue, a.worker_id) == (
            1,
            "acme",
            "resize",
            "fast",
            "w1",
        )
        assert (a.started_us is None) == (a.state == JobState.LEASED)
        assert (a.spec, a.needs_json) == (b"spec\x00\xff", NEEDS)


async def test_a_big_batch_of_leases(yard: Yard) -> None:
    batch = [new_job() for _ in range(3_000)]
    await yard.store.submit_jobs(batch)
    leases = [Lease(job.id, 0, f"w{i % 7}") for i, job in enumerate(batch)]
    granted = await yard.store.lease_jobs(yard.term, leases)
    assert [g.id for g in granted] == [job.id for job in batch]
    assert [g.worker_id for g in granted] == [lease.worker_id for lease in leases]
    attempts = [Attempt(g.id, g.fence) for g in granted]
    assert await yard.store.release_attempts(yard.term, [recall(a) for a in attempts]) == []


async def test_jobs_of_tasks_that_nobody_has_are_passed_over(yard: Yard) -> None:
    await yard.store.submit_jobs([new_job(task=task) for task in ("lost", "gone") * 20])
    wanted = await yard.submit(task="there")
    heads = await yard.store.queue_heads([(lane(), 4)], ["gone", "lost"])
    assert [head.id for head in heads] == [wanted]
    assert len(await yard.store.queue_heads([(lane(), 4)], ["gone"])) == 4
    assert len(await yard.store.queue_heads([(lane(), 4)])) == 4


async def test_jobs_that_wait_for_a_gpu_do_not_hide_those_behind_them(yard: Yard) -> None:
    gpu = [new_job(needs_json='{"cpu_millis":100,"gpu_millis":1000}') for _ in range(300)]
    await yard.store.submit_jobs(gpu)
    yard.clock.advance(SECOND)
    behind = await yard.submit()
    heads = await yard.store.queue_heads([(lane(), 4)])
    assert [head.id for head in heads] == [*sorted(job.id for job in gpu)[:4], behind]
