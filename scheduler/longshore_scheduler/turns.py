"""Whose turn it is: how much each lane was served, and how many heads to read of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from longshore_scheduler.plan import LaneKey
from longshore_store.model import Lane

MAXIMUM_LANES = 1024
"""Lanes read in one cycle: those served least; the others have their turn in the next."""

MAXIMUM_HEADS = 4096
"""Heads read in one cycle, so that its cost has a bound whatever waits."""

_FEWEST = 4


class Turns:
    """Served jobs per lane. A lane that comes back starts level with the one served least."""

    def __init__(self) -> None:
        self._passes: dict[LaneKey, float] = {}

    @property
    def passes(self) -> Mapping[LaneKey, float]:
        """Jobs served, by lane; only differences mean something."""
        return self._passes

    def join(self, lanes: Sequence[Lane]) -> None:
        """Forgets lanes that no longer wait and levels new ones."""
        waiting = {(lane.queue, lane.tenant) for lane in lanes}
        known = {lane: served for lane, served in self._passes.items() if lane in waiting}
        level = min(known.values(), default=0.0)
        self._passes = {lane: known.get(lane, level) - level for lane in waiting}

    def charge(self, served: Mapping[LaneKey, int]) -> None:
        """Counts what a plan placed."""
        for lane, count in served.items():
            self._passes[lane] = self._passes.get(lane, 0.0) + count

    def ration(self, lanes: Sequence[Lane], heads: int) -> list[tuple[Lane, int]]:
        """How many heads to read of which lanes: equal shares, what one does not need to others.

        At least a few of each, because the first may need a resource that nobody has free.
        """
        first = sorted(lanes, key=lambda lane: self._passes.get((lane.queue, lane.tenant), 0.0))
        lanes = sorted(first[:MAXIMUM_LANES], key=lambda lane: lane.waiting)
        left, rations = heads, []
        for index, lane in enumerate(lanes):
            share = max(left // (len(lanes) - index), _FEWEST)
            count = min(lane.waiting, share)
            left = max(left - count, 0)
            rations.append((lane, count))
        return rations
