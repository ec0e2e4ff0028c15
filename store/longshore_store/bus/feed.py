"""Feed: reads what commits changed of jobs that other processes watch, and has it published."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import islice

from longshore_store.bus.interests import Interests
from longshore_store.bus.outbox import Outbox
from longshore_store.bus.wire import encode_changes
from longshore_store.model import JobChanges, StoreUnavailable
from longshore_store.store import Store
from longshore_store.telling import without_values

_log = logging.getLogger(__name__)

JOBS_A_READ = 500
PACE = 0.005
RECENT = 0.25
RECENT_IDS = 20_000


class Feed:
    """One read after the other; while one is on its way, the jobs of the next one gather.

    A job whose watcher was not heard of yet when it changed is found among the recent commits
    once he is, else the first changes of a short job would be missed between his own first read
    and his message.

    Args:
        told: called when there is something in the outbox.
    """

    def __init__(
        self, store: Store, interests: Interests, outbox: Outbox, told: Callable[[], None]
    ) -> None:
        self._store = store
        self._interests = interests
        self._outbox = outbox
        self._told = told
        self._due: dict[str, None] = {}
        self._new: set[str] = set()
        self._recent: deque[tuple[float, Collection[str]]] = deque()
        self._recent_ids = 0
        self._wake = asyncio.Event()

    def committed(self, job_ids: Collection[str], now: float) -> None:
        """A commit of this process changed these jobs. now: seconds by the loop's clock."""
        self._remember(job_ids, now)
        if watched := self._interests.among(job_ids):
            self._due.update(dict.fromkeys(watched))
            self._wake.set()

    def watched(self, cursors: Mapping[str, int]) -> None:
        """Another process watches these jobs."""
        self._new.update(self._interests.note(cursors))
        if self._new:
            self._wake.set()

    def clear(self) -> None:
        """Nobody can be told."""
        self._due.clear()
        self._new.clear()
        self._recent.clear()
        self._recent_ids = 0

    async def run(self) -> None:
        """Reads and hands over, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._due:
                await self._wake.wait()
            self._wake.clear()
            begun = loop.time()
            self._look_back(begun)
            try:
                await self._turn()
            except (StoreUnavailable, TimeoutError):
                self._due.clear()  # those who watch poll, and are told so by the same store
            except Exception as error:  # noqa: BLE001  # the feed must outlive a surprise
                _log.error("changes could not be read for the bus: %s", without_values(error))
                self._due.clear()
            # Not more often than this, or a busy job would be read after each of its commits.
            await asyncio.sleep(begun + PACE - loop.time())

    def _remember(self, job_ids: Collection[str], now: float) -> None:
        self._recent.append((now, job_ids))
        self._recent_ids += len(job_ids)
        while self._recent_ids > RECENT_IDS or self._recent[0][0] < now - RECENT:
            self._recent_ids -= len(self._recent.popleft()[1])
            if not self._recent:
                return

    def _look_back(self, now: float) -> None:
        if self._new:
            for when, job_ids in self._recent:
                if when >= now - RECENT:
                    self._due.update(dict.fromkeys(self._new.intersection(job_ids)))
            self._new = set()

    async def _turn(self) -> None:
        job_ids = list(islice(self._due, JOBS_A_READ))
        for job_id in job_ids:
            del self._due[job_id]
        cursors = self._interests.cursors(job_ids)
        if not cursors:
            return
        for changes in await self._store.read_changes(cursors):
            self._hand_over(changes, cursors[changes.job_id])
        self._told()

    def _hand_over(self, changes: JobChanges, cursor: int) -> None:
        if changes.sequence < cursor:  # whoever said so knows more than the store: not ours to mend
            self._outbox.doubt(changes.job_id)
            return
        self._outbox.news(changes.job_id, encode_changes(changes))
        newest = changes.events[-1].sequence if changes.events else changes.sequence
        self._interests.advance(changes.job_id, newest)
        if newest < changes.sequence:
            self._due[changes.job_id] = None
