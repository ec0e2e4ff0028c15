"""What a deployment declares, written into its store: its queues."""

from __future__ import annotations

from longshore_store.settings import Settings
from longshore_store.store import Store
from longshore_store.topology_records import QueueDeclaration


async def declare_queues(store: Store, settings: Settings, term: int | None = None) -> None:
    """Queues become as the settings say. term: of the leader that says so, if there is one."""
    await store.declare_queues(
        [
            QueueDeclaration(name, q.maximum_waiting, _us(q.attempt_timeout), q.overflow_to)
            for name, q in settings.queues.items()
        ],
        term,
    )


def _us(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000)
