"""A store whose caller sees an error, now and then, after the call was done."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from longshore_store.model import StoreUnavailable
from longshore_store.store import Store


class UnsureStore:
    """Passes every method on; a share of the calls raises although it was done.

    Args:
        rate: the share, 0 to 1. May be changed.
        seed: decides which.
    """

    def __init__(self, store: Store, rate: float, seed: int) -> None:
        self._store = store
        self._random = random.Random(seed)
        self.rate = rate
        self.calls = 0
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return self._unsure(method) if asyncio.iscoroutinefunction(method) else method

    def _unsure(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **options: Any) -> Any:
            answer = await method(*args, **options)
            self.calls += 1
            if self._random.random() < self.rate:
                self.failures += 1
                raise StoreUnavailable("done, and the answer was lost on its way")
            return answer

        return call
