"""The store in plain Python: the diagram of DESIGN §4 and nothing of SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from longshore.sdk.failures import FailureClass
from longshore_store.states import JobState as S
from tests.store.recount import COUNTER_OF

WAITING = {S.SCHEDULED, S.QUEUED, S.RETRYING}
HELD = {S.LEASED, S.RUNNING}
ENDED = {S.SUCCEEDED, S.FAILED, S.CANCELLED, S.EXPIRED, S.DEAD_LETTERED}
ENDINGS = {
    "complete_attempts": S.SUCCEEDED,
    "fail_attempts": S.FAILED,
    "retry_attempts": S.RETRYING,
    "dead_letter_attempts": S.DEAD_LETTERED,
    "release_attempts": S.QUEUED,
    "demote_attempts": S.QUEUED,
    "expire_attempts": S.EXPIRED,
}
RECALLS = {FailureClass.DRAINED, FailureClass.PREEMPTED}


@dataclass
class ModelJob:
    """A job, as the diagram sees it."""

    id: str
    tenant: str
    priority: int
    state: S
    ready: int
    due: int | None
    expire: int | None
    total_timeout: int | None
    total_deadline: int | None
    queue: str = "fast"
    fence: int = 0
    number: int = 0
    run: int = 1
    events: list[tuple[S, S]] = field(default_factory=list)
    logs: int = 0
    progress: int = 0
    attempts: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    force: bool = False

    @property
    def sequence(self) -> int:
        return 1 + len(self.events) + self.logs

    def go(self, target: S) -> None:
        self.events.append((self.state, target))
        self.state = target

    def begin(self) -> None:
        """Task code runs, so the deadline of the queue is met."""
        self.go(S.RUNNING)
        self.expire = self.total_deadline


class Model:
    """Jobs by id, and the calls of the store with their answers."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.jobs: dict[str, ModelJob] = {}
        self.drained = 0

    def submit(
        self, job_id: str, tenant: str, priority: int, due: int | None,
        queue_timeout: int | None, total_timeout: int | None,
    ) -> S:  # fmt: skip
        state = S.SCHEDULED if due is not None and due > self.now else S.QUEUED
        spans = [t for t in (queue_timeout, total_timeout) if t is not None]
        self.jobs[job_id] = ModelJob(
            job_id, tenant, priority, state, self.now, due,
            expire=self.now + min(spans) if spans else None,
            total_timeout=total_timeout,
            total_deadline=None if total_timeout is None else self.now + total_timeout,
        )  # fmt: skip
        return state

    def _each(
        self, rows: Iterable[tuple[str, int]], sources: set[S], edge: Callable[[ModelJob], None]
    ) -> list[str]:
        """Applies an edge to those in its sources and under their fence; returns the stale."""
        rows = list(rows)
        good = {
            (job_id, fence)
            for job_id, fence in rows
            if (job := self.jobs.get(job_id)) and job.state in sources and job.fence == fence
        }
        for job_id, _ in good:
            edge(self.jobs[job_id])
        return [row[0] for row in rows if row not in good]

    def lease(self, rows: Sequence[tuple[str, int]]) -> dict[str, int]:
        def edge(job: ModelJob) -> None:
            job.go(S.LEASED)
            job.fence += 1
            job.number += 1
            self.drained += 1

        stale = self._each(rows, {S.QUEUED}, edge)
        return {job_id: fence + 1 for job_id, fence in rows if job_id not in stale}

    def start(self, rows: Sequence[tuple[str, int]]) -> list[str]:
        return self._each(rows, {S.LEASED}, ModelJob.begin)

    def end(
        self, method: str, rows: Sequence[tuple[str, int]], failure: FailureClass, *,
        started: bool, due: int, queue: str,
    ) -> list[str]:  # fmt: skip
        def edge(job: ModelJob) -> None:
            leased = job.state == S.LEASED
            if started and leased:
                job.begin()
            elif started:
                job.expire = job.total_deadline
            target = ENDINGS[method]
            job.go(target)
            if target == S.SUCCEEDED:
                return
            job.due = due if target == S.RETRYING else job.due
            job.queue = queue if method == "demote_attempts" else job.queue
            if counter := COUNTER_OF.get(failure):
                job.counts[counter] += 1
            if leased and not started and failure in RECALLS:
                job.number -= 1
            else:
                job.attempts.append(job.fence)

        return self._each(rows, HELD, edge)

    def confirm(self, rows: Sequence[tuple[str, int]]) -> list[str]:
        def edge(job: ModelJob) -> None:
            job.go(S.CANCELLED)
            job.attempts.append(job.fence)

        return self._each(rows, {S.CANCELLING}, edge)

    def cancel(self, ids: Sequence[str], force: bool) -> list[str]:
        touched = set()
        for job in (self.jobs[i] for i in dict.fromkeys(ids) if i in self.jobs):
            if job.state in WAITING | HELD:
                job.go(S.CANCELLED if job.state in WAITING else S.CANCELLING)
                job.force = force and job.state == S.CANCELLING
                touched.add(job.id)
            elif job.state == S.CANCELLING:
                job.force = job.force or force
        return [i for i in ids if i not in touched]

    def retry(self, ids: Sequence[str]) -> list[str]:
        again = {i for i in ids if i in self.jobs and self.jobs[i].state in ENDED}
        for job in (self.jobs[i] for i in again):
            if job.state == S.SUCCEEDED:
                job.attempts.append(job.fence)
            job.go(S.QUEUED)
            job.run += 1
            job.counts.clear()
            job.ready, job.due, job.force = self.now, None, False
            span = job.total_timeout
            job.expire = job.total_deadline = None if span is None else self.now + span
        return [i for i in ids if i not in again]

    def dead(self, tenant: str) -> list[str]:
        found = (j for j in self.jobs.values() if j.state == S.DEAD_LETTERED)
        return sorted(j.id for j in found if j.tenant == tenant)

    def forget(self, ids: Sequence[str]) -> None:
        for job_id in ids:
            del self.jobs[job_id]

    def due_jobs(self) -> list[ModelJob]:
        found = [
            j for j in self.jobs.values()
            if j.state in (S.SCHEDULED, S.RETRYING) and j.due is not None and j.due <= self.now
        ]  # fmt: skip
        return sorted(found, key=lambda j: j.due or 0)

    def promote(self) -> int:
        found = self.due_jobs()
        for job in found:
            job.go(S.QUEUED)
            job.ready, job.due = self.now, None
        return len(found)

    def expire(self) -> int:
        found = [
            j for j in self.jobs.values()
            if j.state in WAITING and j.expire is not None and j.expire <= self.now
        ]  # fmt: skip
        for job in found:
            job.go(S.EXPIRED)
        return len(found)

    def report(self, job_id: str, fence: int, *, log: bool) -> None:
        job = self.jobs[job_id]
        if job.fence == fence and job.state in HELD | {S.CANCELLING}:
            job.logs += log
            job.progress += not log

    # -- what readers must see

    def waiting(self, queue: str) -> Counter[str]:
        """How many jobs of each tenant."""
        found = (j for j in self.jobs.values() if j.state in WAITING and j.queue == queue)
        return Counter(j.tenant for j in found)

    def active(self) -> list[ModelJob]:
        return [j for j in self.jobs.values() if j.state in HELD | {S.CANCELLING}]

    def heads(self, queue: str, tenant: str) -> list[tuple[str, int]]:
        ready = (j for j in self.jobs.values() if j.state == S.QUEUED)
        found = [j for j in ready if (j.queue, j.tenant) == (queue, tenant)]
        return [(j.id, j.fence) for j in sorted(found, key=lambda j: (-j.priority, j.ready, j.id))]

    def next_due(self) -> int | None:
        times = [j.due for j in self.jobs.values() if j.state in (S.SCHEDULED, S.RETRYING)]
        times += [j.expire for j in self.jobs.values() if j.state in WAITING]
        return min((t for t in times if t is not None), default=None)
