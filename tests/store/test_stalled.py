"""A process that is paused in the middle of a transaction must not hold up the others."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from longshore_store.dialects import Connection, postgres
from longshore_store.model import StoreUnavailable
from longshore_store.tables import leaders
from tests.store.factory import SECOND
from tests.store.places import Place

DEADLINE = 10.0


async def test_a_stalled_leader_is_thrown_out_and_replaced(
    postgres_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STALLED_MS", 300)
    stalled, other = await postgres_place.open(), await postgres_place.open()
    assert await stalled.lead("stalled", SECOND // 10) == 1
    holding, go_on = asyncio.Event(), asyncio.Event()

    async def hold(connection: Connection) -> None:
        await connection.execute(select(leaders.c.term).with_for_update(read=True))
        holding.set()
        await go_on.wait()
        await connection.execute(select(leaders.c.term))

    writing = asyncio.create_task(stalled._dialect.transact(hold))
    await holding.wait()
    async with asyncio.timeout(DEADLINE):
        while await other.lead("other", 10 * SECOND) is None:
            await asyncio.sleep(0.01)
    go_on.set()
    with pytest.raises(Exception, match=r"terminat|clos|connection"):
        await writing
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                assert await stalled.lead("stalled", SECOND) is None
                break
            except StoreUnavailable:  # its connection is made anew
                await asyncio.sleep(0.01)
