"""A process that is paused in the middle of a transaction must not hold up the others."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select, text

from longshore_store.dialects import Connection, postgres
from longshore_store.model import StoreUnavailable
from longshore_store.tables import leaders
from tests.store.factory import HOUR, SECOND
from tests.store.patience import LONG
from tests.store.places import Place

IDLE = "idle_in_transaction_session_timeout"


async def test_a_stalled_leader_is_thrown_out_and_replaced(postgres_place: Place) -> None:
    stalled, other = await postgres_place.open(), await postgres_place.open()
    assert await stalled.lead("stalled", SECOND // 10) == 1
    holding, go_on = asyncio.Event(), asyncio.Event()
    usual: list[str] = []

    async def hold(connection: Connection) -> None:
        await connection.execute(select(leaders.c.term).with_for_update(read=True))
        usual.append(await connection.scalar(text(f"SELECT current_setting('{IDLE}')")))
        # Here and not for the whole test: nobody else is to be thrown out, however slow it is.
        await connection.execute(text(f"SET LOCAL {IDLE} = 300"))
        holding.set()
        await go_on.wait()
        await connection.execute(select(leaders.c.term))

    writing = asyncio.create_task(stalled._dialect.transact(hold))
    await holding.wait()
    assert usual == [f"{postgres.STALLED_MS // 60_000}min"]
    async with asyncio.timeout(LONG):
        while await other.lead("other", HOUR) is None:
            await asyncio.sleep(0.01)
    go_on.set()
    with pytest.raises(Exception, match=r"terminat|clos|connection"):
        await writing
    async with asyncio.timeout(LONG):
        while True:
            try:
                assert await stalled.lead("stalled", SECOND) is None
                break
            except StoreUnavailable:  # its connection is made anew
                await asyncio.sleep(0.01)


async def test_a_session_that_never_gets_the_rest_of_its_statement_is_ended_by_who_waits(
    postgres_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan without its execution, as of a process that is cut off in between: the database
    takes such a session for active, and its own limit of idle transactions does not end it."""
    monkeypatch.setattr(postgres, "STALLED_MS", 200)
    other = await postgres_place.open()
    assert await other.lead("gone", 1) == 1
    ours = {"application_name": postgres.APPLICATION}
    cut = await asyncpg.connect(postgres_place.url, server_settings=ours)
    await cut.execute(f"BEGIN; SET LOCAL {IDLE} = 300")
    await cut.execute("SELECT term FROM leaders FOR SHARE")
    plan = b"\0SELECT 1\0" + struct.pack("!h", 0)
    transport: Any = getattr(cut, "_transport")  # noqa: B009  # a private slot
    transport.write(b"P" + struct.pack("!i", len(plan) + 4) + plan)  # and no Sync
    try:
        async with asyncio.timeout(LONG):
            assert await other.lead("other", HOUR) == 2
    finally:
        cut.terminate()


async def test_a_session_of_another_program_is_not_ended(
    postgres_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as of a backup that is slow to read while a migration waits."""
    store = await postgres_place.open()
    assert await store.lead("first", 1) == 1
    monkeypatch.setattr(postgres, "STALLED_MS", 1)
    foreign = await asyncpg.connect(postgres_place.url)
    await foreign.execute("BEGIN")
    await foreign.execute("SELECT term FROM leaders FOR SHARE")
    pid = foreign.get_server_pid()
    writing = asyncio.create_task(store.lead("second", HOUR))
    blocked = text("SELECT count(*) FROM pg_stat_activity WHERE :pid = ANY(pg_blocking_pids(pid))")
    dialect: Any = store._dialect
    async with asyncio.timeout(LONG):
        while not await dialect.read(lambda c: c.scalar(blocked, {"pid": pid})):
            await asyncio.sleep(0.01)
    assert await dialect.read(dialect._terminate_stalled) == 0
    await foreign.execute("ROLLBACK")
    assert await writing == 2
    await foreign.close()
