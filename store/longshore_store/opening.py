"""What happens to a database before it is used: reached, migrated or refused, claimed."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from sqlalchemy import select

from longshore_store.committer import unavailable
from longshore_store.dialects import (
    Connection,
    Dialect,
    StoreLocked,
    UnusableUrl,
    Work,
    make_dialect,
)
from longshore_store.leadership import LeadershipWrites
from longshore_store.migrations import HEAD, load, migrate, prepare
from longshore_store.model import StoreMismatch, StoreRefused, StoreUnavailable
from longshore_store.tables import deployment

T = TypeVar("T")
OPEN_DEADLINE = 10.0
"""Seconds in which a database that others share has to be ready. One of our own may be migrated
meanwhile, which takes as long as it takes."""


async def open_database(
    dialect: Dialect, cluster: str | None, leadership: LeadershipWrites
) -> None:
    """Makes the database ready for a store.

    cluster: whose it has to be. The first one to open it writes its name; None does not look.

    Raises:
        StoreMismatch: its schema or its cluster is another; nothing was touched.
        StoreRefused: there is none, or not with these credentials.
        StoreUnavailable: it cannot be reached.
    """

    async def work(connection: Connection) -> None:
        await dialect.take_turns(connection)
        await connection.run_sync(lambda c: prepare(c, shared=not dialect.exclusive))
        if cluster is not None:
            await _claim(dialect, connection, cluster)
        if dialect.exclusive:  # nobody else has it open, so nobody else leads
            await leadership.vacate(connection)

    await _reached(dialect, work, None if dialect.exclusive else OPEN_DEADLINE)


async def migrate_database(url: str) -> str:
    """Brings a database to this release's schema, or makes a new one. Says what was done.

    Raises:
        UnusableUrl: it is none of a store.
        StoreLocked, StoreMismatch, StoreUnavailable: nothing was touched.
    """
    # A statement of a migration may rewrite a table, and take hours.
    dialect = make_dialect(url, deadline=None)

    async def work(connection: Connection) -> str | None:
        await dialect.take_turns(connection)
        return await connection.run_sync(migrate)

    load()
    dialect.lock()
    try:
        before = await _reached(dialect, work, None)
    finally:
        await dialect.close()
        dialect.unlock()
    if before == HEAD:
        return f"{dialect.where}: the schema is {HEAD} already"
    return f"{dialect.where}: the schema was {before or 'none'} and is {HEAD}"


def run_migration(url: str) -> tuple[int, str]:
    """What `longshore migrate` runs. Returns its exit status, 4 for one that may go well later,
    and what to say."""
    try:
        return 0, asyncio.run(migrate_database(url))
    except (UnusableUrl, StoreLocked, StoreMismatch, StoreRefused) as error:
        return 2, str(error)
    except StoreUnavailable as error:
        return 4, str(error)


async def _reached(dialect: Dialect, work: Work[T], deadline: float | None) -> T:
    """The answer of the first work on a database; its errors are for people."""
    try:
        async with asyncio.timeout(deadline):
            return await dialect.transact(work)
    except StoreMismatch as error:
        raise StoreMismatch(f"{dialect.where}: {error}") from None
    except Exception as error:
        if (obstacle := dialect.obstacle(error)) is None:
            raise unavailable(error) from error
        raise obstacle from error


async def _claim(dialect: Dialect, connection: Connection, cluster: str) -> None:
    first: Any = dialect.insert(deployment).values(id=1, cluster=cluster)
    await connection.execute(first.on_conflict_do_nothing())
    owner = await connection.scalar(select(deployment.c.cluster))
    if owner != cluster:
        raise StoreMismatch(
            f"the database belongs to cluster {owner!r}, and this process is configured as"
            f" {cluster!r}: give it a database of its own, or set `cluster`"
        )
