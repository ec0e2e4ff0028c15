"""How a check is written: a statement that selects what is wrong, and words for its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Column, ColumnElement, Select, Text, and_, bindparam, func, select

from longshore_store.dialects import Row
from longshore_store.doctor.findings import Finding
from longshore_store.tables import jobs

PAGE = 2000
MOST_ROWS = 10_000
"""A statement hands over no more: a database that lost a table must not fill the memory."""


class Source(Protocol):
    """Where rows are read: beside a running service, or through a store of this process."""

    async def rows(self, query: Select[Any], params: Mapping[str, Any]) -> Sequence[Row]:
        """Every row of a query, as of one moment."""


class Page(NamedTuple):
    """Jobs by id: those after `after`, up to `upto`. The last page has no upper end, so that it
    holds what is left of jobs that do not exist."""

    after: str
    upto: str | None
    size: int

    @property
    def params(self) -> dict[str, Any]:
        """What `within` takes."""
        ends = {} if self.upto is None else {"p_upto": self.upto}
        return {"p_after": self.after, **ends}


Within = Callable[[Column[Any]], ColumnElement[bool]]


def within_bounded(column: Column[Any]) -> ColumnElement[bool]:
    """The column names a job of this page."""
    return and_(
        column > bindparam("p_after", type_=Text), column <= bindparam("p_upto", type_=Text)
    )


def within_open(column: Column[Any]) -> ColumnElement[bool]:
    """The column names a job of the last page."""
    return column > bindparam("p_after", type_=Text)


class Probe(NamedTuple):
    """A statement over the whole database."""

    make: Callable[[], Select[Any]]
    read: Callable[[Row], Iterable[Finding]]

    async def find(self, source: Source, params: Mapping[str, Any]) -> list[Finding]:
        """What is wrong."""
        rows = await source.rows(_whole(self.make), params)
        return [finding for row in rows for finding in self.read(row)]


class PagedProbe(NamedTuple):
    """A statement over a page of jobs and what belongs to them."""

    make: Callable[[Within], Select[Any]]
    read: Callable[[Row], Iterable[Finding]]

    async def find(self, source: Source, page: Page) -> list[Finding]:
        """What is wrong in this page."""
        within = within_open if page.upto is None else within_bounded
        rows = await source.rows(_paged(self.make, within), page.params)
        return [finding for row in rows for finding in self.read(row)]


async def next_page(source: Source, after: str, most: int = PAGE) -> Page:
    """The page that begins behind `after`."""
    ((count, last),) = await source.rows(_next_ids(), {"p_after": after, "p_most": most})
    return Page(after, last if count == most else None, count)


@lru_cache(maxsize=64)
def _whole(make: Callable[[], Select[Any]]) -> Select[Any]:
    return make().limit(MOST_ROWS)


@lru_cache(maxsize=64)
def _paged(make: Callable[[Within], Select[Any]], within: Within) -> Select[Any]:
    return make(within).limit(MOST_ROWS)


@lru_cache(maxsize=1)
def _next_ids() -> Any:
    page = (
        select(jobs.c.id)
        .where(within_open(jobs.c.id))
        .order_by(jobs.c.id)
        .limit(bindparam("p_most"))
        .subquery()
    )
    return select(func.count(), func.max(page.c.id)).select_from(page)
