"""Leadership: a row in the store that must be renewed; whoever holds it may write."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from longshore_scheduler.term import wait_for_event
from longshore_store.model import StoreUnavailable
from longshore_store.store import Store

_log = logging.getLogger(__name__)


class Leadership:
    """Takes and renews leadership under one id.

    Args:
        term_seconds: how long it lasts unrenewed; it is renewed at a third of that.
    """

    def __init__(
        self,
        store: Store,
        leader_id: str,
        term_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self.leader_id = leader_id
        self._seconds = term_seconds
        self._clock = clock

    async def win(self, giving_up: asyncio.Event) -> int | None:
        """Waits until this one leads. Returns the term, or None once giving up is asked for."""
        while not giving_up.is_set():
            try:
                term = await self._ask()
            except (StoreUnavailable, TimeoutError) as error:
                _log.warning("the store does not say who leads: %s", _why(error))
                term = None
            if term is not None:
                return term
            await wait_for_event(giving_up, min(self._seconds / 5, 2.0))
        return None

    async def keep(self, term: int, over: asyncio.Event) -> None:
        """Renews until `over` is set, or until leadership is lost: then it returns too."""
        renewed = self._clock()
        while not await wait_for_event(over, self._seconds / 3):
            asked = self._clock()
            try:
                answer = await self._ask()
            except (StoreUnavailable, TimeoutError) as error:
                _log.warning("leadership was not renewed: %s", _why(error))
                if self._clock() - renewed >= self._seconds:
                    return
                continue
            if answer != term:
                return
            renewed = asked

    async def resign(self) -> None:
        """Gives it up, if the store can be told; else it runs out."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._store.resign(self.leader_id)
        except (StoreUnavailable, TimeoutError) as error:
            _log.warning("could not resign, leadership will run out: %s", _why(error))

    async def _ask(self) -> int | None:
        async with asyncio.timeout(self._seconds / 3):
            return await self._store.lead(self.leader_id, int(self._seconds * 1e6))


def _why(error: Exception) -> str:
    return str(error) or "no answer in time"
