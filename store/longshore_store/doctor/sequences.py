"""Events of a job: dense up to the newest, legal edges, one terminal event for each run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select

from longshore_store.dialects import Row
from longshore_store.doctor.findings import Finding
from longshore_store.doctor.probes import PagedProbe, Within
from longshore_store.edges import number
from longshore_store.model import EventKind
from longshore_store.states import TERMINAL, TRANSITIONS, JobState
from longshore_store.tables import events, jobs

_NAME = "sequences"
# Two states in one number: JobState ends at 12.
_BASE = 100
_EDGES = sorted({s * _BASE + edge.target for edge in TRANSITIONS for s in edge.sources})


def _ended(state: ColumnElement[Any]) -> ColumnElement[bool]:
    return state.in_([number(s) for s in sorted(TERMINAL)])


def _told(within: Within) -> Any:
    """Each event beside the one before it, and beside the state change before it."""
    c = events.c
    last_to = func.lag(c.to_state).over(partition_by=c.job_id, order_by=c.sequence)
    known = func.lag(c.to_state).over(partition_by=[c.job_id, c.kind], order_by=c.sequence)
    return (
        select(
            c.job_id, c.sequence, c.kind, c.from_state, c.to_state, c.reason,
            last_to.label("last_to"), known.label("known"),
        )
        .where(within(c.job_id))
        .subquery()
    )  # fmt: skip


def _broken(told: Any) -> ColumnElement[bool]:
    """An event that does not follow from what went before."""
    e = told.c
    change = e.kind == number(EventKind.STATE)
    edge = e.from_state * _BASE + e.to_state
    unlawful = and_(
        e.from_state != 0, edge.not_in([number(n) for n in _EDGES]), e.reason != "REPLACED"
    )
    return or_(
        and_(change, e.known.is_not(None), e.known != e.from_state),
        and_(change, e.sequence == 1, e.from_state != 0),
        and_(change, unlawful),
        # `last_to` is 0 behind a log line: this is a line that came after the end of a run.
        and_(e.kind != number(EventKind.STATE), _ended(e.last_to)),
    )


def _statement(within: Within) -> Select[Any]:
    told = _told(within)
    e = told.c
    change = e.kind == number(EventKind.STATE)
    ends = case((and_(change, _ended(e.to_state)), 1), else_=0)
    story = (
        select(
            e.job_id,
            func.count().label("count"),
            func.min(e.sequence).label("first"),
            func.max(e.sequence).label("last"),
            func.sum(ends).label("ends"),
            func.min(case((_broken(told), e.sequence))).label("broken"),
            # The newest change and where it led to, in one number.
            func.max(case((change, e.sequence * _BASE + e.to_state))).label("newest"),
        )
        .group_by(e.job_id)
        .subquery()
    )
    s, j = story.c, jobs.c
    over = _ended(j.state)
    wanted = j.run - case((over, 0), else_=1)
    wrong = or_(
        s["count"].is_(None),
        s["last"] != j.sequence,
        s["count"] != s["last"] - s.first + 1,
        s.broken.is_not(None),
        s.newest % _BASE != j.state,
        and_(over, s.newest.is_(None)),
        and_(over, s.newest != s["last"] * _BASE + j.state),
        and_(s.first == 1, s.ends != wanted),
    )
    joined = jobs.outerjoin(story, s.job_id == j.id)
    columns = (
        j.id, j.state, j.sequence, s["count"], s.first, s["last"], s.broken, s.newest, s.ends,
        wanted.label("wanted"),
    )  # fmt: skip
    return select(*columns).select_from(joined).where(within(j.id), wrong)


def _read(row: Row) -> Iterator[Finding]:
    job_id, state, sequence, count, first, last, broken, newest, ends, wanted = row

    def wrong(found: str, expected: str) -> Finding:
        return Finding(_NAME, f"job {job_id}", found, expected)

    if not count:
        yield wrong("has no events", f"events up to {sequence}")
        return
    if last != sequence:
        yield wrong(f"newest event {last}", f"{sequence}, the sequence of the job")
    if count != last - first + 1:
        yield wrong(f"{count} events from {first} to {last}", f"{last - first + 1}, without a gap")
    if broken is not None:
        yield wrong(f"event {broken} does not follow from what went before", "a legal edge")
    told = None if newest is None else newest % _BASE
    if told is not None and told != state:
        yield wrong(f"events end in {_state(told)}", f"{_state(state)}, the state of the job")
    elif state in TERMINAL and newest != last * _BASE + state:
        yield wrong(f"{_state(state)} is not its last event", "the last")
    if first == 1 and ends != wanted:
        yield wrong(f"{ends} terminal events", f"{wanted}, one for each ended run")


def _state(value: int) -> str:
    return JobState(value).name if value in set(JobState) else str(value)


SEQUENCES = PagedProbe(_statement, _read)
