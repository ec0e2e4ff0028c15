"""Attempts against the counters of their jobs, bodies against jobs, keys against fingerprints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    Table,
    Text,
    and_,
    case,
    func,
    literal_column,
    or_,
    select,
    union_all,
)

from longshore.sdk.failures import FailureClass
from longshore_store.dialects import Row
from longshore_store.doctor.findings import Finding
from longshore_store.doctor.probes import PagedProbe, Probe, Within
from longshore_store.edges import number, state_in
from longshore_store.states import TERMINAL, JobState
from longshore_store.tables import (
    attempts,
    events,
    job_checkpoints,
    job_labels,
    job_progress,
    job_results,
    job_specs,
    jobs,
    redrive_jobs,
    redrives,
    unique_claims,
)

BELONGINGS: tuple[Table, ...] = (
    job_specs,
    job_results,
    job_progress,
    job_checkpoints,
    job_labels,
    attempts,
    events,
)
"""Tables whose rows belong to the job that `job_id` names."""

CLASSES = {
    "attempts": (FailureClass.TASK_ERROR, FailureClass.PERMANENT, FailureClass.TIMEOUT),
    "crashes": (FailureClass.CRASH,),
    "ooms": (FailureClass.OUT_OF_MEMORY,),
    "interruptions": (FailureClass.WORKER_LOST, FailureClass.DEVICE_FAULT),
}
"""The counters of a job, and which failures of its attempts each of them counts."""


# -- attempts


def _attempts(within: Within) -> Select[Any]:
    a, j = attempts.c, jobs.c
    this_run = a.run == j.run

    def ended(classes: tuple[FailureClass, ...]) -> ColumnElement[Any]:
        counts = and_(this_run, a.failure_class.in_([number(c) for c in classes]))
        return func.sum(case((counts, 1), else_=0))

    kept = (
        select(
            a.job_id,
            func.max(a.fence).label("fence"),
            func.max(case((this_run, a.number))).label("number"),
            func.max(a.run).label("run"),
            *(ended(classes).label(name) for name, classes in CLASSES.items()),
        )
        .select_from(attempts.join(jobs, j.id == a.job_id))
        .where(within(a.job_id))
        .group_by(a.job_id)
        .subquery()
    )
    k = kept.c
    wrong = or_(
        *(func.coalesce(k[name], 0) != j[name] for name in CLASSES),
        *(k[name] > j[name] for name in ("fence", "number", "run")),
    )
    names = ("fence", "number", "run", *CLASSES)
    columns = [column for name in names for column in (j[name], func.coalesce(k[name], 0))]
    joined = jobs.outerjoin(kept, k.job_id == j.id)
    return select(j.id, *columns).select_from(joined).where(within(j.id), wrong)


def _read_attempts(row: Row) -> Iterator[Finding]:
    job_id, *pairs = row
    subject = f"job {job_id}"
    names = ("fence", "number", "run", *CLASSES)
    for name, of_job, of_attempts in zip(names, pairs[::2], pairs[1::2], strict=True):
        if name in CLASSES and of_job != of_attempts:
            yield Finding("attempts", subject, f"{name} {of_job}", f"{of_attempts} by its attempts")
        elif name not in CLASSES and of_attempts > of_job:
            found = f"an attempt with {name} {of_attempts}"
            yield Finding("attempts", subject, found, f"at most {of_job}")


# -- bodies


def _missing(within: Within) -> Select[Any]:
    j, result = jobs.c, job_results.c
    succeeded = j.state == number(JobState.SUCCEEDED)
    no_spec = job_specs.c.job_id.is_(None)
    no_value = and_(succeeded, result.value_json.is_(None))
    no_cause = and_(state_in(TERMINAL - {JobState.SUCCEEDED}), result.failure_json.is_(None))
    joined = jobs.outerjoin(job_specs, job_specs.c.job_id == j.id).outerjoin(
        job_results, result.job_id == j.id
    )
    flags = [case((flag, 1), else_=0) for flag in (no_spec, no_value, no_cause)]
    found = or_(no_spec, no_value, no_cause)
    return select(j.id, *flags).select_from(joined).where(within(j.id), found)


def _read_missing(row: Row) -> Iterator[Finding]:
    job_id, *flags = row
    for flag, what in zip(flags, ("specification", "result", "cause of its end"), strict=True):
        if flag:
            yield Finding("bodies", f"job {job_id}", f"without a {what}", "with one")


def _left_over(within: Within) -> Select[Any]:
    return union_all(*(_orphans(table, within) for table in BELONGINGS)).subquery().select()


def _orphans(table: Table, within: Within) -> Select[Any]:
    owner: Column[Any] = table.c.job_id
    name = literal_column(f"'{table.name}'", Text).label("table_name")
    return (
        select(name, owner.label("job_id"), func.count().label("n"))
        .select_from(table.outerjoin(jobs, jobs.c.id == owner))
        .where(within(owner), jobs.c.id.is_(None))
        .group_by(owner)
    )


def _read_left_over(row: Row) -> Iterator[Finding]:
    table, job_id, count = row
    found = f"{count} rows in {table} and no such job"
    yield Finding("bodies", f"job {job_id}", found, "none", repairable=True)


# -- keys


def _unmarked(within: Within) -> Select[Any]:
    key = jobs.c.idempotency_key
    return select(jobs.c.id, key).where(
        within(jobs.c.id), key.is_not(None), jobs.c.fingerprint == ""
    )


def _read_unmarked(row: Row) -> Iterator[Finding]:
    job_id, key = row
    yield Finding("keys", f"job {job_id}", f"idempotency key {key!r} without a fingerprint", "with")


def _stale_claims() -> Select[Any]:
    # A claim of a job that has ended is none: a retry of the job takes its key back.
    c = unique_claims.c
    joined = unique_claims.outerjoin(jobs, jobs.c.id == c.job_id)
    return select(c.tenant, c.task, c.key, c.job_id).select_from(joined).where(jobs.c.id.is_(None))


def _read_stale_claim(row: Row) -> Iterator[Finding]:
    tenant, task, key, job_id = row
    subject = f"tenant={tenant} task={task} key={key!r}"
    found = f"claimed by job {job_id or '(none)'}, which does not exist"
    yield Finding("keys", subject, found, "free", repairable=True)


# -- redrives


def _redriven() -> Select[Any]:
    r = redrive_jobs.c
    joined = redrive_jobs.outerjoin(redrives, redrives.c.id == r.redrive_id).outerjoin(
        jobs, jobs.c.id == r.job_id
    )
    wrong = or_(redrives.c.id.is_(None), jobs.c.id.is_(None), jobs.c.run < r.run)
    return (
        select(r.redrive_id, r.job_id, r.run, redrives.c.id, jobs.c.id, jobs.c.run)
        .select_from(joined)
        .where(wrong)
    )


def _read_redriven(row: Row) -> Iterator[Finding]:
    redrive_id, job_id, run, redrive, job, newest = row
    subject = f"redrive {redrive_id} job {job_id}"
    if redrive is None:
        yield Finding("redrives", subject, "no such redrive", "one", repairable=True)
    elif job is None:
        yield Finding("redrives", subject, "no such job", "one", repairable=True)
    else:
        yield Finding("redrives", subject, f"gave it run {run}", f"at most {newest}")


ATTEMPTS = PagedProbe(_attempts, _read_attempts)
MISSING_BODIES = PagedProbe(_missing, _read_missing)
LEFT_OVER_BODIES = PagedProbe(_left_over, _read_left_over)
UNMARKED_KEYS = PagedProbe(_unmarked, _read_unmarked)
STALE_CLAIMS = Probe(_stale_claims, _read_stale_claim)
REDRIVEN = Probe(_redriven, _read_redriven)
