"""RedisBus: the bus over one Redis, which may be slow, hung, emptied or gone at any time."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

from longshore_store.bus import ANYTHING, BusRefused, BusState, Follower, Stop
from longshore_store.bus.circuit import Circuit
from longshore_store.bus.feed import Feed
from longshore_store.bus.interests import Interests
from longshore_store.bus.link import Address, Link, LinkLost
from longshore_store.bus.outbox import WATCHES_A_MESSAGE, Outbox, Sending
from longshore_store.bus.wire import (
    Ask,
    Channels,
    Doubt,
    Encoder,
    Malformed,
    Message,
    News,
    Wake,
    Watch,
    decode,
)
from longshore_store.store import Listener, Store
from longshore_store.telling import without_values

_log = logging.getLogger(__name__)

REFRESH = 10.0
REFRESH_GAP = 1.0
STOPPING = 2.0


class RedisBus:
    """See Bus. Nothing that a caller waits for ever waits for Redis.

    Args:
        url: redis://, rediss:// or unix://.
        store: open; its commits are published, and it is read for those who watch.
        cluster: deployments of different names on one Redis do not meet.
        publishes_wakes: commits of this process are news to the scheduler; not those of its own.
    """

    def __init__(
        self, url: str, store: Store, *, cluster: str = "longshore", publishes_wakes: bool = True
    ) -> None:
        self._store = store
        self._publishes_wakes = publishes_wakes
        self._address = Address(url)
        self._channels = Channels.of(cluster)
        self._encoder = Encoder(secrets.token_hex(8))
        self._circuit = Circuit(self._address.place)
        self._interests = Interests()
        self._outbox = Outbox(self._channels, self._encoder)
        self._waiting = asyncio.Event()
        self._asked = asyncio.Event()
        self._feed = Feed(store, self._interests, self._outbox, self._waiting.set)
        self._wakes: list[Listener] = []
        self._followers: list[Follower] = []
        self._link: Link | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._unsubscribe: Stop | None = None
        self._published = self._received = self._malformed = 0

    @property
    def state(self) -> BusState:
        """See Bus."""
        return BusState(
            connected=self._circuit.closed,
            seconds=self._circuit.seconds,
            published=self._published,
            received=self._received,
            dropped=self._outbox.dropped,
            malformed=self._malformed,
            interests=len(self._interests),
            pending_bytes=self._outbox.pending_bytes,
        )

    # -- who listens, who speaks

    def on_wake(self, listener: Listener) -> Stop:
        """See Bus."""
        self._wakes.append(listener)
        self._waiting.set()  # whoever sends subscribes, too
        return lambda: self._wakes.remove(listener)

    def follow(self, follower: Follower) -> Stop:
        """See Bus."""
        self._followers.append(follower)
        self._asked.set()
        self._waiting.set()
        return lambda: self._followers.remove(follower)

    def watch(self, job_id: str, cursor: int) -> None:
        """See Bus."""
        if self._circuit.closed:
            self._outbox.watch({job_id: cursor})
            self._waiting.set()

    def committed(self, job_ids: Iterable[str]) -> None:
        """A commit of this process changed these jobs: for Store.subscribe."""
        if not self._circuit.closed:
            return
        ids = job_ids if isinstance(job_ids, Collection) else list(job_ids)
        self._feed.committed(ids, asyncio.get_running_loop().time())
        if self._publishes_wakes:
            self._outbox.wake(ids)
            self._waiting.set()

    # -- life

    async def start(self) -> None:
        """See Bus."""
        pause = 0.0
        try:
            self._link = await self._connect()
        except LinkLost as error:
            pause = self._circuit.open(error)
        self._unsubscribe = self._store.subscribe(self.committed)
        for name, work in (
            ("link", self._run(pause)),
            ("feed", self._feed.run()),
            ("refresh", self._refresh()),
        ):
            self._tasks.append(asyncio.create_task(work, name=f"bus-{name}"))

    async def stop(self) -> None:
        """See Bus."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOPPING)
        await self._hang_up()

    async def _connect(self) -> Link:
        link = Link(self._address)
        try:
            await link.open([*self._wanted()], Sending(self._channels.watches, self._encoder.ask()))
        except BaseException:
            await link.close()
            raise
        self._circuit.close()
        return link

    def _wanted(self) -> Iterable[str]:
        yield self._channels.watches
        if self._wakes:
            yield self._channels.wakes
        if self._followers:
            yield self._channels.news

    async def _run(self, pause: float) -> None:
        """Keeps a link, and makes a new one when it breaks."""
        while True:
            await asyncio.sleep(pause)
            try:
                self._link = self._link or await self._connect()
                await self._live(self._link)
            except (LinkLost, BusRefused) as error:
                pause = self._circuit.open(error)
            except Exception as error:  # noqa: BLE001  # hints must come back by themselves
                _log.error("the bus failed and begins anew: %s", without_values(error))
                pause = self._circuit.open(error)
            self._feed.clear()
            self._outbox.clear()

    async def _live(self, link: Link) -> None:
        """Sends and hears until one of the two fails, and raises that."""
        both = [asyncio.ensure_future(self._send(link)), asyncio.ensure_future(self._hear(link))]
        try:
            self._catch_up()
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            await done.pop()
        finally:
            await self._hang_up()
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def _catch_up(self) -> None:
        """Whatever was said meanwhile was not heard, neither here nor by others."""
        self._asked.set()
        for follower in self._followers:
            follower.doubt(None)
        self._wake([ANYTHING])
        if self._publishes_wakes:
            self._outbox.wake([ANYTHING])
            self._waiting.set()

    # -- sending

    async def _send(self, link: Link) -> None:
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            await link.subscribe(self._wanted())
            if messages := self._outbox.take():
                await self._publish(link, messages)
            if len(self._outbox):
                self._waiting.set()

    async def _publish(self, link: Link, messages: Sequence[Sending]) -> None:
        try:
            await link.publish(messages)
        except LinkLost:
            self._outbox.dropped += len(messages)
            raise
        self._published += len(messages)

    async def _refresh(self) -> None:
        """Says again what is watched here: in time, and when somebody asks."""
        while True:
            try:
                async with asyncio.timeout(REFRESH * random.uniform(0.8, 1.0)):  # noqa: S311
                    await self._asked.wait()
            except TimeoutError:
                pass
            self._asked.clear()
            self._interests.forget()
            for follower in tuple(self._followers):
                await self._tell(follower)
            await asyncio.sleep(REFRESH_GAP)

    async def _tell(self, follower: Follower) -> None:
        job_ids = iter(follower.watched())
        while self._circuit.closed and (some := list(islice(job_ids, WATCHES_A_MESSAGE))):
            self._outbox.watch(follower.cursors(some))
            self._waiting.set()
            await asyncio.sleep(0)  # a hundred thousand of them must not hold up the loop

    # -- hearing

    async def _hear(self, link: Link) -> None:
        while True:
            raw = await link.hear()
            if raw is not None and not self._encoder.is_own(raw):
                self._take(raw)
                await asyncio.sleep(0)  # messages that are there already come without a pause

    def _take(self, raw: bytes) -> None:
        self._received += 1
        try:
            self._dispatch(decode(raw))
        except Malformed as error:
            self._malformed += 1
            _log.debug("a message of the bus is dropped: %s", error)
        except Exception as error:  # noqa: BLE001  # it must not end the hearing
            _log.error("a listener of the bus failed: %s", without_values(error))

    def _dispatch(self, message: Message) -> None:
        match message:
            case Wake(job_ids):
                self._wake(job_ids)
            case Watch(cursors):
                self._feed.watched(cursors)
            case Ask():
                self._asked.set()
            case News(changes):
                for follower in self._followers:
                    follower.hear(changes)
            case Doubt(job_ids):
                for follower in self._followers:
                    follower.doubt(job_ids)

    def _wake(self, job_ids: Collection[str]) -> None:
        for listener in tuple(self._wakes):
            listener(job_ids)
