"""The part of SqlStore about what is declared and what is up: queues, tasks, pools, workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from longshore_store.committer import Transaction, Write
from longshore_store.dialects import Dialect
from longshore_store.orders import DrainUpdate, WorkerOrder
from longshore_store.part import Part
from longshore_store.topology import TopologyReads, TopologyWrites
from longshore_store.topology_records import (
    LeaderRecord,
    PoolRecord,
    QueueDeclaration,
    QueueRecord,
    TaskRecord,
    WorkerRecord,
)


def declaration_handlers(dialect: Dialect) -> dict[str, Callable[[Transaction, list[Write]], Any]]:
    """Handlers of the committer."""
    topology = TopologyWrites(dialect)
    return {
        "declare_queues": topology.declare_queues,
        "steer_queue": topology.steer_queue,
        "publish_tasks": topology.publish_tasks,
        "publish_pools": topology.publish_pools,
        "record_workers": topology.record_workers,
        "order_workers": topology.order_workers,
        "record_drains": topology.record_drains,
        "remove_workers": topology.remove_workers,
    }


class Declarations(Part):
    """Methods of Store about queues, tasks, pools and workers."""

    _topology: TopologyReads

    async def declare_queues(
        self, queues: Sequence[QueueDeclaration], term: int | None = None
    ) -> None:
        """See Store."""
        await self._write("declare_queues", queues, term)

    async def pause_queue(self, name: str, reason: str) -> bool:
        """See Store."""
        answer: bool = await self._write("steer_queue", name=name, paused=True, reason=reason)
        return answer

    async def resume_queue(self, name: str) -> bool:
        """See Store."""
        answer: bool = await self._write("steer_queue", name=name, paused=False, reason="")
        return answer

    async def publish_tasks(self, tasks: Sequence[TaskRecord], term: int | None = None) -> None:
        """See Store."""
        await self._write("publish_tasks", tasks, term)

    async def publish_pools(self, pools: Sequence[PoolRecord], term: int | None = None) -> None:
        """See Store."""
        await self._write("publish_pools", pools, term)

    async def record_workers(self, term: int, workers: Sequence[WorkerRecord]) -> None:
        """See Store."""
        await self._write("record_workers", workers, term)

    async def remove_workers(self, term: int, worker_ids: Sequence[str]) -> None:
        """See Store."""
        await self._write("remove_workers", worker_ids, term)

    async def order_workers(
        self, worker_ids: Sequence[str], state: int, drain_until_us: int | None = None
    ) -> None:
        """See Store."""
        order = {"state": state, "drain_until_us": drain_until_us}
        await self._write("order_workers", worker_ids, **order)

    async def record_drains(self, term: int, drains: Sequence[DrainUpdate]) -> None:
        """See Store."""
        await self._write("record_drains", drains, term)

    async def list_queues(self) -> list[QueueRecord]:
        """See Store."""
        return await self._read(self._topology.queues)

    async def leader(self) -> LeaderRecord | None:
        """See Store."""
        return await self._read(self._topology.leader)

    async def list_tasks(self) -> list[TaskRecord]:
        """See Store."""
        return await self._read(self._topology.tasks)

    async def list_pools(self) -> list[PoolRecord]:
        """See Store."""
        return await self._read(self._topology.pools)

    async def list_workers(self) -> list[WorkerRecord]:
        """See Store."""
        return await self._read(self._topology.workers)

    async def worker_orders(self) -> list[WorkerOrder]:
        """See Store."""
        return await self._read(self._topology.worker_orders)
