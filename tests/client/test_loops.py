"""A client lives on one event loop."""

from __future__ import annotations

import asyncio

import pytest

from longshore import AsyncClient, LongshoreError


def test_a_client_of_another_loop_is_told_so(target: str) -> None:
    client = AsyncClient(target)

    async def ask() -> None:
        assert await client.tasks()

    asyncio.run(ask())
    with pytest.raises(LongshoreError, match="belongs to another event loop"):
        asyncio.run(ask())
