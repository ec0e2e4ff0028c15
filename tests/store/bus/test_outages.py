"""Redis killed, emptied, stopped, wrong or absent: only latency changes, nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from longshore_server.mailbox import Mailbox
from longshore_store.bus import BusRefused, link
from longshore_store.bus.interests import MAXIMUM
from longshore_store.bus.redis_bus import STOPPING, RedisBus
from longshore_store.bus.wire import Encoder
from longshore_store.model import LogUpdate
from longshore_store.sql import SqlStore
from tests.store.bus.conftest import Launch
from tests.store.bus.node import Node, mailbox, until
from tests.store.bus.patience import NEVER, be_strict
from tests.store.bus.redis_server import RedisServer
from tests.store.factory import Attempt, FakeClock, Yard, new_job, next_line
from tests.store.patience import LONG
from tests.store.places import Place

POLL = 0.1
CALLS = 40


class Lag:
    """How long the loop was not able to do anything else, at most, in seconds."""

    largest = 0.0

    async def measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.002)
            self.largest = max(self.largest, loop.time() - before - 0.002)


@asynccontextmanager
async def lag_measured() -> AsyncIterator[Lag]:
    lag = Lag()
    measuring = asyncio.create_task(lag.measure())
    try:
        yield lag
    finally:
        measuring.cancel()


class Pair:
    """A job that runs here and is watched there."""

    def __init__(self, here: Node, there: Node, yard: Yard, attempt: Attempt) -> None:
        self.here, self.there = here, there
        self._yard = yard
        self._attempt = attempt
        self.box = mailbox(3)

    @classmethod
    async def make(cls, launch: Launch) -> Pair:
        here, there = await launch(), await launch(poll=POLL)
        yard = await Yard.make(here.store, FakeClock())
        return cls(here, there, yard, await yard.running())

    @property
    def job_id(self) -> str:
        return self._attempt.job_id

    async def step(self) -> float:
        """One more event, here. Returns the seconds until it is there."""
        wanted = self.box.cursor + 1
        line = LogUpdate(*self._attempt, next_line(), json.dumps({"lines": ["x"], "dropped": 0}))
        await self.here.store.record_logs(self._yard.term, [line])
        return await until(partial(_reached, self.box, wanted))

    async def connected(self, wanted: bool = True) -> float:
        """Waits until both are connected, or both are not, and the interest is known."""
        both = (self.here.bus, self.there.bus)
        return await until(
            lambda: (
                all(bus.state.connected is wanted for bus in both)
                and (not wanted or self.here.bus.state.interests > 0)
            )
        )

    async def arrives(self) -> None:
        """Hints flow: an event comes over Redis, be it after the poll. Those that were committed
        while the link was down never do, so it is tried again."""
        heard = self.there.hub.heard
        async with asyncio.timeout(LONG):
            while True:
                await self.step()
                with suppress(TimeoutError):
                    await until(lambda: heard.get(self.job_id, 0) >= self.box.cursor, 1.0)
                    return


def _reached(box: Mailbox, sequence: int) -> bool:
    return box.cursor >= sequence


async def test_killed_and_started_again(launch: Launch, redis: RedisServer) -> None:
    pair = await Pair.make(launch)
    with pair.there.hub.attached(pair.job_id, pair.box):
        await pair.connected()
        await pair.arrives()
        await redis.kill()
        await pair.connected(False)
        slow = [await pair.step() for _ in range(5)]
        await redis.start()
        back = await pair.connected()
        await pair.arrives()
        fast = [await pair.step() for _ in range(5)]
    print(f"an event took at most {max(slow):.3f} s without Redis, {max(fast):.3f} s with it")
    print(f"hints flowed again {back:.2f} s after Redis did")


async def test_emptied(launch: Launch, redis: RedisServer) -> None:
    pair = await Pair.make(launch)
    with pair.there.hub.attached(pair.job_id, pair.box):
        await pair.connected()
        await redis.ask("FLUSHALL")
        await pair.arrives()
        assert pair.here.bus.state.connected and pair.there.bus.state.connected


async def test_a_stopped_redis_holds_up_nobody(
    launch: Launch, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await Pair.make(launch)
    with pair.there.hub.attached(pair.job_id, pair.box):
        await pair.connected()
        usual = await hammer(pair.here)
        redis.signal(signal.SIGSTOP)
        try:
            async with lag_measured() as lag:
                # No deadline ends yet, so whoever waits for Redis would wait for ever.
                stopped = await hammer(pair.here)
                assert pair.here.bus.state.connected
                be_strict(monkeypatch.setattr)
                await pair.connected(False)
                slow = await pair.step()
        finally:
            redis.signal(signal.SIGCONT)
        back = await pair.connected()
        await pair.arrives()
    print(f"commits: median {usual[0] * 1e3:.1f} ms, slowest {usual[1] * 1e3:.0f} ms; while Redis")
    print(f"is stopped {stopped[0] * 1e3:.1f} ms, {stopped[1] * 1e3:.0f} ms; an event {slow:.3f} s")
    print(f"largest lag of the loop {lag.largest * 1e3:.0f} ms; hints back after {back:.2f} s")
    await until(lambda: pair.here.bus.state.pending_bytes == 0)


async def hammer(node: Node) -> tuple[float, float]:
    """Submits jobs, some at once. Returns the median and the longest of a call, in seconds."""
    took: list[float] = []

    async def submit() -> None:
        for _ in range(CALLS):
            begin = time.perf_counter()
            await node.store.submit_jobs([new_job() for _ in range(10)])
            took.append(time.perf_counter() - begin)

    async with asyncio.timeout(LONG):
        await asyncio.gather(*(submit() for _ in range(8)))
    return sorted(took)[len(took) // 2], max(took)


async def test_a_silent_redis_is_noticed(
    launch: Launch, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await launch()
    await until(lambda: node.bus.state.published > 0)  # that it is there; it has no more to say
    be_strict(monkeypatch.setattr)
    redis.signal(signal.SIGSTOP)
    took = await until(lambda: not node.bus.state.connected)
    print(f"with nothing to say, a stopped Redis is noticed after {took:.2f} s")
    redis.signal(signal.SIGCONT)
    await until(lambda: node.bus.state.connected)


async def test_memory_stays_bounded_while_redis_is_dead(
    launch: Launch, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await launch()
    node.bus._interests._lasting = NEVER  # the first pages must be there at the last one
    encoder = Encoder("0" * 16)
    for page in range(0, MAXIMUM + 5000, 5000):
        cursors = {f"job-{n}": 1 for n in range(page, page + 5000)}
        await redis.ask("PUBLISH", "longshore:test:watches", encoder.watch(cursors))
    await until(lambda: node.bus.state.interests == MAXIMUM)
    be_strict(monkeypatch.setattr)
    redis.signal(signal.SIGSTOP)
    async with lag_measured() as lag:
        for n in range(1000):
            node.bus.committed([f"job-{n * 100 + k}" for k in range(100)])
            node.bus.watch(f"mine-{n}", 0)
            await asyncio.sleep(0)
        await until(lambda: not node.bus.state.connected)
        for n in range(1000):
            node.bus.committed([f"job-{n * 100 + k}" for k in range(100)])
            node.bus.watch(f"mine-{n}", 0)
            await asyncio.sleep(0)
    print(f"{node.bus.state}; largest lag {lag.largest * 1e3:.0f} ms")
    assert node.bus.state.interests <= MAXIMUM
    assert len(node.bus._outbox) == 0
    assert not node.bus._feed._due
    assert not node.bus._feed._recent


async def test_stop_is_bounded_while_redis_is_stopped(
    launch: Launch, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await launch()
    bus = RedisBus(redis.url, node.store)
    be_strict(monkeypatch.setattr)
    redis.signal(signal.SIGSTOP)
    begin = time.monotonic()
    async with asyncio.timeout(LONG):  # Redis goes on never
        await bus.start()
        started = time.monotonic()
        await bus.stop()
        await node.bus.stop()
    ended = time.monotonic()
    print(f"start took {started - begin:.2f} s, two stops {ended - started:.2f} s")
    assert link.OPENING < 3
    assert STOPPING + 2 * link.CLOSING < 3


@pytest.fixture
def store(postgres_place: Place) -> SqlStore:
    """Not opened: nothing is read here."""
    return SqlStore(postgres_place.url)


@pytest.mark.parametrize("login", ["", ":wrong-secret@", "nobody:wrong-secret@"])
async def test_wrong_credentials_are_refused(login: str, tmp_path: Path, store: SqlStore) -> None:
    async with RedisServer(tmp_path, password="right-secret") as server:
        bus = RedisBus(f"redis://{login}127.0.0.1:{server.port}", store)
        with pytest.raises(BusRefused) as caught:
            await bus.start()
        right = RedisBus(server.url, store)
        await right.start()
        assert right.state.connected
        await right.stop()
    text = str(caught.value)
    print(text)
    assert f"127.0.0.1:{server.port}" in text
    assert ("'nobody'" if login.startswith("nobody") else "'default'") in text
    assert "secret" not in text
    assert "correct user and password" in text


async def test_too_few_rights_are_refused(redis: RedisServer, store: SqlStore) -> None:
    rules = ("on", ">secret", "resetchannels", "&other:*", "+ping", "+subscribe")
    await redis.ask("ACL", "SETUSER", "weak", *rules)
    with pytest.raises(BusRefused, match="PUBLISH and SUBSCRIBE"):
        await RedisBus(f"redis://weak:secret@127.0.0.1:{redis.port}", store).start()


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:6379", "http://u:secret@h", "redis://h:secret", "redis://u:secret/x@h:1"),
        *("redis://u:secret@h?no_such_option=1", "rediss://u:secret@h?ssl_cert_reqs=nonsense"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, store: SqlStore) -> None:
    with pytest.raises(BusRefused, match="redis://") as caught:
        RedisBus(url, store)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


async def test_an_address_cannot_change_what_the_bus_relies_on(
    redis: RedisServer, store: SqlStore
) -> None:
    options = "decode_responses=true&socket_timeout=600&retry_on_timeout=true"
    buses = [RedisBus(f"{redis.url}?{options}", store, cluster="test") for _ in range(2)]
    woken: list[str] = []
    buses[1].on_wake(woken.extend)
    for bus in reversed(buses):
        await bus.start()
    try:
        buses[0].committed(["a"])
        await until(lambda: "a" in woken)
    finally:
        for bus in buses:
            await bus.stop()


async def test_an_address_that_does_not_answer_is_tried_again(
    tmp_path: Path, store: SqlStore, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path, password="secret")
    bus = RedisBus(server.url, store)
    with caplog.at_level(logging.WARNING):
        await bus.start()
        [line] = caplog.messages
        assert line.endswith("going on by polling the store")
        assert f"127.0.0.1:{server.port}" in line
        assert not bus.state.connected
        async with server:
            took = await until(lambda: bus.state.connected)
            await bus.stop()
        print(f"{line}\nconnected {took:.2f} s after Redis came")
    assert "answers again" in caplog.messages[-1]
    assert len(caplog.messages) == 2
    assert "secret" not in caplog.text


async def test_malformed_messages_are_counted_and_dropped(
    launch: Launch, redis: RedisServer
) -> None:
    pair = await Pair.make(launch)
    others = '"0000000000000000"'
    with pair.there.hub.attached(pair.job_id, pair.box):
        await pair.connected()
        for body in (
            *("", "\xff", "[]", "null", "[1]", f'[2,{others},"wake",[]]', f'[1,{others},"?",[]]'),
            *(f'[1,{others},"news",[[1]]]', f'[1,{others},"wake",[1]]', f"[1,{others},[],[]]"),
            f'[1,{others},"watch",{{"{pair.job_id}":-1}}]',
            f'[1,{others},"watch",{{"{"x" * 1000}":1}}]',
        ):
            await redis.ask("PUBLISH", "longshore:test:news", body.encode("latin-1"))
        await until(lambda: pair.there.bus.state.malformed == 12)
        await pair.arrives()
        assert pair.there.bus.state.connected
