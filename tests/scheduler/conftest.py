"""The harness as a fixture."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from longshore_scheduler import crew
from tests.scheduler.harness import Harness, open_harness


@pytest_asyncio.fixture
async def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    # Real seconds, which a pause of the machine would use up.
    monkeypatch.setattr(crew, "_LAST_REPORTS", 20.0)
    async with open_harness(tmp_path) as opened:
        yield opened
