"""A real Redis, and two processes' worth of store, bus and hub over one real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio

from tests.store.bus.node import Node
from tests.store.bus.patience import be_patient
from tests.store.bus.redis_server import RedisServer
from tests.store.places import Place


class Launch(Protocol):
    """Starts a node; it is stopped after the test."""

    async def __call__(self, *, poll: float = ..., cluster: str = ...) -> Node: ...


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of a deadline calls `be_strict` where that begins."""
    be_patient(monkeypatch.setattr)


@pytest_asyncio.fixture(loop_scope="session")
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def launch(postgres_place: Place, redis: RedisServer) -> AsyncIterator[Launch]:
    async with AsyncExitStack() as stack:

        async def launch(**options: object) -> Node:
            node = Node(postgres_place.url, redis.url, **options)  # type: ignore[arg-type]  # passed on
            return await stack.enter_async_context(node)

        yield launch
