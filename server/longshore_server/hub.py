"""WatchHub: one reader of changes for all the watches of a server process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from longshore.v1.watch_pb2 import WatchProgressResponse
from longshore_server.answering import log_surprise
from longshore_server.mailbox import Rendered, Watcher
from longshore_server.refusals import exhausted, unavailable
from longshore_store.bus import Bus
from longshore_store.model import JobChanges, StoreUnavailable
from longshore_store.store import Store

POLL = 1.0
IDS_A_READ = 500
IDS_A_POLL = 2000
READ_TIMEOUT = 30.0
PAUSE_AFTER_FAILURE = 0.5
RETRY_DELAY = 1.0

MakeTerminal = Callable[[str], Awaitable[WatchProgressResponse | None]]


class Topic:
    """One watched job: who watches it, and its Terminal once somebody asked for it."""

    def __init__(self) -> None:
        self.watchers: dict[Watcher, None] = {}
        self.terminal: tuple[int, asyncio.Task[WatchProgressResponse | None]] | None = None


class WatchHub:
    """Reads what changed of watched jobs, once for all, and hands it out.

    Hints of the store mark jobs dirty; a slow poll marks all of them in turn, in case a hint
    was lost or the change was made by another process. While one read is on its way the next
    set forms by itself. Attaching a watcher marks its job too, so whatever was committed after
    the cursor it attaches with is found, hint or no hint.

    What another process commits comes over the bus as it stands, and is handed out without a
    read. The bus may repeat, reorder and lose: what a watcher has already is passed over, and
    where something is missing before what came, the job is read.

    Args:
        store: where changes are read.
        maximum: watches and long-polls at once; more are refused.
        poll: seconds between two polls.
        bus: to other processes over the same store, where there are any.
    """

    def __init__(
        self, store: Store, maximum: int, *, poll: float = POLL, bus: Bus | None = None
    ) -> None:
        self._store = store
        self._bus = bus
        self._maximum = maximum
        self._poll = poll
        self._topics: dict[str, Topic] = {}
        self._dirty: dict[str, None] = {}
        self._open = 0
        self._polled_to = ""
        self._wake = asyncio.Event()
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._subscriptions: list[Callable[[], None]] = []
        self.draining = False
        self.storeless = False

    def start(self) -> None:
        """Subscribes and begins to pump."""
        self._subscriptions.append(self._store.subscribe(self._hint))
        if self._bus is not None:
            self._subscriptions.append(self._bus.follow(self))
        self._task = asyncio.create_task(self._pump(), name="watch-hub")

    async def stop(self) -> None:
        """Ends the pump. Watches that are still open get nothing any more."""
        while self._subscriptions:
            self._subscriptions.pop()()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def drain(self, timeout: float) -> None:
        """Tells every watch that the server stops, and waits until they have gone."""
        self.draining = True
        self.send_away()
        if self._open:
            self._closed.clear()  # set whenever the last watch had gone, and others came since
            try:
                async with asyncio.timeout(timeout):
                    await self._closed.wait()
            except TimeoutError:
                pass  # the stop of the server cuts them

    def send_away(self) -> None:
        """Tells every watch to go to another server."""
        for topic in self._topics.values():
            for watcher in topic.watchers:
                watcher.drain()

    def farewell(self) -> Exception:
        """What a watch that was sent away ends with."""
        return draining() if self.draining else storeless()

    @property
    def open_watches(self) -> int:
        """Watches and long-polls that are open now."""
        return self._open

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts a watch while it is open.

        Raises:
            Refusal: there are as many as may be, or the server stops.
        """
        if self.draining:
            raise draining()
        if self._open >= self._maximum:
            text = f"{self._open} watches are open, as many as this server takes: try again later"
            raise exhausted("TOO_MANY_WATCHES", "watches", text, RETRY_DELAY)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._closed.set()

    @contextmanager
    def attached(self, job_id: str, watcher: Watcher) -> Iterator[None]:
        """Hands the changes of a job to the watcher, from its cursor on."""
        topic = self._topics.setdefault(job_id, Topic())
        if self._bus is not None and not topic.watchers:
            self._bus.watch(job_id, watcher.cursor)
        topic.watchers[watcher] = None
        self._mark(job_id)
        if self.draining or self.storeless:  # it came after those that were sent away
            watcher.drain()
        try:
            yield
        finally:
            self._detach(job_id, topic, watcher)

    def _detach(self, job_id: str, topic: Topic, watcher: Watcher) -> None:
        topic.watchers.pop(watcher, None)
        if not topic.watchers and self._topics.get(job_id) is topic:
            del self._topics[job_id]

    async def terminal(
        self, job_id: str, sequence: int, make: MakeTerminal
    ) -> WatchProgressResponse | None:
        """The Terminal of an attached job, made once for all watches that end together."""
        topic = self._topics.get(job_id) or Topic()
        if topic.terminal is None or topic.terminal[0] != sequence or _failed(topic.terminal[1]):
            topic.terminal = sequence, asyncio.ensure_future(make(job_id))
        async with asyncio.timeout(READ_TIMEOUT):
            # Shielded: a watch that is cancelled must not take the answer from the others.
            return await asyncio.shield(topic.terminal[1])

    # -- what the bus asks and says: see Follower

    def watched(self) -> Sequence[str]:
        """The jobs that are watched here."""
        return list(self._topics)

    def cursors(self, job_ids: Iterable[str]) -> dict[str, int]:
        """Each of the jobs that is watched, with the lowest cursor of its watchers."""
        cursors = {}
        for job_id in job_ids:
            topic = self._topics.get(job_id)
            if topic is not None and topic.watchers:
                cursors[job_id] = min(watcher.cursor for watcher in topic.watchers)
        return cursors

    def hear(self, changes: Sequence[JobChanges]) -> None:
        """Hands out what another process has read of watched jobs."""
        for one in changes:
            topic = self._topics.get(one.job_id)
            if topic is None:
                continue
            start = one.events[0].sequence - 1 if one.events else one.sequence
            if not self._try_hand_out(topic, Rendered(one), start):
                self._mark(one.job_id)  # the bus is not trusted: the store is read

    def doubt(self, job_ids: Iterable[str] | None) -> None:
        """Has these jobs, or all, read again."""
        self._hint(list(self._topics) if job_ids is None else job_ids)

    # -- the pump

    def _hint(self, job_ids: Iterable[str]) -> None:
        topics = self._topics
        if topics:
            for job_id in job_ids:
                if job_id in topics:
                    self._mark(job_id)

    def _mark(self, job_id: str) -> None:
        self._dirty[job_id] = None
        self._wake.set()

    async def _pump(self) -> None:
        loop = asyncio.get_running_loop()
        next_poll = loop.time() + self._poll
        while True:
            if not self._dirty:
                await self._wait(next_poll)
            if loop.time() >= next_poll:
                next_poll = loop.time() + self._poll
                self._mark_some()
            try:
                await self._read(self._take())
            except (StoreUnavailable, TimeoutError):
                await asyncio.sleep(PAUSE_AFTER_FAILURE)  # the poll will find what was missed
            except Exception as error:  # noqa: BLE001  # the pump must outlive a surprise
                log_surprise(error, "the watch hub")
                await asyncio.sleep(PAUSE_AFTER_FAILURE)

    async def _wait(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _mark_some(self) -> None:
        """Marks the next jobs in turn: all of them, where they are not too many for one poll."""
        ids = list(self._topics)
        if len(ids) > IDS_A_POLL:
            ids.sort()
            later = [job_id for job_id in ids if job_id > self._polled_to]
            ids = (later + ids)[:IDS_A_POLL]
            self._polled_to = ids[-1]
        self._dirty.update(dict.fromkeys(ids))

    def _take(self) -> dict[str, int]:
        """Some dirty jobs, with their cursors."""
        job_ids = list(islice(self._dirty, IDS_A_READ))
        for job_id in job_ids:
            del self._dirty[job_id]
        return self.cursors(job_ids)

    async def _read(self, cursors: dict[str, int]) -> None:
        if not cursors:
            return
        async with asyncio.timeout(READ_TIMEOUT):
            found = await self._store.read_changes(cursors)
        for changes in found:
            start = cursors.pop(changes.job_id)
            topic = self._topics.get(changes.job_id)
            if topic is not None:
                self._try_hand_out(topic, Rendered(changes), start)
        for job_id in cursors:
            topic = self._topics.get(job_id)
            for watcher in tuple(topic.watchers) if topic else ():
                watcher.vanish()

    def _try_hand_out(self, topic: Topic, rendered: Rendered, start: int) -> bool:
        """False where these changes make no sense: watches of other jobs must not miss theirs."""
        try:
            self._hand_out(topic, rendered, start)
        except Exception as error:  # noqa: BLE001  # of whatever kind
            log_surprise(error, f"the changes of job {rendered.changes.job_id}")
            return False
        return True

    def _hand_out(self, topic: Topic, rendered: Rendered, start: int) -> None:
        """Changes after `start`, to whom they are news; the job is read again for the others."""
        job_id, sequence = rendered.changes.job_id, rendered.changes.sequence
        for watcher in tuple(topic.watchers):
            if watcher.cursor > sequence:  # it has what came later
                continue
            if watcher.cursor >= start and not watcher.offer(rendered):
                self._detach(job_id, topic, watcher)
            elif watcher.cursor < sequence:  # it is further back, or another page follows
                self._mark(job_id)


def _failed(task: asyncio.Task[WatchProgressResponse | None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def draining() -> Exception:
    """The refusal of a server that stops."""
    text = "the server is stopping: reconnect, another one or the next one will answer"
    return unavailable("SHUTTING_DOWN", text, RETRY_DELAY)


def storeless() -> Exception:
    """The refusal of a server that has not reached its store for a while."""
    text = "this server does not reach its store: reconnect, another one may"
    return unavailable("STORE_UNAVAILABLE", text, RETRY_DELAY)
