"""Mailboxes: what the hub hands to one watch, bounded, in order, without ever waiting for it."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from typing import Protocol

from longshore.v1.watch_pb2 import WatchProgressResponse
from longshore_server.convert import log_event, progress_message, state_event
from longshore_server.times import timestamp
from longshore_store.model import EventKind, EventRecord, JobChanges
from longshore_store.states import TERMINAL


class Rendered:
    """The changes of one job, turned into messages at most once for all who watch it.

    Messages are shared between watches: who wants to change one copies it.
    """

    def __init__(self, changes: JobChanges) -> None:
        self.changes = changes
        self._events: dict[int, WatchProgressResponse] = {}
        self._progress: WatchProgressResponse | None = None

    @property
    def is_last_page(self) -> bool:
        """True where no event is left beyond these."""
        events = self.changes.events
        return not events or events[-1].sequence == self.changes.sequence

    def event(self, record: EventRecord) -> WatchProgressResponse:
        """The message of an event. Its revision counts no progress: that is not known for the
        past, and a lower bound never makes a client drop a Progress that it has not seen."""
        message = self._events.get(record.sequence)
        if message is None:
            make = state_event if record.kind == EventKind.STATE else log_event
            message = self._events[record.sequence] = make(record, record.sequence)
        return message

    def progress(self) -> WatchProgressResponse | None:
        """The newest progress, as of the newest sequence."""
        changes = self.changes
        if self._progress is None and changes.progress_json is not None:
            message = WatchProgressResponse(
                sequence=changes.sequence,
                attempt=changes.number,
                progress=progress_message(changes.progress_json),
                revision=changes.sequence + changes.progress_count,
            )
            if changes.progress_us is not None:
                message.event_time.CopyFrom(timestamp(changes.progress_us))
            self._progress = message
        return self._progress


class Watcher(Protocol):
    """Who is told of the changes of one job. Nothing here may wait."""

    cursor: int

    def offer(self, rendered: Rendered) -> bool:
        """Takes changes after `cursor`. False where it takes no more and is to be detached."""

    def vanish(self) -> None:
        """The job exists no more."""

    def drain(self) -> None:
        """The server stops."""


class Waker:
    """Lets one coroutine wait for the next call of `wake`, with a deadline."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Ends the wait, if there is one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, until: float) -> None:
        """Returns at the next wake, or at the loop time `until`; sometimes earlier.

        The timer of an earlier wait is kept where it rings soon enough: a watch waits once for
        each event, and a timer each time would cost more than the wait.
        """
        loop = asyncio.get_running_loop()
        if self._timer is None or self._timer.when() > until:
            self.close()
            self._timer = loop.call_at(until, self._ring)
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _ring(self) -> None:
        self._timer = None
        self.wake()

    def close(self) -> None:
        """Gives the timer up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Told(enum.Enum):
    """What a mailbox says instead of a message."""

    NOTHING = enum.auto()
    BEHIND = enum.auto()
    """It took no more: its watch reads on from the store, then makes a new box."""

    ENDED = enum.auto()
    """The job is terminal, and all of its events were taken."""

    GONE = enum.auto()
    """The job exists no more."""

    SENT_AWAY = enum.auto()
    """The server stops, or has lost its store."""


class Mailbox(Waker):
    """What the hub hands to one watch, from the cursor on that it has reached.

    Events wait in order, at most `limit` of them; progress waits in a slot where the newest
    replaces the older. A box that is full takes no more: the store keeps the events anyway, so a
    slow reader costs no memory. A box is good for one time of following; who has read from the
    store since makes a new one, for an old one may hold what was read.

    Args:
        cursor: the newest sequence that its watch has sent.
        progress_count: of the newest progress that was sent; None if the watch was resumed.

    Attributes:
        cursor: the newest sequence that was put in, or passed over because it is a log.
        latest: the newest sequence that the job has.
        ended: the job is terminal and all of its events were put in.
    """

    def __init__(
        self, cursor: int, progress_count: int | None, *, include_logs: bool, limit: int
    ) -> None:
        super().__init__()
        self.cursor = cursor
        self.latest = cursor
        self.progress_count = progress_count
        self.worker_heartbeat_us: int | None = None
        self.events: deque[WatchProgressResponse] = deque()
        self.progress: WatchProgressResponse | None = None
        self.ended = False
        self._lagging = self._vanished = self._draining = False
        self._include_logs = include_logs
        self._limit = limit

    def take(self, *, progress: bool) -> WatchProgressResponse | Told:
        """The next message, or why there is none.

        progress: also progress; it goes before an end, and before catching up, in any case.
        """
        if self._draining:
            return Told.SENT_AWAY
        if self.events:
            return self.events.popleft()
        if self._vanished:
            return Told.GONE
        if self.progress is not None and (progress or self._lagging or self.ended):
            message, self.progress = at_cursor(self.progress, self.cursor), None
            return message
        if self._lagging:
            return Told.BEHIND
        return Told.ENDED if self.ended else Told.NOTHING

    @property
    def reached(self) -> int:
        """The sequence up to which everything was taken, or passed over because it is a log."""
        return self.events[0].sequence - 1 if self.events else self.cursor

    def offer(self, rendered: Rendered) -> bool:
        """See Watcher."""
        changes = rendered.changes
        self._note(changes)
        for record in changes.events:
            if record.sequence > self.cursor:
                self._put(rendered, record)
                if self._lagging:
                    break
        if not self._lagging and rendered.is_last_page:
            self._finish_page(rendered)
        if self.events or self.progress is not None or self.ended or self._lagging:
            self.wake()
        return not self._lagging

    def _note(self, changes: JobChanges) -> None:
        """What heartbeats tell. The same news may come twice, and the older one last."""
        if changes.sequence > self.latest or self.worker_heartbeat_us is None:
            self.worker_heartbeat_us = changes.worker_heartbeat_us
        elif changes.worker_heartbeat_us is not None and changes.sequence == self.latest:
            self.worker_heartbeat_us = max(self.worker_heartbeat_us, changes.worker_heartbeat_us)
        self.latest = max(self.latest, changes.sequence)

    def _put(self, rendered: Rendered, record: EventRecord) -> None:
        # A sequence that is missing was trimmed while it was unread: the watch will say Gap.
        if record.sequence != self.cursor + 1 or len(self.events) >= self._limit:
            self._lagging = True
            return
        if record.kind == EventKind.STATE:
            self._flush_progress()
            self.events.append(rendered.event(record))
        elif self._include_logs:
            self.events.append(rendered.event(record))
        self.cursor = record.sequence

    def _flush_progress(self) -> None:
        """What an attempt reported before a state change is told before it."""
        if self.progress is not None:
            self.events.append(at_cursor(self.progress, self.cursor))
            self.progress = None

    def _finish_page(self, rendered: Rendered) -> None:
        changes = rendered.changes
        if self.cursor < changes.sequence:
            self._lagging = True
            return
        self.ended = changes.state in TERMINAL
        if changes.progress_count > (self.progress_count or 0):
            # Resumed at the end, a watch goes straight to the Terminal, which has it too: else a
            # client that is cut off after each message would never get there.
            if not (self.ended and self.progress_count is None):
                self.progress = rendered.progress()
            self.progress_count = changes.progress_count

    def vanish(self) -> None:
        """See Watcher."""
        self._vanished = True
        self.wake()

    def drain(self) -> None:
        """See Watcher."""
        self._draining = True
        self.wake()


class RevisionWaiter(Waker):
    """Waits until a job has a revision larger than one that is known: a long-poll."""

    def __init__(self, cursor: int, after_revision: int) -> None:
        super().__init__()
        self.cursor = cursor
        self.done = False
        self._after = after_revision

    def offer(self, rendered: Rendered) -> bool:
        """See Watcher."""
        changes = rendered.changes
        self.cursor = changes.sequence
        if changes.sequence + changes.progress_count > self._after:
            self.drain()
        return True

    def vanish(self) -> None:
        """See Watcher."""
        self.drain()

    def drain(self) -> None:
        """See Watcher. The poll is answered with what there is."""
        self.done = True
        self.wake()


def at_cursor(message: WatchProgressResponse, cursor: int) -> WatchProgressResponse:
    """The message with the newest cursor: one sent late must not set a client back."""
    if message.sequence == cursor:
        return message
    copy = WatchProgressResponse()
    copy.CopyFrom(message)
    copy.sequence = cursor
    return copy
