"""Attempts that a living worker does not have, although the store counts them as its own.

No path of ours leads there, but a database restored to an earlier moment does, and so does an
outcome that the store refused shortly before a leader change. Nobody would ever end them.
"""

from __future__ import annotations

import logging
import math

from longshore_scheduler.cluster import WorkerGone
from longshore_scheduler.crew import Crew
from longshore_scheduler.roster import Held, Worker
from longshore_scheduler.term import Term

_log = logging.getLogger(__name__)


class Forgotten:
    """A chore of the sweep: once a lease each worker is asked what it has of what is awaited.

    Only what is missing in two answers is released. Between them the worker was heard, and its
    outcomes come with the reports: one that was under way at the first answer is here by then.
    """

    def __init__(self, term: Term, crew: Crew) -> None:
        self._term = term
        self._crew = crew
        self._asked = -math.inf
        self._missing: dict[str, set[tuple[str, int]]] = {}

    def run_once(self, now: float) -> int:
        """Asks, if it is time; nobody waits for the answers. Returns how many workers it asked."""
        lease = self._term.settings.lease
        if now - self._asked < lease:
            return 0
        self._asked = now
        self._missing = {i: m for i, m in self._missing.items() if i in self._term.roster.workers}
        asked = 0
        for worker in self._term.roster:
            if awaited := worker.overdue(now - lease):
                self._term.spawn(self._ask(worker, awaited), f"ask {worker.id}")
                asked += 1
        return asked

    async def _ask(self, worker: Worker, awaited: list[Held]) -> None:
        try:
            answer = await self._term.cluster.held(worker.id)
        except (WorkerGone, TimeoutError):
            return
        missing = {(held.job_id, held.fence): held for held in awaited if held.fence}
        for job_id, fence, _ in answer:
            missing.pop((job_id, fence), None)
        before, self._missing[worker.id] = self._missing.get(worker.id, set()), set(missing)
        if worker.absorbing:
            return
        gone = [held for key, held in missing.items() if key in before and not held.settled]
        if gone:
            _log.warning("worker %s does not have %d of its attempts", worker.id, len(gone))
            await self._crew.forget(gone)
