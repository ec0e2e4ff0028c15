"""The part of SqlStore that keeps a deployment healthy for years: retention and compaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from longshore_store.committer import Transaction, Write
from longshore_store.compaction import CompactionWrites
from longshore_store.dialects import Dialect
from longshore_store.part import Part
from longshore_store.retention import RetentionReads, RetentionWrites
from longshore_store.retention_records import Ages, Ended, Prunable, Spent
from longshore_store.store import Stale


def upkeep_handlers(dialect: Dialect) -> dict[str, Callable[[Transaction, list[Write]], Any]]:
    """Handlers of the committer, to be applied last: they wait for no lock of other processes."""
    retention = RetentionWrites(dialect)
    return {
        "prune_jobs": retention.prune_jobs,
        "prune_logs": retention.prune_logs,
        "prune_checkpoints": retention.prune_checkpoints,
        "prune_redrives": retention.prune_redrives,
        "compact_counts": CompactionWrites(dialect).compact_counts,
    }


class Upkeep(Part):
    """Methods of Store about what is too old."""

    async def prunable_jobs(self, ages: Ages, after_id: str, limit: int) -> Prunable:
        """See Store."""
        reads, now_us = RetentionReads(self._dialect), self.now_us()
        return await self._read(lambda c: reads.prunable(c, now_us, ages, after_id, limit))

    async def spent_checkpoints(self, after_id: str, limit: int) -> Spent:
        """See Store."""
        reads = RetentionReads(self._dialect)
        return await self._read(lambda c: reads.spent_checkpoints(c, after_id, limit))

    async def prune_jobs(self, term: int, jobs: Sequence[Ended]) -> Stale:
        """See Store."""
        answer: Stale = await self._write("prune_jobs", jobs, term)
        return answer

    async def prune_logs(self, term: int, jobs: Sequence[Ended]) -> Stale:
        """See Store."""
        answer: Stale = await self._write("prune_logs", jobs, term)
        return answer

    async def prune_checkpoints(self, term: int, jobs: Sequence[Ended]) -> Stale:
        """See Store."""
        answer: Stale = await self._write("prune_checkpoints", jobs, term)
        return answer

    async def prune_redrives(self, term: int, before_us: int, limit: int) -> int:
        """See Store."""
        options = {"before_us": before_us, "limit": limit}
        answer: int = await self._write("prune_redrives", (), term, **options)
        return answer

    async def compact_counts(self, term: int, limit: int) -> int:
        """See Store."""
        answer: int = await self._write("compact_counts", (), term, limit=limit)
        return answer
