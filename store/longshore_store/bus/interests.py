"""Interests: which jobs other processes watch, as far as they said so lately."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping

MAXIMUM = 100_000
LASTING = 25.0


class Interests:
    """A bounded map from jobs to the sequence that their watchers have.

    Nobody takes an interest back: one that is not repeated within `lasting` seconds is forgotten.
    Beyond `maximum` jobs, new ones are not held; their watchers poll.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        maximum: int = MAXIMUM,
        lasting: float = LASTING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._maximum = maximum
        self._lasting = lasting
        self._clock = clock
        # Ordered by expiry. A plain dict would look through all that was deleted before the first.
        self._held: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def note(self, cursors: Mapping[str, int]) -> list[str]:
        """Holds these for as long as an interest lasts. Returns those that are new.

        The sequence of a job only grows: watchers further back have read the store themselves.
        """
        self.forget()
        until = self._clock() + self._lasting
        new = []
        for job_id, cursor in cursors.items():
            known = self._held.get(job_id)
            if known is not None:
                self._held[job_id] = max(cursor, known[0]), until
                self._held.move_to_end(job_id)
            elif len(self._held) < self._maximum:
                self._held[job_id] = cursor, until
                new.append(job_id)
        return new

    def forget(self) -> None:
        """Drops what has expired."""
        now = self._clock()
        while self._held and next(iter(self._held.values()))[1] <= now:
            self._held.popitem(last=False)

    def among(self, job_ids: Collection[str]) -> set[str]:
        """Those of the jobs that are watched."""
        return self._held.keys() & job_ids if self._held else set()

    def cursors(self, job_ids: Iterable[str]) -> dict[str, int]:
        """The sequences of those of the jobs that are watched."""
        held = self._held
        return {job_id: held[job_id][0] for job_id in job_ids if job_id in held}

    def advance(self, job_id: str, sequence: int) -> None:
        """What goes up to this sequence was told to the watchers."""
        known = self._held.get(job_id)
        if known is not None and known[0] < sequence:
            self._held[job_id] = sequence, known[1]
