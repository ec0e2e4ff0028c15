"""What workers report, turned into transitions of the store: many reports, few writes."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.wire import (
    UNKNOWN_TASK,
    Checkpointed,
    Failed,
    Failure,
    Logged,
    PollReply,
    Progressed,
    Report,
    Returned,
    Started,
    Succeeded,
)
from longshore_scheduler.policy import (
    DeadLetter,
    Demote,
    Expire,
    Fail,
    Release,
    Retry,
    consequence,
)
from longshore_scheduler.roster import Held, Told, Worker
from longshore_scheduler.specs import read_spec
from longshore_scheduler.term import Term
from longshore_scheduler.time_limits import overflow_of
from longshore_store.failure import FailureRecord
from longshore_store.model import (
    Attempted,
    CheckpointUpdate,
    Completion,
    LogUpdate,
    ProgressUpdate,
    Setback,
    Start,
)

Write = Callable[[int, Sequence[Any]], Awaitable[list[str] | None]]

RETURNED = Failure(FailureClass.PREEMPTED, 10, "RETURNED", "given back before it began")


@dataclass(slots=True)
class Batch:
    """The writes that a reply leads to. Setbacks are sorted by what follows them.

    starts: with what turns the worker's clock into the store's; most become part of an outcome.
    strays: attempts that the worker runs although they are not its own any more.
    ignored: some of it was about attempts that this leader does not wait for.
    """

    starts: dict[str, tuple[Started, float]] = field(default_factory=dict)
    progress: list[ProgressUpdate] = field(default_factory=list)
    logs: list[LogUpdate] = field(default_factory=list)
    checkpoints: list[CheckpointUpdate] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    setbacks: defaultdict[type, list[Setback]] = field(default_factory=lambda: defaultdict(list))
    cancelled: list[Attempted] = field(default_factory=list)
    ended: dict[str, Held] = field(default_factory=dict)
    strays: set[Attempted] = field(default_factory=set)
    ignored: bool = False


class Absorber:
    """Reads the reports of one reply, in order, into a batch; then writes the batch."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self._readers: dict[type, Callable[[Batch, Held, Any, float, int], None]] = {
            Succeeded: self._succeeded,
            Started: self._started,
            Progressed: self._progressed,
            Logged: self._logged,
            Checkpointed: self._checkpointed,
            Failed: self._failed,
            Returned: self._returned,
        }

    async def absorb(self, worker: Worker, reply: PollReply) -> Batch:
        """Writes all that the reply says; when it returns, the reply may be acknowledged.

        What is ignored here may be about attempts of the next leader, which waits for it: then
        this one was replaced, must not acknowledge it, and would not learn so from its writes.

        Raises:
            Fenced: the term is over.
        """
        batch = self.read(reply)
        if batch.ended and self._term.backlog:
            self._term.wake.set()
        await self.write(batch)
        if batch.ignored:
            await self._term.confirm()
        return batch

    def read(self, reply: PollReply) -> Batch:
        """Sorts the reports and frees the room of attempts that ended."""
        batch = Batch()
        # Both clocks are read now: what the reply's way took makes times late by as much.
        offset = self._term.store.now_us() / 1e6 - reply.now
        ran: dict[str, list[float]] = {}
        find, readers = self._term.roster.find, self._readers
        for number, report in enumerate(reply.reports, reply.last - len(reply.reports) + 1):
            held = find(report.job_id, report.fence)
            if held is None:
                self._stray(batch, report)
                continue
            readers[type(report)](batch, held, report, offset, number)
            if held.settled:
                seconds = getattr(report, "seconds", None)
                if seconds is not None:
                    total = ran.setdefault(held.task, [0.0, 0])
                    total[0] += seconds
                    total[1] += 1
        for task, (seconds, count) in ran.items():
            self._term.run_times.observe(task, seconds, int(count))
        return batch

    def _started(self, batch: Batch, held: Held, report: Started, offset: float, _: int) -> None:
        held.started_at = self._term.clock()
        batch.starts[held.job_id] = (report, offset)
        if held.told is Told.RECALL:  # it began all the same
            held.told = Told.NOTHING
            self._term.chores.set()

    def _progressed(self, batch: Batch, held: Held, report: Progressed, _: float, __: int) -> None:
        batch.progress.append(ProgressUpdate(held.job_id, held.fence, report.body))

    def _logged(self, batch: Batch, held: Held, report: Logged, _: float, number: int) -> None:
        body = json.dumps({"lines": report.lines, "dropped": report.dropped})
        batch.logs.append(LogUpdate(held.job_id, held.fence, number, body))

    def _checkpointed(
        self, batch: Batch, held: Held, report: Checkpointed, _: float, __: int
    ) -> None:
        held.checkpointed = True
        batch.checkpoints.append(CheckpointUpdate(held.job_id, held.fence, report.value))

    def _succeeded(
        self, batch: Batch, held: Held, report: Succeeded, offset: float, _: int
    ) -> None:
        started_us = int((report.at - report.seconds + offset) * 1e6)
        artifacts = "[]"
        if report.artifacts:
            artifacts = json.dumps([ref._asdict() for ref in report.artifacts])
        done = Completion(held.job_id, held.fence, started_us, report.value, artifacts)
        batch.completions.append(done)
        self._end(batch, held)

    def _failed(self, batch: Batch, held: Held, report: Failed, offset: float, _: int) -> None:
        started_us = None
        if report.seconds is not None:
            started_us = int((report.at - report.seconds + offset) * 1e6)
        self._end(batch, held)
        if report.failure.reason == UNKNOWN_TASK and held.worker is not None:
            held.worker.lacks |= {held.task}
        if report.failure.failure_class is FailureClass.CANCELLED and held.told >= Told.CANCEL:
            batch.cancelled.append(Attempted(held.job_id, held.fence))
            return
        self.set_back(batch, held, report.failure, started_us)

    def _returned(self, batch: Batch, held: Held, _: Returned, *__: object) -> None:
        self._end(batch, held)
        self.set_back(batch, held, RETURNED, None)

    def _end(self, batch: Batch, held: Held) -> None:
        self._term.roster.settle(held)
        batch.ended[held.job_id] = held

    def set_back(
        self, batch: Batch, held: Held, failure: Failure, started_us: int | None, *, beside: int = 0
    ) -> None:
        """Decides what follows a failure and adds it to the batch.

        beside: how many other attempts were on a worker that was lost with it.
        """
        term, facts = self._term, read_spec(held.spec)
        decided = consequence(
            failure,
            held.counters(),
            facts.retry,
            term.limits,
            now_us=term.store.now_us(),
            total_deadline_us=held.total_deadline_us,
            needs=held.needs_json,
            ceiling=term.ceiling(held.needs),
            beside=beside,
            checkpointed=held.checkpointed,
            overflow=overflow_of(facts.attempt_timeout, term.queues.get(held.queue)),
            random=term.chance,
        )
        retry = decided if isinstance(decided, Retry) else None
        queue = decided.queue if isinstance(decided, Demote) else None
        if queue is not None:
            failure = demoted(failure, queue)
        batch.ended[held.job_id] = held
        setback = Setback(
            held.job_id,
            held.fence,
            failure.failure_class,
            failure.reason,
            FailureRecord(*failure).to_json(),
            started_us,
            retry.due_us if retry else None,
            retry.needs_json if retry else None,
            queue,
        )
        batch.setbacks[type(decided)].append(setback)
        term.journal.attempt_ended(held, setback, decided)

    def _stray(self, batch: Batch, report: Report) -> None:
        batch.ignored = True
        held = self._term.roster.held.get(report.job_id)
        repeated = held is not None and held.fence == report.fence
        if not repeated and isinstance(report, Started | Progressed | Logged | Checkpointed):
            batch.strays.add(Attempted(report.job_id, report.fence))

    async def write(self, batch: Batch) -> None:
        """Stage by stage: what needs the lease first, then what gives it up, then cancels."""
        store, setbacks = self._term.store, batch.setbacks
        await self._together((store.start_attempts, _separate_starts(batch)))
        await self._together(
            (store.record_progress, batch.progress),
            (store.record_logs, batch.logs),
            (store.save_checkpoints, batch.checkpoints),
        )
        stale = await self._together(
            (store.complete_attempts, batch.completions),
            (store.fail_attempts, setbacks[Fail]),
            (store.retry_attempts, setbacks[Retry]),
            (store.dead_letter_attempts, setbacks[DeadLetter]),
            (store.release_attempts, setbacks[Release]),
            (store.demote_attempts, setbacks[Demote]),
            (store.expire_attempts, setbacks[Expire]),
        )
        await self._confirm(batch, stale)
        self._term.roster.drop(batch.ended.values())
        if setbacks[Release] or setbacks[Demote]:
            self._term.wake.set()
        if setbacks[Retry]:
            self._term.chores.set()

    async def _together(self, *writes: tuple[Write, Sequence[Any]]) -> list[str]:
        """All at once, so that they share a commit. Returns what was stale in any of them."""
        if not any(rows for _, rows in writes):
            return []
        due = [self._term.persist(write, rows) for write, rows in writes if rows]
        if len(due) == 1:
            return await due[0]
        answers = await asyncio.gather(*due)
        return [job_id for answer in answers for job_id in answer]

    async def _confirm(self, batch: Batch, stale: list[str]) -> None:
        """An attempt of a CANCELLING job has ended, however it did: the job is CANCELLED."""
        ended = [Attempted(i, batch.ended[i].fence) for i in stale] + batch.cancelled
        await self._term.persist(self._term.store.confirm_cancels, ended)


def demoted(failure: Failure, queue: str) -> Failure:
    """What is told of an attempt that timed out, and whose job goes on in another queue."""
    return failure._replace(
        failure_class=FailureClass.DEMOTED,
        reason="DEMOTED",
        message=f"{failure.message}; the job goes on in queue {queue}",
        metadata=(*failure.metadata, ("queue", queue)),
    )


def _separate_starts(batch: Batch) -> list[Start]:
    """The starts that must be written by themselves.

    An outcome carries its own start, which saves a write and an event round; but not the
    devices, and events between the two must come after the start.
    """
    events = {update.job_id for update in batch.logs}
    return [
        _to_start(report, offset)
        for job_id, (report, offset) in batch.starts.items()
        if job_id not in batch.ended or job_id in events or report.devices
    ]


def _to_start(report: Started, offset: float) -> Start:
    devices = json.dumps(report.devices) if report.devices else "[]"
    return Start(report.job_id, report.fence, int((report.at + offset) * 1e6), devices)
