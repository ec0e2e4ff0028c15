"""Redrives as a chore of the leader: dead letters are queued again at the rate that was asked for.

What a redrive has done is in the store, step by step. Only how much it may do now is known here:
a new leader begins without credit, so that a pause is never made up for by a flood.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from longshore_scheduler.term import Term
from longshore_store.redrive_records import Advanced, RedriveRecord, RedriveState

_log = logging.getLogger(__name__)

LOOK_EVERY_US = 1_000_000
"""Time between two looks for new redrives while none runs."""

STEP = 500
"""Jobs in one transaction."""

_JOB = 1_000_000_000
"""What one job costs: the rate is in thousandths of a job, time in microseconds."""


@dataclass(slots=True)
class _Credit:
    """What a redrive may spend on jobs now, and when that was reckoned."""

    amount: int
    at_us: int

    def earn(self, redrive: RedriveRecord, now_us: int, longest_us: int) -> None:
        """Adds what the rate gives for the time since; at most for `longest_us` is kept."""
        earned = self.amount + redrive.rate_milli * (now_us - self.at_us)
        self.amount = min(earned, max(_JOB, redrive.rate_milli * longest_us))
        self.at_us = now_us

    def take(self) -> int:
        """As many jobs as it is enough for, at most a step's."""
        count = min(self.amount // _JOB, STEP)
        self.amount -= count * _JOB
        return count

    def give_back(self, count: int) -> None:
        """Some of them were not there: they had moved on, or a step found none."""
        self.amount += count * _JOB


class Redriving:
    """Advances every redrive that runs; each sweep calls it. Time is the store's."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self._credits: dict[str, _Credit] = {}
        self._looked_us: int | None = None

    async def run_once(self) -> int:
        """Queues as many jobs of each as its rate allows since the last call; returns how many."""
        now_us = self._term.store.now_us()
        if not self._credits and not self._look_is_due(now_us):
            return 0
        self._looked_us = now_us
        running = await self._term.insist(self._term.store.running_redrives)
        for redrive in running:
            if redrive.id not in self._credits:
                what = "redrive %s of %d dead letters is under way"
                _log.info(what, redrive.id, redrive.total, extra={"redrive_id": redrive.id})
        self._credits = {r.id: self._credits.get(r.id) or _first(r, now_us) for r in running}
        redriven = 0
        for redrive in running:
            redriven += await self._advance(redrive, now_us)
        if redriven:
            self._term.wake.set()
        return redriven

    def _look_is_due(self, now_us: int) -> bool:
        return self._looked_us is None or now_us - self._looked_us >= LOOK_EVERY_US

    async def _advance(self, redrive: RedriveRecord, now_us: int) -> int:
        credit = self._credits[redrive.id]
        interval_us = round(self._term.settings.sweep_interval * 1e6)
        credit.earn(redrive, now_us, max(LOOK_EVERY_US, 2 * interval_us))
        total, count = 0, credit.take()
        if redrive.is_tripped:  # the step finds it so
            count = max(1, count)
        while count:
            step = await self._step(redrive.id, count)
            if step is not None and step.state is not RedriveState.RUNNING:
                self._tell_end(redrive, step, total)
            if step is None or step.state is not RedriveState.RUNNING:
                return total + (step.redriven if step else 0)
            total += step.redriven
            credit.give_back(count - step.redriven)
            count = credit.take()
        return total

    def _tell_end(self, redrive: RedriveRecord, step: Advanced, before: int) -> None:
        queued = redrive.redriven + before + step.redriven
        _log.log(
            logging.WARNING if redrive.failed else logging.INFO,
            "redrive %s has ended as %s: %d of %d dead letters were queued again; %d have failed",
            redrive.id,
            step.state.name,
            queued,
            redrive.total,
            redrive.failed,
            extra={"redrive_id": redrive.id},
        )

    async def _step(self, redrive_id: str, limit: int) -> Advanced | None:
        term = self._term
        return await term.insist(lambda: term.store.advance_redrive(term.number, redrive_id, limit))


def _first(redrive: RedriveRecord, now_us: int) -> _Credit:
    """A new redrive begins with its first job, however low the rate."""
    return _Credit(0 if redrive.redriven else _JOB, now_us)
