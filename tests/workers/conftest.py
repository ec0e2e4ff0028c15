"""The task modules of these tests lie beside them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tests.workers.harness import Bench, bench


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Bench]:
    """A worker with one CPU."""
    async with bench(tmp_path) as made:
        yield made


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Bench]:
    """A worker with two CPUs."""
    async with bench(tmp_path, cpus=2) as made:
        yield made


@pytest.fixture
async def benches(tmp_path: Path) -> AsyncIterator[Any]:
    """Makes workers with settings of the test's own."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**more: Any) -> Bench:
            made: Bench = await stack.enter_async_context(bench(tmp_path, **more))
            return made

        yield make
