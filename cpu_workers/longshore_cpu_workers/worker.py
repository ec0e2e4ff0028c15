"""The worker: takes attempts, runs them in runner processes, reports what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import time
from collections.abc import Iterable

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.attempt import Attempt
from longshore_cpu_workers.binding import Binding, NoDevices
from longshore_cpu_workers.endings import too_large
from longshore_cpu_workers.guardian import Guardian
from longshore_cpu_workers.outbox import Outbox
from longshore_cpu_workers.register import Register
from longshore_cpu_workers.settings import WorkerSettings
from longshore_cpu_workers.supervision import Supervision
from longshore_cpu_workers.wire import (
    PROTOCOL,
    Assignment,
    Cancel,
    Checkpointed,
    PollReply,
    WorkerInfo,
)

_log = logging.getLogger(__name__)
_TICK = 0.05
_LONGEST_WAIT = 60.0
_LONGEST_DRAIN = 10.0
_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class Worker:
    """Runs attempts within a capacity. Use it inside one running event loop.

    Every assignment ends in exactly one Succeeded, Failed or Returned report; so does every
    recall of an attempt that was never assigned.

    Args:
        settings: who it is and what it may use.
        binding: its devices; none where left out.
    """

    def __init__(self, settings: WorkerSettings, binding: Binding | None = None) -> None:
        self._settings = settings
        self._binding = binding or NoDevices()
        self._outbox = Outbox(self._acknowledged)
        self._register = Register(self._outbox)
        self._supervision: Supervision | None = None
        self._guardian = Guardian(settings.scratch, settings.abandon_after)
        self._heard = False
        self._polls = 0
        self._ticker: asyncio.Task[None] | None = None
        self._beater: asyncio.Task[None] | None = None
        self._stopped: asyncio.Task[None] | None = None
        self._ends_at = math.inf

    def start(self) -> None:
        """Warms the first runner; every other method does this too, when it is the first."""
        self._running()

    async def assign(self, batch: Iterable[Assignment]) -> None:
        """Takes attempts. One that is known already is left as it is: calls may be repeated.

        Raises:
            ValueError: the scheduler speaks another protocol, or a job id could not be a folder's
                name; nothing was taken.
        """
        batch = list(batch)
        for assignment in batch:
            if assignment.protocol != PROTOCOL:
                spoken = assignment.protocol
                raise ValueError(f"the scheduler speaks protocol {spoken}, not {PROTOCOL}")
            if not _SAFE_ID.fullmatch(assignment.job_id):
                name = assignment.job_id
                raise ValueError(f"job id {name!r} is not 1 to 128 of A-Z a-z 0-9 _ . -")
        supervision = self._running()
        for assignment in batch:
            if attempt := self._register.enter(assignment):
                self._admit(supervision, attempt)
        supervision.dispatcher.pump()

    async def poll(self, ack: int, wait: float) -> PollReply:
        """Forgets reports up to number `ack` and returns those after it.

        Waits up to `wait` seconds (at most 60) for the first; an empty reply is a heartbeat.

        Raises:
            ValueError: ack is the number of no report.
        """
        supervision = self._running()
        self._polls += 1
        try:
            reply = await self._outbox.poll(ack, min(max(wait, 0.0), _LONGEST_WAIT))
            aside = self._binding.set_aside()
            return reply._replace(outdated=supervision.outdated, set_aside=aside)
        finally:
            self._polls -= 1
            self._heard = True

    async def cancel(self, orders: Iterable[Cancel]) -> None:
        """Ends attempts as CANCELLED; unknown ones are ignored, their outcome was reported."""
        supervision = self._running()
        for order in orders:
            if attempt := self._register.get((order.job_id, order.fence)):
                grace = 0.0 if order.force else attempt.assignment.cancel_grace
                supervision.end(attempt, FailureClass.CANCELLED, grace)
        supervision.dispatcher.pump()

    async def recall(self, keys: Iterable[tuple[str, int]]) -> None:
        """Gives back those that have not begun, as Returned; the others go on.

        One that was never delivered is Returned too, and refused should it arrive after all. Of
        one that has ended its outcome was reported: nothing is added.
        """
        supervision = self._running()
        for key in keys:
            if attempt := self._register.get(key):
                supervision.recall(attempt)
            else:
                self._register.disown(key)

    async def stop(self, grace: float) -> None:
        """Ends the worker; when it returns no process of a runner is left.

        What has not begun is Returned. What runs is asked for a checkpoint at once and may
        finish within `grace` seconds, is then cancelled (10 s at most), then killed, and
        reported as Failed, class DRAINED. `poll` goes on working, for the reports that are
        left. Calling it again waits for the same end; the shortest grace counts.
        """
        supervision = self._running()
        ends_at = time.monotonic() + max(grace, 0.0)
        if ends_at < self._ends_at:
            self._ends_at = ends_at
            supervision.drain(ends_at)
            supervision.changed.set()
        if self._stopped is None:
            self._stopped = asyncio.create_task(self._stop(supervision))
        await asyncio.shield(self._stopped)

    async def close(self) -> None:
        """Sends the guardian away: for a stopped worker in a process that goes on without it."""
        if self._beater is not None:
            self._beater.cancel()
        await self._guardian.dismiss()

    async def info(self) -> WorkerInfo:
        """Who this worker is and what it offers. Waits until its first runner has loaded the tasks.

        Raises:
            RunnersFail: no runner comes up.
        """
        build = await self._running().identity()
        s = self._settings
        return WorkerInfo(
            s.worker_id,
            s.pool,
            s.node,
            os.getpid(),
            s.capacity,
            self._binding.devices(),
            PROTOCOL,
            build.id,
            build.description,
            s.made_for,
            frozenset(build.tasks),
        )

    async def held(self) -> list[tuple[str, int, str]]:
        """What it has: job id, fence and the name of the stage, of attempts that have not ended."""
        return [(*attempt.key, attempt.stage.name) for attempt in self._register]

    def _running(self) -> Supervision:
        if self._supervision is None:
            settings, binding = self._settings, self._binding
            settings.scratch.mkdir(parents=True, exist_ok=True)
            self._supervision = Supervision(
                settings, binding, self._guardian.token, self._outbox, self._register
            )
            self._supervision.fleet.keep_spare()
            self._ticker = asyncio.create_task(self._tick(self._supervision))
            self._beater = asyncio.create_task(self._beat())
        return self._supervision

    def _admit(self, supervision: Supervision, attempt: Attempt) -> None:
        needs = attempt.assignment.needs
        if supervision.closing or len(self._register) > self._settings.max_assigned:
            self._register.give_back(attempt)
        elif not supervision.dispatcher.capacity.possible(needs):
            if self._binding.set_aside():  # the scheduler does not know yet
                self._register.give_back(attempt)
                return
            failure = too_large(str(needs), str(self._settings.capacity))
            self._register.fail(attempt, failure)
        else:
            supervision.dispatcher.backlog.push(attempt)

    def _acknowledged(self, report: Checkpointed) -> None:
        assert self._supervision is not None
        self._supervision.checkpoint_acknowledged(report)

    async def _tick(self, supervision: Supervision) -> None:
        while True:
            await asyncio.sleep(_TICK)
            try:
                supervision.tick(time.monotonic())
            except Exception:  # noqa: BLE001 - without ticks no deadline is ever enforced again
                _log.exception("a tick failed; the next one goes on")

    async def _beat(self) -> None:
        """Tells the guardian, while some scheduler asks for this worker."""
        while True:
            await asyncio.sleep(self._guardian.period)
            self._guardian.revive()
            if self._polls or self._heard:
                self._heard = False
                self._guardian.beat()

    async def _stop(self, supervision: Supervision) -> None:
        await self._all_ended(supervision, in_time=True)
        for attempt in self._register:
            cancel_grace = min(attempt.assignment.cancel_grace, _LONGEST_DRAIN)
            supervision.end(attempt, FailureClass.DRAINED, cancel_grace)
        await self._all_ended(supervision)
        await supervision.close()
        if self._ticker is not None:
            self._ticker.cancel()

    async def _all_ended(self, supervision: Supervision, *, in_time: bool = False) -> None:
        """Until the grace is over where `in_time`; else bounded by the kills of `tick`."""
        while len(self._register):
            left = self._ends_at - time.monotonic() if in_time else None
            if left is not None and left <= 0:
                return
            supervision.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(supervision.changed.wait(), left)
