"""Random calls, legal and illegal, with good and stale fences, against the plain model."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from longshore.sdk.failures import FailureClass
from longshore_store.model import (
    Attempted,
    JobQuery,
    Lane,
    Lease,
    LogUpdate,
    ProgressUpdate,
    Start,
)
from longshore_store.redrive_records import DeadLetters, RedriveRecord, RedriveState
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from longshore_store.topology_records import QueueDeclaration
from tests.store.factory import (
    SECOND,
    Attempt,
    FakeClock,
    completion,
    new_id,
    new_job,
    next_line,
    setback,
)
from tests.store.model import ENDED, ENDINGS, Model
from tests.store.places import Files, Place, Postgres

T = TypeVar("T")
QUEUES = ("fast", "slow")
TENANTS = ("a", "b")
PICKS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from([0, 0, 0, 0, -1, 1])), min_size=1, max_size=5
)
SPANS = st.sampled_from([None, None, 5 * SECOND, 20 * SECOND])
CLASSES = st.sampled_from(sorted(set(FailureClass) - {FailureClass.CANCELLED}))
some_jobs = precondition(lambda machine: bool(machine.model.jobs))


class StoreMachine(RuleBasedStateMachine):
    """Drives a store on a loop of its own."""

    async def place(self) -> Place:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.model = Model(self.clock())
        self.database = self.run(self.place())
        self.store: SqlStore = self.run(self.database.open(self.clock))
        declared = [QueueDeclaration(queue, 0, None, "") for queue in QUEUES]
        self.run(self.store.declare_queues(declared))
        self.term: int = self.run(self.store.lead("machine", 10**15)) or 0
        self.paused = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.database.__aexit__(None, None, None))
        self.loop.close()

    def picked(self, picks: list[tuple[int, int]]) -> list[tuple[str, int]]:
        """Jobs with their fence, give or take one."""
        known = list(self.model.jobs.values())
        chosen = [(known[i % len(known)], delta) for i, delta in picks]
        return [(job.id, job.fence + delta) for job, delta in chosen]

    # -- calls

    @rule(
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from([0, 50, 100]),
        delay=SPANS,
        queue_timeout=SPANS,
        total_timeout=SPANS,
    )
    def submit(
        self, tenant: str, priority: int, delay: int | None, queue_timeout: int | None,
        total_timeout: int | None,
    ) -> None:  # fmt: skip
        due = None if delay is None else self.clock() + delay
        job = new_job(
            tenant=tenant, priority=priority, due_us=due, queue_timeout_us=queue_timeout,
            total_timeout_us=total_timeout,
        )  # fmt: skip
        [answer] = self.run(self.store.submit_jobs([job]))
        state = self.model.submit(job.id, tenant, priority, due, queue_timeout, total_timeout)
        assert (answer.job_id, answer.created, answer.state) == (job.id, True, state)

    @rule(seconds=st.sampled_from([0, 1, 5, 30]))
    def wait(self, seconds: int) -> None:
        self.model.now = self.clock.advance(seconds * SECOND)

    @some_jobs
    @rule(picks=PICKS)
    def lease(self, picks: list[tuple[int, int]]) -> None:
        rows = list(dict(self.picked(picks)).items())
        leases = [Lease(job_id, fence, "w1") for job_id, fence in rows]
        granted = self.run(self.store.lease_jobs(self.term, leases))
        assert {g.id: g.fence for g in granted} == self.model.lease(rows)
        for g in granted:
            counts = self.model.jobs[g.id].counts
            assert (g.attempts, g.crashes) == (counts["attempts"], counts["crashes"])
            assert (g.ooms, g.interruptions) == (counts["ooms"], counts["interruptions"])

    @some_jobs
    @rule(picks=PICKS)
    def start(self, picks: list[tuple[int, int]]) -> None:
        rows = self.picked(picks)
        starts = [Start(*row, self.clock()) for row in rows]
        assert self.run(self.store.start_attempts(self.term, starts)) == self.model.start(rows)

    @some_jobs
    @rule(
        picks=PICKS, method=st.sampled_from(sorted(ENDINGS)), failure=CLASSES,
        started=st.booleans(), queue=st.sampled_from(QUEUES),
    )  # fmt: skip
    def end(
        self, picks: list[tuple[int, int]], method: str, failure: FailureClass, started: bool,
        queue: str,
    ) -> None:  # fmt: skip
        rows = self.picked(picks)
        due = self.clock() + 10 * SECOND
        if method == "complete_attempts":
            started, reports = True, [completion(Attempt(*row), self.clock()) for row in rows]
        else:
            time = self.clock() if started else None
            values = {"started_us": time, "due_us": due, "queue": queue}
            reports = [setback(Attempt(*row), failure, **values) for row in rows]  # type: ignore[misc]  # two kinds of report
        stale = self.run(getattr(self.store, method)(self.term, reports))
        told = self.model.end(method, rows, failure, started=started, due=due, queue=queue)
        assert stale == told

    @some_jobs
    @rule(picks=PICKS)
    def confirm(self, picks: list[tuple[int, int]]) -> None:
        rows = self.picked(picks)
        stale = self.run(self.store.confirm_cancels(self.term, [Attempted(*row) for row in rows]))
        assert stale == self.model.confirm(rows)

    @some_jobs
    @rule(picks=PICKS, force=st.booleans())
    def cancel(self, picks: list[tuple[int, int]], force: bool) -> None:
        ids = [*(row[0] for row in self.picked(picks)), "no-such-job"]
        assert self.run(self.store.cancel_jobs(ids, "", force)) == self.model.cancel(ids, force)

    @some_jobs
    @rule(picks=PICKS)
    def retry(self, picks: list[tuple[int, int]]) -> None:
        ids = [row[0] for row in self.picked(picks)]
        assert self.run(self.store.retry_jobs(ids, "")) == self.model.retry(ids)

    @some_jobs
    @rule(limit=st.integers(1, 3))
    def redrive(self, limit: int) -> None:
        """A step of a redrive of all there is."""
        tenant, dead = TENANTS[0], self.model.dead(TENANTS[0])
        redrive = RedriveRecord(
            new_id(), DeadLetters(tenant), 1000, 0, "", "", self.clock(), len(dead)
        )
        self.run(self.store.create_redrive(redrive))
        counts = self.run(self.store.count_dead_letters(redrive.letters))
        assert sum(counts.values()) == len(dead)
        step = self.run(self.store.advance_redrive(self.term, redrive.id, limit))
        assert step is not None
        assert self.model.retry(dead[:limit]) == []
        assert step.redriven == len(dead[:limit])
        assert (step.state == RedriveState.COMPLETED) == (len(dead) <= limit)

    @some_jobs
    @rule(limit=st.integers(1, 3))
    def purge(self, limit: int) -> None:
        dead = self.model.dead(TENANTS[1])
        letters = DeadLetters(TENANTS[1])
        purged = self.run(self.store.purge_dead_letters(letters, "", limit))
        assert purged.deleted == len(dead[:limit])
        assert (purged.after_id is None) == (len(dead) <= limit)
        self.model.forget(dead[:limit])

    @rule()
    def promote(self) -> None:
        assert self.run(self.store.promote_jobs(self.term, 1000)) == self.model.promote()

    @rule()
    def expire(self) -> None:
        assert self.run(self.store.expire_jobs(self.term, 1000)) == self.model.expire()

    @some_jobs
    @rule(picks=PICKS)
    def log(self, picks: list[tuple[int, int]]) -> None:
        rows = self.picked(picks)
        self.run(
            self.store.record_logs(self.term, [LogUpdate(*row, next_line(), "{}") for row in rows])
        )
        for row in rows:
            self.model.report(*row, log=True)

    @some_jobs
    @rule(pick=PICKS)
    def progress(self, pick: list[tuple[int, int]]) -> None:
        rows = self.picked(pick[:1])
        updates = [ProgressUpdate(*row, "{}") for row in rows]
        self.run(self.store.record_progress(self.term, updates))
        self.model.report(*rows[0], log=False)

    @rule()
    def pause_or_resume(self) -> None:
        self.paused = not self.paused
        if self.paused:
            self.run(self.store.pause_queue("fast", ""))
        else:
            self.run(self.store.resume_queue("fast"))

    # -- what must be true after each of them

    @invariant()
    def jobs_are_equal(self) -> None:
        found = self.run(self.store.list_jobs(JobQuery(limit=1000), full=True))
        assert {r.id for r in found} == set(self.model.jobs)
        for r in found:
            job = self.model.jobs[r.id]
            assert (r.state, r.fence, r.number, r.run) == (
                job.state,
                job.fence,
                job.number,
                job.run,
            )
            assert (r.sequence, r.progress_count) == (job.sequence, job.progress)
            assert (r.ended_us is not None) == (job.state in ENDED)
            current = job.state in (4, 5, 7, JobState.SUCCEEDED)
            assert [a.fence for a in r.attempts] == job.attempts + [job.fence] * current

    @invariant()
    def schedulers_see_what_waits(self) -> None:
        lanes = [Lane(q, t, n) for q in QUEUES for t, n in sorted(self.model.waiting(q).items())]
        found = self.run(self.store.waiting_lanes())
        assert found == [lane for lane in lanes if lane.queue == "slow" or not self.paused]
        heads = self.run(self.store.queue_heads([(lane, 3) for lane in lanes]))
        expected = [
            head for lane in lanes for head in self.model.heads(lane.queue, lane.tenant)[:3]
        ]
        assert [(h.id, h.fence) for h in heads] == expected
        assert self.run(self.store.next_due_us()) == self.model.next_due()

    @invariant()
    def schedulers_see_what_is_held(self) -> None:
        held = self.run(self.store.active_attempts())
        assert {(a.id, a.fence, a.number, a.state, a.queue) for a in held} == {
            (j.id, j.fence, j.number, j.state, j.queue) for j in self.model.active()
        }
        orders = self.run(self.store.cancel_orders())
        assert {(o.job_id, o.fence, o.force) for o in orders} == {
            (j.id, j.fence, j.force) for j in self.model.active() if j.state == JobState.CANCELLING
        }
        queues = self.run(self.store.list_queues())
        active = Counter(j.queue for j in self.model.active())
        assert [(q.name, q.waiting, q.active) for q in queues] == [
            (name, self.model.waiting(name).total(), active[name]) for name in QUEUES
        ]
        assert sum(q.drained for q in queues) == self.model.drained

    @invariant()
    def events_tell_the_story(self) -> None:
        found = self.run(self.store.read_changes(dict.fromkeys(self.model.jobs, 1)))
        for changes in found:
            told = [(e.from_state, e.to_state) for e in changes.events if e.kind == 1]
            assert told == self.model.jobs[changes.job_id].events


def short(examples: int) -> settings:
    return settings(max_examples=examples, stateful_step_count=35)


def test_random_calls_on_sqlite(files: Files) -> None:
    class SqliteMachine(StoreMachine):
        async def place(self) -> Place:
            self.folder = tempfile.mkdtemp(prefix="machine-")
            return files.make(Path(self.folder) / "store.db")

        def teardown(self) -> None:
            super().teardown()
            shutil.rmtree(self.folder)

    run_state_machine_as_test(SqliteMachine, settings=short(15))


def test_random_calls_on_postgres(postgres: Postgres) -> None:
    class PostgresMachine(StoreMachine):
        async def place(self) -> Place:
            return await postgres.empty("shared")

    run_state_machine_as_test(PostgresMachine, settings=short(5))
