"""Outbox: what waits to be published. Bounded, never waited for; one round trip takes it all."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from itertools import islice
from typing import NamedTuple

from longshore_store.bus.wire import LONGEST, Channels, Encoder

WAKE_IDS = 500
WATCHES = 100_000
WATCHES_A_MESSAGE = 1000
NEWS = 20_000
NEWS_BYTES = 16 * 1024 * 1024
BYTES_A_TRIP = 4 * 1024 * 1024
DOUBTS = 10_000
_OVERHEAD = 256
_ROOM = LONGEST - _OVERHEAD


class Sending(NamedTuple):
    """A message on its way."""

    channel: str
    body: bytes


class Outbox:
    """Hints of one kind are merged while they wait, so that a slow Redis sees fewer, not more.

    dropped: hints that found no room or were cleared.
    """

    def __init__(self, channels: Channels, encoder: Encoder) -> None:
        self._channels = channels
        self._encoder = encoder
        self._wakes: set[str] = set()
        self._watches: dict[str, int] = {}
        self._news: deque[bytes] = deque()
        self._news_bytes = 0
        self._doubts: dict[str, None] = {}
        self._asks = False
        self.dropped = 0

    def __len__(self) -> int:
        return (
            len(self._wakes) + len(self._watches) + len(self._news) + len(self._doubts) + self._asks
        )

    @property
    def pending_bytes(self) -> int:
        """Of changes; the rest are bounded counts of ids."""
        return self._news_bytes

    def wake(self, job_ids: Collection[str]) -> None:
        """The scheduler is to look at these jobs.

        Of too many, the oldest and the newest are named: those that workers hold are old, and a
        cancel of one makes it look for all cancels; the newest wait to be placed.
        """
        self._wakes.update(_both_ends(job_ids))
        if len(self._wakes) > WAKE_IDS:
            self._wakes = set(_both_ends(self._wakes))

    def watch(self, cursors: Mapping[str, int]) -> None:
        """This process watches these jobs."""
        if len(self._watches) + len(cursors) > WATCHES:
            self.dropped += len(cursors)
        else:
            self._watches.update(cursors)

    def ask(self) -> None:
        """Others are to say what they watch."""
        self._asks = True

    def news(self, job_id: str, encoded: bytes) -> None:
        """Changes of one job. Too long ones are left to be read from the store."""
        if len(encoded) >= _ROOM:
            self.doubt(job_id)
            return
        self._news.append(encoded)
        self._news_bytes += len(encoded)
        # The oldest go: whoever misses them sees the gap at the next ones, and reads.
        while self._news_bytes > NEWS_BYTES or len(self._news) > NEWS:
            self._news_bytes -= len(self._news.popleft())
            self.dropped += 1

    def doubt(self, job_id: str) -> None:
        """Watchers of this job are to read the store."""
        if len(self._doubts) < DOUBTS:
            self._doubts[job_id] = None
        else:
            self.dropped += 1

    def clear(self) -> None:
        """Nobody is there to be told."""
        self.dropped += len(self)
        self._wakes.clear()
        self._watches.clear()
        self._news.clear()
        self._news_bytes = 0
        self._doubts.clear()
        self._asks = False

    def take(self) -> list[Sending]:
        """What goes with the next round trip: all of it, unless that would be very much."""
        found = []
        encoder, channels = self._encoder, self._channels
        if self._wakes:
            found.append(Sending(channels.wakes, encoder.wake(self._wakes)))
            self._wakes = set()
        if self._asks:
            found.append(Sending(channels.watches, encoder.ask()))
            self._asks = False
        if self._watches:
            found.append(Sending(channels.watches, encoder.watch(self._some_watches())))
        if self._doubts:
            found.append(Sending(channels.news, encoder.doubt(self._doubts)))
            self._doubts = {}
        return found + self._take_news()

    def _some_watches(self) -> dict[str, int]:
        some = dict(islice(self._watches.items(), WATCHES_A_MESSAGE))
        for job_id in some:
            del self._watches[job_id]
        return some

    def _take_news(self) -> list[Sending]:
        found: list[Sending] = []
        total = 0
        while self._news and total < BYTES_A_TRIP:
            page, size = [], 0
            while self._news and size + len(self._news[0]) < _ROOM:
                page.append(self._news.popleft())
                size += len(page[-1]) + 1
            self._news_bytes -= size - len(page)
            total += size
            found.append(Sending(self._channels.news, self._encoder.news(page)))
        return found


def _both_ends(job_ids: Collection[str]) -> Collection[str]:
    """Ids begin with the time they were made at; ANYTHING comes before them all."""
    if len(job_ids) <= WAKE_IDS:
        return job_ids
    in_order = sorted(job_ids)
    return in_order[: WAKE_IDS // 2] + in_order[-WAKE_IDS // 2 :]
