"""What the fault tests share: a seed that is printed, and a real Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.scale import SOAK, new_seed
from tests.store import conftest as stores
from tests.store.places import Postgres

postgres = stores.postgres
TIMEOUT = 3600.0 if SOAK else 300.0
_numbers = iter(range(1_000_000))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These wait for one thing after the other; a soak injects each fault as often as the matrix
    says, which takes its time."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture
def seed() -> int:
    """Decides the faults of this test; LONGSHORE_SEED repeats them."""
    made = new_seed()
    print(f"seed {made}")
    return made


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """An empty database of its own."""
    name = f"faults_{next(_numbers)}"
    stores.apart(postgres.execute(f"CREATE DATABASE {name}"))
    yield postgres.url(name)
    stores.apart(postgres.execute(f"DROP DATABASE {name} WITH (FORCE)"))
