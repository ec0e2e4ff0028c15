"""What the hub makes of the bus: it may repeat, reorder, lose and lie, and harms no watch."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from longshore_server.hub import WatchHub
from longshore_server.mailbox import Mailbox, RevisionWaiter
from longshore_store.bus import Bus, Follower
from longshore_store.model import EventKind, EventRecord, JobChanges
from longshore_store.states import TERMINAL, JobState
from longshore_store.store import Listener, Store
from tests.server.harness import until

JOB = "job"
LIFE = [
    *(JobState.QUEUED, JobState.LEASED, JobState.RUNNING, JobState.SUCCEEDED),
    *(JobState.QUEUED, JobState.LEASED, JobState.RUNNING, JobState.FAILED),
]
"""The state after each sequence, from 1 on: a run, a retry, another run."""


def event(sequence: int) -> EventRecord:
    source = LIFE[sequence - 2] if sequence > 1 else 0
    target = LIFE[sequence - 1]
    return EventRecord(JOB, sequence, 1, 1, EventKind.STATE, source, target, "", None, None)


def changes(after: int, upto: int, count: int = 0, heartbeat_us: int = 1) -> JobChanges:
    events = tuple(event(n) for n in range(after + 1, upto + 1))
    body = '{"fraction":0.5}' if count else None
    return JobChanges(JOB, LIFE[upto - 1], upto, count, 1, 1, body, 1, heartbeat_us, events)


class Truth:
    """The store and the bus of a hub: what is committed is here, what is said is up to the test."""

    def __init__(self) -> None:
        self.upto = 1
        self.reads: list[Mapping[str, int]] = []
        self.told: list[tuple[str, int]] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        return lambda: None

    def follow(self, follower: Follower) -> Callable[[], None]:
        return lambda: None

    def watch(self, job_id: str, cursor: int) -> None:
        self.told.append((job_id, cursor))

    async def read_changes(self, cursors: Mapping[str, int]) -> list[JobChanges]:
        self.reads.append(dict(cursors))
        return [changes(cursors[JOB], self.upto)] if JOB in cursors else []


@asynccontextmanager
async def hub_over(truth: Truth) -> AsyncIterator[WatchHub]:
    hub = WatchHub(cast(Store, truth), 10, poll=3600.0, bus=cast(Bus, truth))
    hub.start()
    try:
        yield hub
    finally:
        await hub.stop()


def mailbox(cursor: int = 1) -> Mailbox:
    return Mailbox(cursor, 0, include_logs=True, limit=100)


def sequences(box: Mailbox) -> list[int]:
    return [message.sequence for message in box.events]


async def settled(truth: Truth, hub: WatchHub, box: Mailbox) -> int:
    """The reads once the first one, that of attaching, is done."""
    await until(lambda: len(truth.reads) > 0 and not hub._dirty and box.latest >= 1)
    return len(truth.reads)


async def test_what_fits_is_handed_out_without_a_read() -> None:
    truth, box = Truth(), mailbox()
    async with hub_over(truth) as hub:
        with hub.attached(JOB, box):
            reads = await settled(truth, hub, box)
            hub.hear([changes(1, 2)])
            hub.hear([changes(2, 3), changes(3, 3, count=1)])
            assert (sequences(box), box.progress_count, box.latest) == ([2, 3], 1, 3)
            hub.hear([changes(3, 4, count=1)])
            assert box.ended
            assert (len(truth.reads), hub._dirty) == (reads, {})


async def test_a_gap_is_read() -> None:
    truth, box = Truth(), mailbox()
    async with hub_over(truth) as hub:
        with hub.attached(JOB, box):
            await settled(truth, hub, box)
            truth.upto = 4
            hub.hear([changes(2, 3)])
            assert sequences(box) == []
            await until(lambda: box.cursor == 4)
            assert truth.reads[-1] == {JOB: 1}


async def test_progress_beyond_the_cursor_is_a_gap() -> None:
    truth, box = Truth(), mailbox()
    async with hub_over(truth) as hub:
        with hub.attached(JOB, box):
            await settled(truth, hub, box)
            truth.upto = 3
            hub.hear([changes(3, 3, count=2)])
            assert box.progress_count == 0
            await until(lambda: box.cursor == 3)


async def test_a_message_again_does_nothing() -> None:
    truth, box = Truth(), mailbox()
    async with hub_over(truth) as hub:
        with hub.attached(JOB, box):
            reads = await settled(truth, hub, box)
            for _ in range(3):
                hub.hear([changes(1, 4, count=2)])
            box.progress = None
            hub.hear([changes(1, 4, count=2)])
            assert (sequences(box), box.progress, box.ended) == ([2, 3, 4], None, True)
            assert (len(truth.reads), hub._dirty) == (reads, {})


async def test_an_end_before_a_retry_comes_late() -> None:
    truth, box = Truth(), mailbox()
    async with hub_over(truth) as hub:
        with hub.attached(JOB, box):
            reads = await settled(truth, hub, box)
            hub.hear([changes(1, 6, count=3)])
            hub.hear([changes(3, 4, count=3), changes(1, 2, count=1, heartbeat_us=9)])
            assert (box.cursor, box.latest, box.ended) == (6, 6, False)
            assert (box.progress_count, box.worker_heartbeat_us) == (3, 1)
            assert (len(truth.reads), hub._dirty) == (reads, {})


async def test_a_read_that_comes_after_newer_news_takes_no_end_back() -> None:
    truth, box = Truth(), mailbox()
    async with hub_over(truth) as hub:
        with hub.attached(JOB, box):
            await settled(truth, hub, box)
            hub.hear([changes(1, 8)])
            assert box.ended
            truth.upto = 3  # what was read before the commit is answered after it
            await hub._read({JOB: 1})
            assert (box.cursor, box.ended) == (8, True)


@pytest.mark.parametrize("seed", range(20))
async def test_any_order_delivers_each_event_once(seed: int) -> None:
    chance, truth, box = random.Random(seed), Truth(), mailbox()
    async with hub_over(truth) as hub:
        with hub.attached(JOB, box):
            await settled(truth, hub, box)
            for _ in range(40):
                truth.upto = max(truth.upto, chance.randint(1, 8))
                end = chance.randint(1, truth.upto)
                hub.hear([changes(chance.randint(0, end), end, chance.randint(0, 3))])
            truth.upto = 8
            hub.doubt(None)
            await until(lambda: box.cursor == 8 and not hub._dirty)
    states = [m.sequence for m in box.events if m.WhichOneof("event") == "state_change"]
    assert states == list(range(2, 9))
    assert box.ended


async def test_nonsense_is_read_over() -> None:
    truth, box = Truth(), mailbox()
    odd = event(2)._replace(kind=EventKind.LOG, body_json="{")
    async with hub_over(truth) as hub:
        with hub.attached(JOB, box):
            await settled(truth, hub, box)
            truth.upto = 2
            hub.hear([changes(1, 2)._replace(events=(odd,))])
            hub.hear([changes(1, 1, count=5)._replace(progress_json="{")])
            await until(lambda: box.cursor == 2)
    assert sequences(box) == [2]
    assert box.events[0].event_time.ToMicroseconds() == 1


async def test_a_job_that_makes_no_sense_keeps_nothing_from_the_others() -> None:
    class Two(Truth):
        async def read_changes(self, cursors: Mapping[str, int]) -> list[JobChanges]:
            odd = event(2)._replace(job_id="a", kind=EventKind.LOG, body_json="{")
            first = changes(1, 2)._replace(job_id="a", events=(odd,))
            found = [first, changes(1, 2)]
            return [one for one in found if one.job_id in cursors]

    box = mailbox()
    async with hub_over(Two()) as hub:
        with hub.attached("a", mailbox()), hub.attached(JOB, box):
            await until(lambda: box.cursor == 2)


async def test_a_page_that_is_not_the_last_is_followed_by_a_read() -> None:
    truth, box = Truth(), mailbox()
    async with hub_over(truth) as hub:
        with hub.attached(JOB, box):
            await settled(truth, hub, box)
            truth.upto = 5
            page = changes(1, 3)._replace(sequence=5, state=LIFE[4])
            hub.hear([page])
            assert sequences(box) == [2, 3]
            await until(lambda: box.cursor == 5)


async def test_a_long_poll_is_answered() -> None:
    truth, waiter = Truth(), RevisionWaiter(1, 1)
    async with hub_over(truth) as hub:
        with hub.attached(JOB, cast(Any, waiter)):
            await until(lambda: len(truth.reads) > 0 and not hub._dirty)
            hub.hear([changes(1, 1)])
            assert not waiter.done
            hub.hear([changes(1, 2)])
            assert waiter.done
            waiter.close()


async def test_others_are_told_what_is_watched_once_for_each_job() -> None:
    truth, boxes = Truth(), [mailbox(2), mailbox(3)]
    truth.upto = 3
    async with hub_over(truth) as hub:
        with hub.attached(JOB, boxes[0]), hub.attached(JOB, boxes[1]):
            assert truth.told == [(JOB, 2)]
            assert hub.watched() == [JOB]
            assert hub.cursors([JOB, "other"]) == {JOB: 2}
        assert hub.watched() == []
        hub.hear([changes(1, 2)])
        hub.doubt([JOB])
        assert hub._dirty.keys() <= {JOB}


def test_the_life_ends() -> None:
    assert LIFE[3] in TERMINAL and LIFE[7] in TERMINAL
