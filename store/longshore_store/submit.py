"""Accepting jobs: all of a call or none, once per key, within the bound of the queue."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Select, Text, func, literal_column, select

from longshore_store.acceptance import deadlines, first_state, needs_gpu
from longshore_store.accepted_keys import AcceptedKeys, is_free
from longshore_store.committer import KeyTaken, Transaction, Write, rows_of
from longshore_store.dialects import Dialect, Kind, Row, Rowset
from longshore_store.edges import (
    EVENT_COLUMNS,
    NO_NUMBER,
    NO_TEXT,
    NOW,
    add_counts,
    number,
    writer,
)
from longshore_store.model import (
    Accepted,
    CallKey,
    EventKind,
    IdempotencyConflict,
    NewJob,
    QueueFull,
    SubmitRefused,
)
from longshore_store.states import JobState
from longshore_store.tables import events, job_labels, job_specs, jobs, queue_counts, queues
from longshore_store.uniqueness import UniqueClaims

_JOB: dict[str, Kind] = {
    "id": "text",
    "tenant": "text",
    "task": "text",
    "queue": "text",
    "priority": "int",
    "state": "int",
    "due_us": "int",
    "expire_us": "int",
    "total_deadline_us": "int",
    "total_timeout_us": "int",
    "needs_json": "text",
    "gpu": "int",
    "idempotency_key": "text",
    "fingerprint": "text",
    "unique_key": "text",
}
_SPEC: dict[str, Kind] = {"id": "text", "spec": "text", "payload": "text"}

Known = dict[tuple[str, str], Row]
"""By tenant and key: what a call that was accepted got."""


class SubmitWrites:
    """The handler of the committer for submissions."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        r = self._rows = dialect.rowset("r", _JOB)
        specs = self._specs = dialect.rowset("s", _SPEC)
        new = select(*(r.c[name] for name in _JOB), number(1), NOW, NOW).select_from(r.table)
        columns = [*_JOB, "sequence", "created_us", "ready_us"]
        free = new.where(is_free(r))
        self._insert_jobs = dialect.fix(dialect.insert_new(jobs, columns, free))
        self._insert_all = dialect.fix(dialect.insert_new(jobs, columns, new))
        self._insert_specs = dialect.fix(
            dialect.insert(job_specs).from_select(
                ["job_id", "spec", "payload"], select(specs.c.id, specs.c.spec, specs.c.payload)
            )
        )
        submitted = select(
            r.c.id, number(1), NOW, number(0), number(EventKind.STATE), number(0), r.c.state,
            literal_column("'SUBMITTED'", Text), NO_NUMBER, NO_TEXT,
        )  # fmt: skip
        self._insert_events = dialect.fix(
            dialect.insert(events).from_select(list(EVENT_COLUMNS), submitted)
        )
        lanes = self._lanes = dialect.rowset("n", {"queue": "text", "tenant": "text", "n": "int"})
        waiting = select(
            lanes.c.queue, lanes.c.tenant, writer(), lanes.c.n,
            number(0), number(0),
        ).where(lanes.c.n > 0)  # fmt: skip
        self._count = dialect.fix(add_counts(dialect, waiting))
        self._unique = UniqueClaims(dialect, self._require_room)
        self._keys = AcceptedKeys(dialect)

    async def submit_jobs(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers each write with its Accepted, or refuses it whole.

        The common case inserts everything of every caller at once, and a repeated call is only
        answered. Where some keys of a call are taken, a queue is full or a job has a uniqueness
        claim, the call is looked at by itself: that takes a Postgres milliseconds for each.
        """
        known = await self._by_key(tx, rows_of(writes)) if tx.look_first else {}
        together = await self._plain(tx, writes, set(known))
        fresh = [job for write in writes if write in together for job in write.rows]
        await self._insert(tx, fresh)
        if tx.look_first:
            keyed = (job for job in fresh if job.idempotency_key)
            known |= {_key(job): _found(job, _accepted(job, tx.now_us)) for job in keyed}
        for write in writes:
            if write in together:
                write.answer = [_accepted(job, tx.now_us) for job in write.rows]
            elif all(_key(job) in known for job in write.rows):
                _answer_again(write, known)
            else:
                await self._submit_alone(tx, write)

    async def check_jobs(self, tx: Transaction, writes: list[Write]) -> None:
        """Answers as submit_jobs would, each call by itself, and keeps nothing."""
        for write in writes:
            savepoint = await tx.connection.begin_nested()
            known = len(tx.changed)
            await self._submit_alone(tx, write)
            await savepoint.rollback()
            del tx.changed[known:]

    async def _plain(
        self, tx: Transaction, writes: list[Write], taken: set[tuple[str, str]]
    ) -> set[Write]:
        """Writes that claim nothing, have no key that is taken, and fit into their queues."""
        free = [w for w in writes if not any(job.unique for job in w.rows)]
        depths = await self._depths(tx, {job.queue for w in free for job in w.rows})
        found = set()
        for write in free:
            keys = [_key(job) for job in write.rows if job.idempotency_key]
            repeated = tx.look_first and (len(set(keys)) < len(keys) or not taken.isdisjoint(keys))
            if not repeated and _refusal(list(enumerate(write.rows)), depths) is None:
                found.add(write)
                taken.update(keys)
                for job in write.rows:
                    depths[job.queue][0] += 1
        return found

    async def _require_room(self, tx: Transaction, new: Sequence[tuple[int, NewJob]]) -> None:
        refusal = _refusal(new, await self._depths(tx, {job.queue for _, job in new}))
        if refusal is not None:
            raise refusal

    async def _depths(self, tx: Transaction, names: set[str]) -> dict[str, list[int]]:
        """Waiting jobs and their maximum, 0 for no bound, by queue."""
        r = self._dialect.rowset("q", {"name": "text"})
        query = self._dialect.fixed("submit.depths", lambda: _depths(r))
        rows = await self._dialect.rows(
            tx.connection, query, r.params([(n,) for n in sorted(names)])
        )
        found = {name: [int(depth), maximum] for name, depth, maximum in rows}
        return {name: found.get(name, [0, 0]) for name in names}

    async def _insert(self, tx: Transaction, new: Sequence[NewJob]) -> None:
        if not new:
            return
        params = {**self._rows.params([_row(job, tx.now_us) for job in new]), "p_now": tx.now_us}
        # A look for the keys of each costs a tenth of the insert, and mostly there are none.
        alone = self._dialect.exclusive and await self._keys.are_none(tx.connection)
        insert = self._insert_all if alone else self._insert_jobs
        inserted = (await tx.connection.execute(insert, params)).rowcount
        if inserted != len(new):
            raise KeyTaken
        specs = self._specs.params([(job.id, _text(job.spec), job.payload) for job in new])
        await tx.connection.execute(self._insert_specs, specs)
        await tx.connection.execute(self._insert_events, params)
        lanes = Counter((job.queue, job.tenant) for job in new)
        counts = [(queue, tenant, n) for (queue, tenant), n in sorted(lanes.items())]
        await tx.connection.execute(self._count, self._lanes.params(counts))
        await self._insert_labels(tx, new)
        tx.changed.extend(job.id for job in new)

    async def _insert_labels(self, tx: Transaction, new: Sequence[NewJob]) -> None:
        rows = [(name, value, job.id) for job in new for name, value in job.labels.items()]
        if not rows:
            return
        r = self._dialect.rowset("l", {"name": "text", "value": "text", "job_id": "text"})
        insert = self._dialect.fixed(
            "submit.labels",
            lambda: self._dialect.insert(job_labels).from_select(
                ["name", "value", "job_id"], select(r.c.name, r.c.value, r.c.job_id)
            ),
        )
        await tx.connection.execute(insert, r.params(rows))

    async def _submit_alone(self, tx: Transaction, write: Write) -> None:
        # A refusal must leave nothing: what a call has inserted so far goes with the savepoint.
        savepoint = await tx.connection.begin_nested()
        known = len(tx.changed)
        try:
            write.answer = await self._accept(tx, write.rows)
        except SubmitRefused as error:
            await savepoint.rollback()
            del tx.changed[known:]
            write.error = error
        else:
            await savepoint.commit()

    async def _accept(self, tx: Transaction, new: Sequence[NewJob]) -> list[Accepted]:
        by_key = await self._by_key(tx, new)
        answers: list[Accepted] = []
        fresh: list[tuple[int, NewJob]] = []
        others: list[tuple[CallKey, str]] = []
        for index, job in enumerate(new):
            earlier = by_key.get(_key(job))
            if earlier is not None:
                answers.append(_repeated(index, job, earlier))
                continue
            answer = await self._unique.resolve(tx, index, job) if job.unique else None
            if answer is None:
                answer = _accepted(job, tx.now_us)
                if job.unique:  # a later job of this call may claim the same
                    await self._insert_fitting(tx, [(index, job)])
                else:
                    fresh.append((index, job))
            answers.append(answer)
            if job.idempotency_key:  # and may have the same key
                by_key[_key(job)] = _found(job, answer)
                if not answer.created:
                    key = CallKey(job.tenant, job.idempotency_key, job.fingerprint)
                    others.append((key, answer.job_id))
        await self._insert_fitting(tx, fresh)
        await self._keys.keep(tx, others)
        return answers

    async def _insert_fitting(self, tx: Transaction, new: Sequence[tuple[int, NewJob]]) -> None:
        await self._require_room(tx, new)
        await self._insert(tx, [job for _, job in new])

    async def _by_key(self, tx: Transaction, new: Sequence[NewJob]) -> Known:
        keys = [(job.tenant, job.idempotency_key) for job in new if job.idempotency_key]
        return dict(await self._keys.find(tx.connection, keys)) if keys else {}


def _depths(r: Rowset) -> Select[Any]:
    waiting = (
        select(func.coalesce(func.sum(queue_counts.c.waiting), 0))
        .where(queue_counts.c.queue == queues.c.name)
        .scalar_subquery()
    )
    source = r.table.join(queues, queues.c.name == r.c.name)
    return select(queues.c.name, waiting, queues.c.maximum_waiting).select_from(source)


def _refusal(new: Sequence[tuple[int, NewJob]], depths: dict[str, list[int]]) -> QueueFull | None:
    """The first of the new jobs, by its index, that does not fit."""
    taken: Counter[str] = Counter()
    for index, job in new:
        taken[job.queue] += 1
        waiting, maximum = depths[job.queue]
        if maximum and waiting + taken[job.queue] > maximum:
            return QueueFull(index, job.queue, waiting, maximum)
    return None


def _key(job: NewJob) -> tuple[str, str]:
    """The place of its key; of jobs without one, a place where there is none."""
    return job.tenant, job.idempotency_key or ""


def _found(job: NewJob, answer: Accepted) -> Row:
    """What `_by_key` would read of a job that was just accepted."""
    return answer.job_id, job.fingerprint, answer.state, answer.created_us


def _answer_again(write: Write, known: Mapping[tuple[str, str], Row]) -> None:
    try:
        write.answer = [_repeated(i, job, known[_key(job)]) for i, job in enumerate(write.rows)]
    except SubmitRefused as error:
        write.error = error


def _repeated(index: int, job: NewJob, earlier: Row) -> Accepted:
    job_id, fingerprint, state, created_us = earlier
    if fingerprint != job.fingerprint:
        raise IdempotencyConflict(index, job.idempotency_key or "", job_id)
    return Accepted(job_id, False, JobState(state), created_us)


def _row(job: NewJob, now_us: int) -> Row:
    expire_us, total_us = deadlines(job, now_us)
    return (
        job.id, job.tenant, job.task, job.queue, job.priority, int(first_state(job, now_us)),
        job.due_us, expire_us, total_us, job.total_timeout_us, job.needs_json, needs_gpu(job),
        job.idempotency_key, job.fingerprint, job.unique and job.unique.key,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _text(spec: bytes) -> str:
    """The jobs of a call mostly have one spec."""
    return base64.b64encode(spec).decode()


def _accepted(job: NewJob, now_us: int) -> Accepted:
    return Accepted(job.id, True, first_state(job, now_us), now_us)
