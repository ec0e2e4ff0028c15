"""Whose turn it is: how much each lane was served, and how many heads to read of each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from longshore_scheduler.plan import LaneKey
from longshore_store.model import Lane

MAXIMUM_LANES = 1024
"""Lanes read in one cycle; what is beyond has its turn in the next ones."""

MAXIMUM_HEADS = 4096
"""Heads read in one cycle, so that its cost has a bound whatever waits."""

_FEWEST = 4

CREDIT = 64.0
"""Jobs by which a lane that could not be served may be ahead of the others when it can."""


class Turns:
    """Start-time fair queueing over lanes. A lane has a pass: the jobs that it was served.

    Virtual time is the highest pass at which a service began. A lane that is new or comes back
    starts at the virtual time: it neither waits for the other lanes nor is served before all of
    them. A lane that waits and cannot be served keeps a bounded credit.
    """

    def __init__(self) -> None:
        self._passes: dict[LaneKey, float] = {}
        self._virtual = 0.0
        self._last: LaneKey = ("", "")

    @property
    def passes(self) -> Mapping[LaneKey, float]:
        """Jobs served, by lane; only differences mean something."""
        return self._passes

    def join(self, lanes: Sequence[Lane]) -> None:
        """Forgets lanes that no longer wait. New ones start at the virtual time."""
        now, floor, known = self._virtual, self._virtual - CREDIT, self._passes
        self._passes = {(key := _key(lane)): max(known.get(key, now), floor) for lane in lanes}

    def charge(self, served: Mapping[LaneKey, int]) -> None:
        """Counts what a plan placed."""
        for lane, count in served.items():
            if count:
                began = self._passes.get(lane, self._virtual)
                self._virtual = max(self._virtual, began)
                self._passes[lane] = began + count

    def ration(self, lanes: Sequence[Lane], heads: int) -> list[tuple[Lane, int]]:
        """How many heads to read of which lanes: equal shares, what one does not need to others.

        At least a few of each, because the first may need a resource that nobody has free.
        """
        lanes = sorted(self._chosen(lanes), key=lambda lane: lane.waiting)
        left, rations = heads, []
        for index, lane in enumerate(lanes):
            share = max(left // (len(lanes) - index), _FEWEST)
            count = min(lane.waiting, share)
            left = max(left - count, 0)
            rations.append((lane, count))
        return rations

    def _chosen(self, lanes: Sequence[Lane]) -> Sequence[Lane]:
        """Where there are too many: half of them those served least, half in the order of names.

        Lanes whose jobs fit nowhere are served least for ever, and must not hide the others.
        """
        if len(lanes) <= MAXIMUM_LANES:
            return lanes
        half = MAXIMUM_LANES // 2
        order = sorted(lanes, key=lambda lane: (self._passes.get(_key(lane), 0.0), lane))
        others = sorted(order[half:])
        start = bisect_right(others, self._last, key=_key)
        turn = (others[start:] + others[:start])[: MAXIMUM_LANES - half]
        self._last = _key(turn[-1])
        return [*order[:half], *turn]


def _key(lane: Lane) -> LaneKey:
    return (lane.queue, lane.tenant)
