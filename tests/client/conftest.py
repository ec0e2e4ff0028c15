"""The scripted service and a client of it, and the patience that all tests need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from longshore import loop_thread
from longshore.aio import AsyncClient
from tests.client.command import Run, runner
from tests.client.fake import DEADLINE, FakeService, FakeTime, ServerThread, serving


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that a paused machine keeps from ending would be left behind, open."""
    monkeypatch.setattr(loop_thread, "UNWIND", DEADLINE)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def client(service: FakeService, fake_time: FakeTime) -> AsyncIterator[AsyncClient]:
    """A client whose sleeps only move a fake clock."""
    async with serving(service) as target, AsyncClient(target, timing=fake_time.timing) as made:
        yield made


@pytest.fixture
def target(service: FakeService) -> Iterator[str]:
    """The service, in a thread: for the CLI and the blocking client."""
    with ServerThread(service) as server:
        yield server.target


@pytest.fixture
def run(target: str) -> Run:
    """The command line, against the service."""
    return runner(target)
