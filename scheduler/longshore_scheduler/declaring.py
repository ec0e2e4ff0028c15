"""The queues that a deployment declares: written into its store, and read for a leader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from longshore_store.settings import QueueSettings, Settings
from longshore_store.store import Store
from longshore_store.topology_records import QueueDeclaration, QueueRecord


async def declare_queues(store: Store, settings: Settings, term: int | None = None) -> None:
    """Queues become as the settings say. term: of the leader that says so, if there is one."""
    await store.declare_queues(
        [
            QueueDeclaration(name, q.maximum_waiting, _us(q.attempt_timeout), q.overflow_to)
            for name, q in settings.queues.items()
        ],
        term,
    )


def known_queues(
    declared: Mapping[str, QueueSettings], kept: Sequence[QueueRecord]
) -> dict[str, QueueSettings]:
    """The declared queues, and those that the store keeps for jobs in them or on their way.

    Such jobs may have no limit but that of their queue: it holds as it was declared last.
    """
    names = {*declared, *(queue.name for queue in kept)}
    former = {
        # Unchecked: it was once, and must not keep anybody from leading.
        q.name: QueueSettings.model_construct(
            attempt_timeout=None if q.attempt_timeout_us is None else q.attempt_timeout_us / 1e6,
            overflow_to=q.overflow_to if q.overflow_to in names else "",
        )
        for q in kept
    }
    return {**former, **declared}


def _us(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000)
