"""A process that is paused in the middle of a transaction must not hold up the others."""

from __future__ import annotations

import asyncio

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
