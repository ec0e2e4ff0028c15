"""What one process commits reaches the others at once, over a real Redis and a real Postgres."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from functools import partial

import pytest

from longshore.v1 import job_pb2
from longshore_server.mailbox import Mailbox
from longshore_store.bus import ANYTHING
from longshore_store.bus.outbox import WAKE_IDS
from longshore_store.bus.redis_bus import RedisBus
from longshore_store.bus.wire import Encoder
from longshore_store.model import LogUpdate, ProgressUpdate
from tests.store.bus.conftest import Launch
from tests.store.bus.node import Node, mailbox, until
from tests.store.bus.redis_server import RedisServer
from tests.store.factory import FakeClock, Yard, new_job, next_line

ROUNDS = 15


async def make_yard(node: Node) -> Yard:
    return await Yard.make(node.store, FakeClock())


def states(box: Mailbox) -> list[str]:
    changes = [e.state_change for e in box.events if e.HasField("state_change")]
    return [job_pb2.JobState.Name(change.to_state)[10:] for change in changes]


def reached(box: Mailbox, sequence: int) -> bool:
    return box.cursor >= sequence


def has_progress(box: Mailbox) -> bool:
    return box.progress is not None


def known(node: Node, job_id: str) -> bool:
    """Another one watches the job, and this one has heard so."""
    return bool(node.bus._interests.among([job_id]))


async def test_a_commit_reaches_a_watch_elsewhere_without_a_read(launch: Launch) -> None:
    here, there = await launch(), await launch()
    yard = await make_yard(here)
    took = []
    for _ in range(ROUNDS):
        job_id, box = await yard.submit(), mailbox(1)
        with there.hub.attached(job_id, box):
            await until(partial(known, here, job_id))
            reads = await there.settled(1, box)
            attempt = await yard.lease(job_id)
            took.append(await until(partial(reached, box, 2)))
            await yard.start(attempt)
            await here.store.record_progress(
                yard.term, [ProgressUpdate(*attempt, '{"fraction":0.5}')]
            )
            await until(partial(has_progress, box))
            assert states(box) == ["LEASED", "RUNNING"]
            assert there.store.reads == reads
    print(f"from a commit to a watch elsewhere: median {statistics.median(took) * 1e3:.1f} ms,")
    print(f"slowest {max(took) * 1e3:.1f} ms of {ROUNDS}")


async def test_a_commit_between_the_first_read_and_the_interest_is_found(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await launch(), await launch()
    yard = await make_yard(here)
    tell = there.bus._outbox.watch
    monkeypatch.setattr(there.bus._outbox, "watch", lambda _: None)
    job_id, box = await yard.submit(), mailbox(1)
    with there.hub.attached(job_id, box):
        await there.settled(1, box)
        await yard.start(await yard.lease(job_id))
        assert box.cursor == 1, "nothing polls: what is missed is never delivered"
        tell({job_id: 1})
        there.bus._waiting.set()
        await until(partial(reached, box, 3))
    assert states(box) == ["LEASED", "RUNNING"]


async def test_watchers_that_come_and_go_miss_nothing(launch: Launch) -> None:
    here, there = await launch(), await launch()
    yard = await make_yard(here)
    attempt = await yard.running()
    boxes = [mailbox(3) for _ in range(20)]

    async def follow(number: int, box: Mailbox) -> None:
        await asyncio.sleep(number * 0.01)
        with there.hub.attached(attempt.job_id, box):
            await until(partial(reached, box, 43))

    following = [asyncio.create_task(follow(n, box)) for n, box in enumerate(boxes)]
    for n in range(40):
        line = LogUpdate(*attempt, next_line(), json.dumps({"lines": [str(n)], "dropped": 0}))
        await here.store.record_logs(yard.term, [line])
    await asyncio.gather(*following)
    for box in boxes:
        assert [event.sequence for event in box.events] == list(range(4, 44))


async def test_changes_too_long_for_a_message_are_read(launch: Launch) -> None:
    here, there = await launch(), await launch()
    yard = await make_yard(here)
    attempt, box = await yard.running(), mailbox(3)
    with there.hub.attached(attempt.job_id, box):
        await until(lambda: here.bus.state.interests == 1)
        reads = await there.settled(3, box)
        body = json.dumps({"lines": ["x" * 1_200_000], "dropped": 0})
        await here.store.record_logs(yard.term, [LogUpdate(*attempt, next_line(), body)])
        await until(lambda: box.cursor == 4)
    assert there.store.reads > reads


async def test_commits_wake_the_scheduler(launch: Launch) -> None:
    server, scheduler = await launch(), await launch()
    heard: list[str] = []
    scheduler.bus.on_wake(heard.extend)
    await until(lambda: server_wakes(server, heard))
    heard.clear()
    jobs = [new_job() for _ in range(3)]
    await server.store.submit_jobs(jobs)
    await until(lambda: {job.id for job in jobs} <= set(heard))
    heard.clear()
    many = [new_job() for _ in range(3 * WAKE_IDS)]
    await server.store.submit_jobs(many)
    await until(lambda: many[-1].id in heard)
    assert many[0].id in heard
    assert len(heard) <= WAKE_IDS


def server_wakes(server: Node, heard: list[str]) -> bool:
    """Commits until the other one has subscribed: nothing else says when that is."""
    server.bus.committed(["probe"])
    return "probe" in heard


async def test_a_scheduler_wakes_nobody(launch: Launch, redis: RedisServer) -> None:
    heard: list[str] = []
    node, server = await launch(), await launch()
    quiet = RedisBus(redis.url, node.store, cluster="test", publishes_wakes=False)
    server.bus.on_wake(heard.extend)
    await until(lambda: server_wakes(node, heard))
    await quiet.start()
    await node.bus.stop()
    heard.clear()
    job = new_job()
    await node.store.submit_jobs([job])
    await server.store.submit_jobs([new_job()])  # its own commits wake it without a bus
    quiet._outbox.wake(["last"])
    quiet._waiting.set()
    await until(lambda: "last" in heard)
    await quiet.stop()
    assert set(heard) <= {"last", "probe", ANYTHING}


async def test_deployments_on_one_redis_do_not_meet(launch: Launch, redis: RedisServer) -> None:
    one, other = await launch(cluster="one"), await launch(cluster="other")
    same = await launch(cluster="one")
    box = mailbox(1)
    with one.hub.attached("job", box):
        await until(lambda: same.bus.state.interests == 1)
    # What came before this one has been received.
    await redis.ask("PUBLISH", "longshore:other:watches", Encoder("0" * 16).ask())
    await until(lambda: other.bus.state.received > 0)
    assert other.bus.state.received == 1
    assert other.bus.state.interests == 0


async def test_one_that_starts_later_learns_what_is_watched(launch: Launch) -> None:
    there = await launch()
    yard = await make_yard(there)
    attempt, box = await yard.leased(), mailbox(2)
    with there.hub.attached(attempt.job_id, box):
        late = await launch()
        took = await until(lambda: late.bus.state.interests == 1)
        print(f"the watches of others are known {took * 1e3:.0f} ms after the start")
        await there.settled(2, box)
        yard.store = late.store
        await yard.start(attempt)
        await until(lambda: box.cursor == 3)


async def test_a_commit_of_another_process(launch: Launch, redis: RedisServer) -> None:
    there = await launch()
    yard = await make_yard(there)
    job_id, box = await yard.submit(), mailbox(1)
    with there.hub.attached(job_id, box):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.store.bus.committing", there.url, redis.url, job_id),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None and process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        reads = await there.settled(1, box)
        process.stdin.write(b"cancel\n")
        committed = float(await process.stdout.readline())
        await until(lambda: box.ended)
        took = time.time() - committed
        assert states(box) == ["CANCELLED"]
        assert there.store.reads == reads
        process.stdin.close()
        assert await process.wait() == 0
    print(f"from a commit of another process to a watch: {took * 1e3:.1f} ms")
