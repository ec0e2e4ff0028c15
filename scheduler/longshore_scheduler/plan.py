"""Which waiting job goes to which worker: pure, with no database, no Ray and no clock of its own.

What is *lasting* and what is *quick* decides everything here. An attempt whose task's measured
run time is at most `prefetch` is quick: it takes no lasting room, and a worker may be handed
more of them than it has room for, as long as the wait of the last one stays under `prefetch`.
Every other attempt, those of unknown run time first of all, is lasting and must fit into what
the lasting ones leave free. So quick jobs fly and long jobs never wait behind each other.

A job that needs no accelerator takes a worker that has one only where no pool without could
ever run it.

A *suspect* was interrupted again and again. It shares a worker with few other suspects, or with
nobody (`suspects.company`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from longshore_scheduler.room import Room, count_fitting, take, uses_device
from longshore_scheduler.suspects import ALONE, company
from longshore_store.model import Head
from longshore_store.needs import Needs, lacking, parse_needs

LaneKey = tuple[str, str]
"""(queue, tenant)"""


class WorkerView(NamedTuple):
    """A worker that takes work. `room` is what its lasting attempts leave free.

    quick_count and quick_seconds: quick attempts it holds, and their estimates together.
    models: those it probably has loaded. attempts: all that it holds. interrupted: how often those
    were interrupted that were. tasks: those it has, None where it does not say. lacks: those that
    it turned out not to have. behind: it runs another build than the scheduler's.
    """

    id: str
    pool: str
    offer: Needs
    room: Room
    quick_count: int = 0
    quick_seconds: float = 0.0
    models: frozenset[str] = frozenset()
    attempts: int = 0
    interrupted: tuple[int, ...] = ()
    tasks: frozenset[str] | None = None
    lacks: frozenset[str] = frozenset()
    behind: bool = False

    def has(self, task: str) -> bool:
        """True where it may be given this task."""
        return (self.tasks is None or task in self.tasks) and task not in self.lacks


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that planning knows.

    heads: the front of each lane, in its order. passes: how much each lane was served so far;
    the one served least goes first. offers: what a worker of each pool offers, whether or not
    one is up. run_times: seconds by task. prefetch: seconds. maximum_prefetch: jobs per worker.
    maximum_interruptions: of which the last one dead-letters.
    """

    workers: Sequence[WorkerView]
    heads: Mapping[LaneKey, Sequence[Head]]
    offers: Mapping[str, Needs]
    run_times: Mapping[str, float] = field(default_factory=dict)
    passes: Mapping[LaneKey, float] = field(default_factory=dict)
    prefetch: float = 0.02
    maximum_prefetch: int = 512
    maximum_interruptions: int = 10


class Placement(NamedTuple):
    """A head and its worker. `estimate` is None for a lasting attempt, else its seconds.

    `ahead`: handed over before there is room for it, so it may be recalled.
    """

    head: Head
    worker_id: str
    needs: Needs
    estimate: float | None
    ahead: bool


class Plan(NamedTuple):
    """What to lease, in fair order; the heads that fit no free worker; jobs placed by lane."""

    placements: list[Placement]
    waiting: list[Head]
    served: dict[LaneKey, int]


class _Seat:
    """A worker while the plan fills it. company: how many suspects it may hold by the word of those
    that it holds."""

    __slots__ = ("attempts", "company", "quick_count", "quick_seconds", "room", "suspects", "view")

    def __init__(self, view: WorkerView, maximum_interruptions: int) -> None:
        self.view = view
        self.attempts = view.attempts
        self.suspects = 0
        self.company = math.inf
        for interruptions in view.interrupted:
            allowed = company(interruptions, maximum_interruptions)
            if allowed is not None:
                self.suspects += 1
                self.company = min(self.company, allowed)
        self.room = view.room
        self.quick_count = view.quick_count
        self.quick_seconds = view.quick_seconds


class _LastingGroup:
    """Equal jobs of long or unknown run time: packed into the tightest seat that holds them."""

    def __init__(self, needs: Needs, seats: list[_Seat]) -> None:
        self._needs = needs
        order = sorted(seats, key=self._preference, reverse=True)
        self._seats = order

    def _preference(self, seat: _Seat) -> tuple[bool, bool, int, bool, int, int, int, str]:
        needs, view, room = self._needs, seat.view, seat.room
        return (
            view.behind,
            bool(needs.model) and needs.model not in view.models,
            _accelerator_rank(needs, view.offer),
            seat.quick_count > 0,
            sum(free for free, _ in room.devices),
            room.cpu_millis,
            room.memory_bytes,
            view.id,
        )

    def place(self, head: Head) -> Placement | None:
        # Room only shrinks during a plan: a seat that is full once is never asked again.
        while self._seats:
            seat = self._seats[-1]
            if self._fits(seat):
                seat.room, _ = take(seat.room, self._needs)
                seat.attempts += 1
                return Placement(head, seat.view.id, self._needs, None, False)
            self._seats.pop()
        return None

    def _fits(self, seat: _Seat) -> bool:
        return count_fitting(seat.room, self._needs) > 0


class _SuspectGroup(_LastingGroup):
    """Equal jobs that must not meet, or meet few others like them. None is handed ahead."""

    def __init__(self, needs: Needs, seats: list[_Seat], allowed: int) -> None:
        super().__init__(needs, seats)
        self._allowed = allowed

    def place(self, head: Head) -> Placement | None:
        placement = super().place(head)
        if placement is not None:
            seat = self._seats[-1]
            seat.suspects += 1
            seat.company = min(seat.company, self._allowed)
            if self._allowed == ALONE:
                seat.room = seat.room._replace(runners=0)
        return placement

    def _fits(self, seat: _Seat) -> bool:
        if self._allowed == ALONE:
            return not seat.attempts and super()._fits(seat)
        return seat.suspects <= min(seat.company, self._allowed) and super()._fits(seat)


class _QuickGroup:
    """Equal jobs of known, short run time: spread so that the waits of all workers rise evenly."""

    def __init__(
        self, needs: Needs, estimate: float, seats: list[_Seat], snapshot: Snapshot
    ) -> None:
        self._needs = needs
        self._estimate = estimate
        self._prefetch = snapshot.prefetch
        self._maximum = snapshot.maximum_prefetch
        entries = (self._entry(order, seat) for order, seat in enumerate(seats))
        self._heap = [entry for entry in entries if entry is not None]
        heapq.heapify(self._heap)

    def _entry(self, order: int, seat: _Seat) -> tuple[float, int, int, Room, _Seat] | None:
        slots = count_fitting(seat.room, self._needs)
        if not slots:
            return None
        return (seat.quick_seconds / slots, order, slots, seat.room, seat)

    def place(self, head: Head) -> Placement | None:
        heap = self._heap
        while heap:
            _, order, slots, room, seat = heap[0]
            if seat.room is not room:  # a lasting attempt was placed there meanwhile
                self._refresh(order, seat)
                continue
            over = seat.quick_count - slots
            wait = seat.quick_seconds / slots
            if over >= 0 and (wait >= self._prefetch or over >= self._maximum):
                heapq.heappop(heap)
                continue
            seat.attempts += 1
            seat.quick_count += 1
            seat.quick_seconds += self._estimate
            heapq.heapreplace(heap, (seat.quick_seconds / slots, order, slots, room, seat))
            return Placement(head, seat.view.id, self._needs, self._estimate, over >= 0)
        return None

    def _refresh(self, order: int, seat: _Seat) -> None:
        entry = self._entry(order, seat)
        if entry is None:
            heapq.heappop(self._heap)
        else:
            heapq.heapreplace(self._heap, entry)


def plan(snapshot: Snapshot) -> Plan:
    """Places as many heads as fit, lane by lane in turn. Equal snapshots give equal plans.

    The cost is O(heads + distinct needs x workers).
    """
    limit = snapshot.maximum_interruptions
    seats = [_Seat(view, limit) for view in sorted(snapshot.workers) if view.room.runners > 0]
    kept = _keep_one(snapshot, seats)
    seats = [seat for seat in seats if seat.company != ALONE]
    others = [seat for seat in seats if seat is not kept]
    groups: dict[tuple[str, str, int | None], _LastingGroup | _QuickGroup] = {}
    result = Plan([], [], {})
    placements, waiting = result.placements, result.waiting
    for lane, head in _fair_order(snapshot, result.served):
        allowed = company(head.interruptions, limit) if head.interruptions else None
        key = (head.needs_json, head.task, allowed)
        group = groups.get(key)
        if group is None:
            free = seats if allowed == ALONE else others
            group = groups[key] = _make_group(head, free, snapshot, allowed)
        placement = group.place(head)
        if placement is None:
            waiting.append(head)
        else:
            placements.append(placement)
            result.served[lane] += 1
    return result


def eligible_pools(needs: Needs, offers: Mapping[str, Needs]) -> set[str]:
    """The pools that could ever run a job with these needs, and are meant to."""
    fitting = {name for name, offer in offers.items() if lacking(needs, offer) is None}
    if uses_device(needs):
        return fitting
    plain = {name for name in fitting if not offers[name].gpu_millis}
    return plain or fitting


def _keep_one(snapshot: Snapshot, seats: list[_Seat]) -> _Seat | None:
    """A worker that takes nothing else until a job that must run alone has it to itself.

    One at a time: while a job runs alone, others like it wait for a worker that is idle anyway.
    """
    limit = snapshot.maximum_interruptions
    every = (head for heads in snapshot.heads.values() for head in heads if head.interruptions)
    waiting = [head for head in every if company(head.interruptions, limit) == ALONE]
    if not waiting or any(seat.company == ALONE for seat in seats):
        return None
    first = min(waiting, key=lambda head: (head.ready_us, head.id))
    pools = eligible_pools(parse_needs(first.needs_json), snapshot.offers)
    fitting = (s for s in seats if s.view.pool in pools and s.view.has(first.task))
    return min(fitting, key=lambda seat: (seat.attempts, seat.view.id), default=None)


def _make_group(
    head: Head, seats: list[_Seat], snapshot: Snapshot, allowed: int | None
) -> _LastingGroup | _QuickGroup:
    needs = parse_needs(head.needs_json)
    pools = eligible_pools(needs, snapshot.offers)
    fitting = [seat for seat in seats if seat.view.pool in pools and seat.view.has(head.task)]
    if allowed is not None:
        return _SuspectGroup(needs, fitting, allowed)
    estimate = snapshot.run_times.get(head.task)
    if estimate is None or estimate > snapshot.prefetch:
        return _LastingGroup(needs, fitting)
    return _QuickGroup(needs, estimate, fitting, snapshot)


def _accelerator_rank(needs: Needs, offer: Needs) -> int:
    ranks = (rank for rank, kind in enumerate(needs.accelerators) if kind in offer.accelerators)
    return next(ranks, len(needs.accelerators))


def _fair_order(snapshot: Snapshot, served: dict[LaneKey, int]) -> Iterator[tuple[LaneKey, Head]]:
    """Heads by turns: the lane served least first, then by priority, then by age.

    `served` is read between the heads: a head that fits nowhere does not use up a turn, and yet
    its lane goes on, so that a large job does not hold up the small ones behind it.
    """
    heap = [
        (snapshot.passes.get(lane, 0.0), -heads[0].priority, heads[0].ready_us, lane, 0)
        for lane, heads in snapshot.heads.items()
        if heads
    ]
    served.update((entry[3], 0) for entry in heap)
    heapq.heapify(heap)
    while len(heap) > 1:
        _, _, _, lane, index = heap[0]
        heads = snapshot.heads[lane]
        yield lane, heads[index]
        index += 1
        if index == len(heads):
            heapq.heappop(heap)
            continue
        head = heads[index]
        turn = snapshot.passes.get(lane, 0.0) + served[lane]
        heapq.heapreplace(heap, (turn, -head.priority, head.ready_us, lane, index))
    for _, _, _, lane, index in heap:
        for head in snapshot.heads[lane][index:]:
            yield lane, head
