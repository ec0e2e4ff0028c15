"""What must be true of every database at any time: the doctor's word on a store under test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select

from longshore_store.doctor.examination import RECORDED, Check, examine
from longshore_store.doctor.findings import Finding
from longshore_store.doctor.rows import CLASSES
from longshore_store.sql import SqlStore

COUNTER_OF = {failure: name for name, classes in CLASSES.items() for failure in classes}
Rows = Sequence[Sequence[Any]]


class Opened:
    """A store of this process, as the doctor reads it."""

    def __init__(self, store: SqlStore) -> None:
        self._dialect = store._dialect

    async def rows(self, query: Select[Any], params: Mapping[str, Any]) -> Rows:
        dialect = self._dialect
        fixed = dialect.fixed(query, lambda: query)  # every test asks the same
        return await dialect.read(lambda connection: dialect.rows(connection, fixed, params))


async def fetch(store: SqlStore, query: Select[Any]) -> Rows:
    """Rows as they lie in the tables, beside what the store says."""
    dialect = store._dialect
    return await dialect.read(lambda connection: dialect.rows(connection, query, {}))


async def findings(store: SqlStore, checks: Sequence[Check] = RECORDED) -> list[Finding]:
    """All that the doctor finds."""
    examined = await examine(Opened(store), checks, now_us=store.now_us())
    return [finding for check in examined for finding in check.findings]


async def recount(store: SqlStore) -> None:
    """Raises AssertionError where a counter, an event or an attempt does not add up. Leases are
    left out: these tests have no workers."""
    assert [str(finding) for finding in await findings(store)] == []
