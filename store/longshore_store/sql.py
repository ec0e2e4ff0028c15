"""SqlStore: the Store on SQLite and on Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from longshore_store import model as m
from longshore_store.accepted_keys import AcceptedKeys
from longshore_store.attempts import AttemptWrites
from longshore_store.committer import Committer, Transaction, Write, unavailable
from longshore_store.dead_letters import DeadLetterReads, DeadLetterWrites
from longshore_store.declarations import Declarations, declaration_handlers
from longshore_store.dialects import Work, make_dialect
from longshore_store.dispatch import DispatchReads
from longshore_store.leadership import LeadershipWrites
from longshore_store.lifecycle import CancelWrites, ClockWrites, RerunWrites
from longshore_store.opening import open_database
from longshore_store.orders import CancelOrder
from longshore_store.reads import JobReads
from longshore_store.redrive_records import Advanced, DeadLetters, Purged, RedriveRecord
from longshore_store.redrives import RedriveReads, RedriveWrites
from longshore_store.store import Listener, Stale
from longshore_store.submit import SubmitWrites
from longshore_store.ticks import ticks_us
from longshore_store.topology import TopologyReads
from longshore_store.upkeep import Upkeep, upkeep_handlers

Handler = Callable[[Transaction, list[Write]], Any]
T = TypeVar("T")
READ_DEADLINE = 20.0
CLOCK_KEPT = 10.0
"""Seconds after which a process that writes asks a shared database for the time again."""


class SqlStore(Declarations, Upkeep):
    """The durable state, in one database.

    Args:
        url: sqlite:///PATH or postgresql://...
        clock: microseconds since the epoch; by default the database's time, carried on by this
            process's monotonic clock, so that a wall clock that jumps expires nothing.
        cluster: the deployment that the database has to be of; None does not look.
    """

    def __init__(
        self, url: str, *, clock: Callable[[], int] | None = None, cluster: str | None = None
    ) -> None:
        self._dialect = make_dialect(url)
        self._clock = clock
        self._cluster = cluster
        self._offset_us = 0
        self._clock_set_us = ticks_us()
        self._last_us = 0
        self._listeners: list[Listener] = []
        self._leadership = LeadershipWrites(self._dialect)
        self._handlers = self._make_handlers()
        self._jobs = JobReads(self._dialect)
        self._keys = AcceptedKeys(self._dialect)
        self._letters = DeadLetterReads(self._dialect, self._jobs)
        self._redrives = RedriveReads(self._dialect)
        self._dispatch = DispatchReads(self._dialect)
        self._topology = TopologyReads(self._dialect)
        self._committer: Committer | None = None
        self._closed = False

    def _make_handlers(self) -> dict[str, Handler]:
        """In the order in which a transaction applies them: reports before outcomes, so that
        the terminal event of a job is its last."""
        d = self._dialect
        attempts, letters, redrives = AttemptWrites(d), DeadLetterWrites(d), RedriveWrites(d)
        cancel, clock, rerun, submit = (
            CancelWrites(d),
            ClockWrites(d),
            RerunWrites(d),
            SubmitWrites(d),
        )
        return {
            "lead": self._leadership.lead,
            "resign": self._leadership.resign,
            "submit_jobs": submit.submit_jobs,
            "check_jobs": submit.check_jobs,
            "retry_jobs": rerun.retry_jobs,
            "cancel_jobs": cancel.cancel_jobs,
            "promote_jobs": clock.promote_jobs,
            "expire_jobs": clock.expire_jobs,
            "create_redrive": redrives.create_redrive,
            "stop_redrive": redrives.stop_redrive,
            "advance_redrive": redrives.advance_redrive,
            "lease_jobs": attempts.lease_jobs,
            "start_attempts": attempts.start_attempts,
            "record_progress": attempts.record,
            "record_logs": attempts.record,
            "save_checkpoints": attempts.record,
            "complete_attempts": attempts.complete_attempts,
            "fail_attempts": attempts.end_attempts,
            "retry_attempts": attempts.end_attempts,
            "dead_letter_attempts": attempts.end_attempts,
            "release_attempts": attempts.end_attempts,
            "demote_attempts": attempts.end_attempts,
            "expire_attempts": attempts.end_attempts,
            "confirm_cancels": attempts.confirm_cancels,
            "purge_dead_letters": letters.purge_dead_letters,
            **declaration_handlers(d),
            **upkeep_handlers(d),
        }

    # -- life

    async def open(self) -> None:
        """Takes the lock, connects, makes or checks the schema; within 10 s where the database
        is shared. After an error this store is of no use any more.

        Raises:
            StoreLocked: another process has this embedded database open.
            StoreMismatch: the schema or the cluster is another one's; nothing was touched.
            StoreUnavailable: the database cannot be reached, or not with these credentials.
        """
        self._dialect.lock()
        try:
            await open_database(self._dialect, self._cluster, self._leadership)
            self._offset_us = await self._read(self._dialect.clock_offset_us)
        except BaseException:
            await self._dialect.close()
            self._dialect.unlock()
            raise
        self._committer = Committer(self._dialect, self._apply, self.now_us, self._committed)

    async def close(self) -> None:
        """Commits what waits, then disconnects."""
        if self._committer is not None:
            await self._committer.close()
        self._closed = True
        await self._dialect.close()
        self._dialect.unlock()

    def now_us(self) -> int:
        """Microseconds since the epoch; never falls."""
        now = self._clock() if self._clock else ticks_us() + self._offset_us
        self._last_us = max(self._last_us, now)
        return self._last_us

    async def _set_clock(self, tx: Transaction, batch: list[Write]) -> None:
        """By the database's, now and then: two machines' clocks do not go alike, and what a slow
        one stamped too early would expire too early."""
        if self._clock is not None or self._dialect.exclusive:
            return
        leads = any(write.kind == "lead" for write in batch)
        if leads or ticks_us() - self._clock_set_us >= CLOCK_KEPT * 1_000_000:
            self._offset_us = await self._dialect.clock_offset_us(tx.connection)
            self._clock_set_us = ticks_us()
            tx.now_us = self.now_us()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Hints after commits of this process."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _committed(self, changed: Iterable[str]) -> None:
        if changed:
            for listener in tuple(self._listeners):
                listener(changed)

    # -- writing

    async def _apply(self, tx: Transaction, batch: list[Write]) -> None:
        await self._set_clock(tx, batch)
        await self._leadership.fence(tx, batch)
        by_kind: dict[str, list[Write]] = {}
        for write in batch:
            if write.error is None:
                by_kind.setdefault(write.kind, []).append(write)
        for kind, handler in self._handlers.items():
            if writes := by_kind.get(kind):
                await handler(tx, writes)

    async def _write(
        self, kind: str, rows: Sequence[Any] = (), term: int | None = None, **options: Any
    ) -> Any:
        if self._committer is None:
            raise m.StoreUnavailable("the store is not open")
        return await self._committer.write(kind, rows, term, **options)

    async def submit_jobs(self, jobs: Sequence[m.NewJob]) -> list[m.Accepted]:
        """See Store."""
        bulk = sum(len(job.payload) for job in jobs)
        answer: list[m.Accepted] = await self._write("submit_jobs", jobs, bulk=bulk)
        return answer

    async def cancel_jobs(self, job_ids: Sequence[str], reason: str, force: bool) -> Stale:
        """See Store."""
        answer: Stale = await self._write("cancel_jobs", job_ids, reason=reason, force=force)
        return answer

    async def check_jobs(self, jobs: Sequence[m.NewJob]) -> list[m.Accepted]:
        """See Store."""
        bulk = sum(len(job.payload) for job in jobs)
        answer: list[m.Accepted] = await self._write("check_jobs", jobs, bulk=bulk)
        return answer

    async def retry_jobs(
        self,
        job_ids: Sequence[str],
        reason: str,
        actor: str = "",
        *,
        run: int | None = None,
        key: m.CallKey | None = None,
    ) -> Stale:
        """See Store."""
        answer: Stale = await self._write(
            "retry_jobs", job_ids, reason=reason, actor=actor, run=run, key=key
        )
        return answer

    async def lead(self, leader_id: str, ttl_us: int) -> int | None:
        """See Store. Also sets the clock by the database's."""
        answer: int | None = await self._write("lead", leader_id=leader_id, ttl_us=ttl_us)
        return answer

    async def purge_dead_letters(self, letters: DeadLetters, after_id: str, limit: int) -> Purged:
        """See Store."""
        answer: Purged = await self._write(
            "purge_dead_letters", letters=letters, after_id=after_id, limit=limit
        )
        return answer

    async def create_redrive(
        self, redrive: RedriveRecord, key: m.CallKey | None = None
    ) -> RedriveRecord:
        """See Store."""
        answer: RedriveRecord = await self._write("create_redrive", [redrive], key=key)
        return answer

    async def stop_redrive(self, redrive_id: str, tenant: str, reason: str) -> RedriveRecord | None:
        """See Store."""
        answer: RedriveRecord | None = await self._write(
            "stop_redrive", redrive_id=redrive_id, tenant=tenant, reason=reason
        )
        return answer

    async def advance_redrive(self, term: int, redrive_id: str, limit: int) -> Advanced | None:
        """See Store."""
        answer: Advanced | None = await self._write(
            "advance_redrive", (), term, redrive_id=redrive_id, limit=limit
        )
        return answer

    async def resign(self, leader_id: str) -> None:
        """See Store."""
        await self._write("resign", leader_id=leader_id)

    async def require_term(self, term: int) -> None:
        """See Store. A transaction without a handler: the fence is all of it."""
        await self._write("require_term", (), term)

    async def promote_jobs(self, term: int, limit: int) -> int:
        """See Store."""
        answer: int = await self._write("promote_jobs", (), term, limit=limit)
        return answer

    async def expire_jobs(self, term: int, limit: int) -> int:
        """See Store."""
        answer: int = await self._write("expire_jobs", (), term, limit=limit)
        return answer

    async def lease_jobs(self, term: int, leases: Sequence[m.Lease]) -> list[m.Leased]:
        """See Store."""
        answer: list[m.Leased] = await self._write("lease_jobs", leases, term)
        return answer

    async def _settle(self, kind: str, term: int, rows: Sequence[Any], bulk: int = 0) -> Stale:
        answer: Stale = await self._write(kind, rows, term, bulk=bulk) if rows else []
        return answer

    async def start_attempts(self, term: int, starts: Sequence[m.Start]) -> Stale:
        """See Store."""
        return await self._settle("start_attempts", term, starts)

    async def complete_attempts(self, term: int, completions: Sequence[m.Completion]) -> Stale:
        """See Store."""
        bulk = sum(len(c.value_json) + len(c.artifacts_json) for c in completions)
        return await self._settle("complete_attempts", term, completions, bulk)

    async def fail_attempts(self, term: int, setbacks: Sequence[m.Setback]) -> Stale:
        """See Store."""
        return await self._settle("fail_attempts", term, setbacks)

    async def retry_attempts(self, term: int, setbacks: Sequence[m.Setback]) -> Stale:
        """See Store."""
        return await self._settle("retry_attempts", term, setbacks)

    async def dead_letter_attempts(self, term: int, setbacks: Sequence[m.Setback]) -> Stale:
        """See Store."""
        return await self._settle("dead_letter_attempts", term, setbacks)

    async def release_attempts(self, term: int, setbacks: Sequence[m.Setback]) -> Stale:
        """See Store."""
        return await self._settle("release_attempts", term, setbacks)

    async def demote_attempts(self, term: int, setbacks: Sequence[m.Setback]) -> Stale:
        """See Store."""
        return await self._settle("demote_attempts", term, setbacks)

    async def expire_attempts(self, term: int, setbacks: Sequence[m.Setback]) -> Stale:
        """See Store."""
        return await self._settle("expire_attempts", term, setbacks)

    async def confirm_cancels(self, term: int, attempts: Sequence[m.Attempted]) -> Stale:
        """See Store."""
        return await self._settle("confirm_cancels", term, attempts)

    async def record_progress(self, term: int, updates: Sequence[m.ProgressUpdate]) -> None:
        """See Store."""
        bulk = sum(len(u.body_json) for u in updates)
        await self._settle("record_progress", term, updates, bulk)

    async def record_logs(self, term: int, updates: Sequence[m.LogUpdate]) -> None:
        """See Store."""
        bulk = sum(len(u.body_json) for u in updates)
        await self._settle("record_logs", term, updates, bulk)

    async def save_checkpoints(self, term: int, updates: Sequence[m.CheckpointUpdate]) -> None:
        """See Store."""
        bulk = sum(len(u.value_json) for u in updates)
        await self._settle("save_checkpoints", term, updates, bulk)

    # -- reading

    async def _read(self, work: Work[T]) -> T:
        if self._closed:
            raise m.StoreUnavailable("the store is closed")
        try:
            async with asyncio.timeout(READ_DEADLINE):
                return await self._dialect.read(work)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def read_job(self, job_id: str, *, full: bool = False) -> m.JobRecord | None:
        """See Store."""
        found = await self.read_jobs([job_id], full=full)
        return found[0] if found else None

    async def find_accepted(self, keys: Sequence[m.CallKey]) -> list[m.Accepted | None]:
        """See Store."""
        return await self._read(lambda c: self._keys.accepted(c, keys))

    async def read_jobs(self, job_ids: Sequence[str], *, full: bool = False) -> list[m.JobRecord]:
        """See Store."""
        return await self._read(lambda c: self._jobs.by_id(c, job_ids, full))

    async def list_attempts(
        self, job_id: str, before: int | None, limit: int
    ) -> list[m.AttemptRecord]:
        """See Store."""
        return await self._read(lambda c: self._jobs.attempts_of(c, job_id, before, limit))

    async def list_jobs(self, query: m.JobQuery, *, full: bool = False) -> list[m.JobRecord]:
        """See Store."""
        return await self._read(lambda c: self._jobs.page(c, query, full))

    async def read_changes(self, cursors: Mapping[str, int]) -> list[m.JobChanges]:
        """See Store."""
        return await self._read(lambda c: self._jobs.changes(c, cursors))

    async def list_dead_letters(
        self, letters: DeadLetters, after_id: str | None, limit: int, *, full: bool = False
    ) -> list[m.JobRecord]:
        """See Store."""
        return await self._read(lambda c: self._letters.page(c, letters, after_id, limit, full))

    async def count_dead_letters(self, letters: DeadLetters) -> dict[tuple[str, str], int]:
        """See Store."""
        return await self._read(lambda c: self._letters.count(c, letters))

    async def list_redrives(
        self, tenant: str, after_id: str | None, limit: int
    ) -> list[RedriveRecord]:
        """See Store."""
        return await self._read(lambda c: self._redrives.page(c, tenant, after_id, limit))

    async def running_redrives(self) -> list[RedriveRecord]:
        """See Store."""
        return await self._read(self._redrives.running)

    async def waiting_lanes(self) -> list[m.Lane]:
        """See Store."""
        return await self._read(self._dispatch.lanes)

    async def queue_heads(
        self, lanes: Sequence[tuple[m.Lane, int]], without: Sequence[str] = ()
    ) -> list[m.Head]:
        """See Store."""
        return await self._read(lambda c: self._dispatch.heads(c, lanes, without))

    async def active_attempts(self) -> list[m.ActiveAttempt]:
        """See Store."""
        return await self._read(self._dispatch.active)

    async def cancel_orders(self) -> list[CancelOrder]:
        """See Store."""
        return await self._read(self._dispatch.cancels)

    async def next_due_us(self) -> int | None:
        """See Store."""
        return await self._read(self._dispatch.next_due_us)
