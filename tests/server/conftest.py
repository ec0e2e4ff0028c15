"""The harness as a fixture, and the patience that all tests need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from longshore_server import catalogue
from tests.server.harness import DEADLINE, Harness, opened


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that pauses for some seconds is no store that does not answer."""
    monkeypatch.setattr(catalogue, "READ_TIMEOUT", DEADLINE)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with opened(tmp_path) as harness:
        yield harness
