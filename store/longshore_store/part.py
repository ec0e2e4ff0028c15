"""What the parts of SqlStore share: its clock, its reads and its writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

from longshore_store.dialects import Dialect, Work

T = TypeVar("T")


class Part(ABC):
    """Methods of Store that need no more than this."""

    _dialect: Dialect

    @abstractmethod
    def now_us(self) -> int:
        """See Store."""

    @abstractmethod
    async def _read(self, work: Work[T]) -> T:
        """Runs `work`, with the deadline and the errors of every read."""

    @abstractmethod
    async def _write(
        self, kind: str, rows: Sequence[Any] = (), term: int | None = None, **options: Any
    ) -> Any:
        """Commits rows by the handler of that name, and returns its answer."""
