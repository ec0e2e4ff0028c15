"""One service for the tests that leave it as they found it, and one for each that kills it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from longshore import AsyncClient
from tests.e2e.service import Service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole services start here, some of them several times; each wait has its own deadline."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service; stopped at the end, when it must leave nothing."""
    service = Service(tmp_path_factory.mktemp("shared"))
    service.start()
    yield service
    assert service.stop() == 0


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Service]:
    """A service of this test alone, not started."""
    service = Service(tmp_path)
    yield service
    if service.process is not None and service.process.poll() is None:
        service.stop()


@pytest.fixture
async def client(shared: Service) -> AsyncIterator[AsyncClient]:
    """A client of the shared service."""
    async with AsyncClient(shared.target) as client:
        yield client
