"""Running the checks: the paged ones page by page, the unsteady ones twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Select, Table, Text, column, func, select
from sqlalchemy import table as plain_table

from longshore_store.doctor.counters import DEVIATIONS, DRAINED, SILENT, SLOTS, UNOWNED
from longshore_store.doctor.findings import Examined, Finding
from longshore_store.doctor.probes import PAGE, PagedProbe, Probe, Source, next_page
from longshore_store.doctor.rows import (
    ATTEMPTS,
    LEFT_OVER_BODIES,
    MISSING_BODIES,
    REDRIVEN,
    STALE_CLAIMS,
    UNMARKED_KEYS,
)
from longshore_store.doctor.sequences import SEQUENCES
from longshore_store.edges import state_in
from longshore_store.migrations import HEAD
from longshore_store.settings import Settings
from longshore_store.states import ACTIVE
from longshore_store.tables import deployment, jobs, leaders, queue_counts, redrive_jobs, workers

SECOND_LOOK = 4.0
"""Seconds until what is published every 3 s is looked at again."""


class Check(NamedTuple):
    """What is shown as one line. Unsteady is what one snapshot cannot tell: workers and leases
    are written by different transactions.

    scope: what it looks at where that is not the jobs: the noun, and the table.
    """

    name: str
    paged: Sequence[PagedProbe] = ()
    whole: Sequence[Probe] = ()
    steady: bool = True
    scope: tuple[str, Table] | None = None


CHECKS = (
    Check("counters", whole=(DEVIATIONS, DRAINED), scope=("shards", queue_counts)),
    Check("sequences", (SEQUENCES,)),
    Check("attempts", (ATTEMPTS,)),
    Check("bodies", (MISSING_BODIES, LEFT_OVER_BODIES)),
    Check("keys", (UNMARKED_KEYS,), (STALE_CLAIMS,)),
    Check("redrives", whole=(REDRIVEN,), scope=("redriven jobs", redrive_jobs)),
    Check("leases", whole=(UNOWNED, SILENT), steady=False, scope=("workers", workers)),
    Check("slots", whole=(SLOTS,), steady=False, scope=("workers", workers)),
)
RECORDED = tuple(check for check in CHECKS if check.steady)
"""Checks of what is written in one transaction: true at any moment, whoever runs."""


class NotExaminable(Exception):
    """The database has another schema; the message says what to do."""


async def require_schema(source: Source) -> None:
    """Raises NotExaminable where the schema is not this release's, StoreUnavailable without one."""
    rows = await source.rows(_revision(), {})
    found = rows[0][0] if rows else None
    if found != HEAD:
        remedy = "upgrade this program" if str(found) > HEAD else "run `longshore migrate` once"
        raise NotExaminable(
            f"its schema is {found}, this release's is {HEAD}: {remedy}, or use the doctor of the"
            " release that serves it"
        )


async def read_leases(source: Source) -> dict[tuple[str, int], str]:
    """The worker of each attempt that is leased, by job id and fence."""
    rows = await source.rows(_leases(), {})
    return {(job_id, fence): worker_id or "" for job_id, fence, worker_id in rows}


async def read_cluster(source: Source) -> str:
    """The name of the deployment whose database this is; a new one has the default's."""
    rows = await source.rows(_cluster(), {})
    return str(rows[0][0]) if rows else Settings().cluster


async def scheduler_leads(source: Source, now_us: int) -> bool:
    """True while a scheduler leads, as far as the store knows."""
    rows = await source.rows(_leading(), {})
    return any(until_us > now_us for (until_us,) in rows)


async def examine(
    source: Source,
    checks: Sequence[Check] = CHECKS,
    *,
    now_us: int,
    lease: float = 30.0,
    live: bool = False,
    page: int = PAGE,
    second_look: float = SECOND_LOOK,
) -> list[Examined]:
    """Runs the checks, in order.

    Args:
        source: each of its statements sees one moment.
        checks: which; all where left out.
        now_us: the store's time.
        lease: seconds of silence after which a worker is none.
        live: somebody writes; what a snapshot cannot tell is looked at again after `second_look`
            seconds and counts only where it is still so.
        page: jobs a statement looks at.

    Raises:
        StoreUnavailable: the database cannot be read.
    """
    done = {check.name: Examined(check.name) for check in checks}
    total = await _examine_pages(source, checks, done, page)
    params = {"p_now": now_us, "p_lease": round(lease * 1e6)}
    for check in checks:
        found = await _find(source, check, params)
        if found and live and not check.steady:
            await asyncio.sleep(second_look)
            later = {**params, "p_now": now_us + round(second_look * 1e6)}
            found = seen_twice(found, await _find(source, check, later))
        done[check.name].add(found)
        done[check.name].looked_at = f"{total:,} jobs"
        if check.scope is not None:
            noun, table = check.scope
            ((count,),) = await source.rows(_count(table), {})
            done[check.name].looked_at = f"{count:,} {noun}"
    return list(done.values())


def seen_twice(before: Sequence[Finding], now: Sequence[Finding]) -> list[Finding]:
    """Findings of now about what there was a finding of before."""
    known = {finding.subject for finding in before}
    return [finding for finding in now if finding.subject in known]


async def _examine_pages(
    source: Source, checks: Sequence[Check], done: Mapping[str, Examined], size: int
) -> int:
    """Returns how many jobs there are."""
    total, after = 0, ""
    while True:
        page = await next_page(source, after, size)
        total += page.size
        for check in checks:
            for probe in check.paged:
                done[check.name].add(await probe.find(source, page))
        if page.upto is None:
            return total
        after = page.upto


async def _find(source: Source, check: Check, params: Mapping[str, Any]) -> list[Finding]:
    return [finding for probe in check.whole for finding in await probe.find(source, params)]


@lru_cache(maxsize=16)
def _count(table: Table) -> Any:
    return select(func.count()).select_from(table)


@lru_cache(maxsize=1)
def _revision() -> Select[Any]:
    return select(column("version_num", Text)).select_from(plain_table("alembic_version"))


@lru_cache(maxsize=1)
def _leases() -> Select[Any]:
    return select(jobs.c.id, jobs.c.fence, jobs.c.worker_id).where(state_in(ACTIVE))


@lru_cache(maxsize=1)
def _cluster() -> Select[Any]:
    return select(deployment.c.cluster)


@lru_cache(maxsize=1)
def _leading() -> Select[Any]:
    return select(leaders.c.until_us)
