"""Who holds what: the workers of a term and the attempts that the store counts as theirs."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from longshore_cpu_workers.wire import PROTOCOL, DeviceInfo, WorkerInfo
from longshore_scheduler.cluster import PoolSpec
from longshore_scheduler.plan import Placement, WorkerView
from longshore_scheduler.policy import Counters
from longshore_scheduler.room import close_device, count_fitting, empty_room, give, take
from longshore_scheduler.specs import wire_needs
from longshore_store.model import ActiveAttempt, Leased
from longshore_store.needs import Needs, needs_json, parse_needs
from longshore_store.orders import WorkerOrder

_MODELS = 8


def _find_counts(fields: tuple[str, ...]) -> slice:
    first = fields.index("attempts")
    assert fields[first : first + 4] == Counters._fields
    return slice(first, first + 4)


# A slice of the row costs a fifth of a Counters, which only attempts that fail need.
_COUNTS = {kind: _find_counts(kind._fields) for kind in (Leased, ActiveAttempt)}


class WorkerState(enum.IntEnum):
    """The life of a worker; the values are those of longshore.v1.WorkerState."""

    STARTING = 1
    READY = 2
    CORDONED = 3
    DRAINING = 4
    LOST = 5


_STEERED = (WorkerState.READY, WorkerState.CORDONED)


class Told(enum.IntEnum):
    """How strongly a worker was told to give an attempt up."""

    NOTHING = 0
    RECALL = 1
    CANCEL = 2
    FORCE = 3


class Held:
    """An attempt from the plan that placed it until its end is committed.

    `fence` is 0 until the lease is granted. `settled`: its outcome is here, its room is free
    again, and only the commit is awaited. `checkpointed`: it has saved a checkpoint since it began.
    Clocks are the scheduler's monotonic one.
    """

    __slots__ = (
        "_counts", "ahead", "checkpointed", "devices", "estimate", "fence", "interruptions",
        "job_id", "needs", "needs_json",
        "ordered_at", "placed_at", "queue", "settled", "spec", "started_at", "task", "told",
        "told_at", "total_deadline_us", "worker",
    )  # fmt: skip

    def __init__(
        self, worker: Worker | None, job_id: str, task: str, needs: Needs, estimate: float | None,
        ahead: bool, now: float, interruptions: int = 0,
    ) -> None:  # fmt: skip
        self.worker = worker
        self.job_id = job_id
        self.task = task
        self.needs = needs
        self.estimate = estimate
        self.ahead = ahead
        self.placed_at = now
        self.fence = 0
        self.started_at: float | None = None
        self.devices: tuple[int, ...] = ()
        self.settled = False
        self.checkpointed = False
        self.interruptions = interruptions
        self.told = Told.NOTHING
        self.told_at = self.ordered_at = now

    def order(self, strength: Told, now: float) -> None:
        """The worker is told to give it up; `told_at` stays the first time."""
        if self.told is Told.NOTHING:
            self.told_at = now
        self.told, self.ordered_at = strength, now

    def bind(self, job: Leased | ActiveAttempt) -> None:
        """Takes over what the lease says; not the payload, which may be large."""
        self.fence = job.fence
        self.queue = job.queue
        self.needs_json = job.needs_json
        self.spec = job.spec
        self.total_deadline_us = job.total_deadline_us
        row: tuple[Any, ...] = job
        self._counts: tuple[int, ...] = row[_COUNTS[type(job)]]

    def counters(self) -> Counters:
        """What ended before this attempt."""
        return Counters(*self._counts)

    @classmethod
    def orphan(cls, job: ActiveAttempt) -> Held:
        """An attempt that the store knows and no worker has."""
        held = cls(None, job.id, job.task, parse_needs(job.needs_json), None, False, 0.0)
        held.bind(job)
        held.settled = True
        return held


class Worker:
    """A worker as the scheduler sees it. Its times are the store's.

    answers: False from a change of leader until it replied to the new one, and from a call that it
    did not answer until its next reply: it gets no new work, and its lease decides. heard_us: when
    it replied last. excused_us: time since then that says nothing about it, because this process
    did not run or was busy with its reports.
    outdated: why it is replaced; empty if it stays. It ends what it has, takes no more, and goes.
    behind: it runs another build than the scheduler's, and its turn to be replaced comes.
    lacks: tasks that it turned out not to have.
    refusals: attempts in a row that it refused to take.
    finished, released: attempts that ended by themselves during its drain, and that were taken
    back.
    """

    def __init__(
        self, info: WorkerInfo, pool: PoolSpec, began_us: int, *, answers: bool = True
    ) -> None:
        self.info = info
        self.answers = answers
        self.id = info.worker_id
        self.pool = pool
        self.began_us = began_us
        self.outdated = _outdated(info, pool)
        self.behind = False
        self.lacks: frozenset[str] = frozenset()
        self.refusals = 0
        self.state = WorkerState.CORDONED if self.outdated else WorkerState.READY
        self.heard_us = began_us
        self.excused_us = 0
        self.finished = self.released = 0
        self.absorbing = False
        self.held: dict[str, Held] = {}
        self.room = empty_room(pool.offer, pool.settings.maximum_runners)
        self._set_aside: set[int] = set()
        self.close_devices(n for n, device in enumerate(info.devices) if device.set_aside)
        self.quick_count = 0
        self.quick_seconds = 0.0
        self.interrupted: dict[str, int] = {}
        self.models: dict[str, None] = {}

    def close_devices(self, positions: Iterable[int]) -> list[DeviceInfo]:
        """Its devices that it lends no more have no room. Returns those of them that are new."""
        devices = list(self.info.devices)
        fresh = [n for n in positions if n not in self._set_aside and n < len(devices)]
        for position in fresh:
            self._set_aside.add(position)
            devices[position] = devices[position]._replace(set_aside=True)
            self.room = close_device(self.room, position, self.pool.offer.gpu_memory_bytes)
        if fresh:
            self.info = self.info._replace(devices=tuple(devices))
        return [devices[position] for position in fresh]

    def view(self) -> WorkerView:
        """What planning needs to know."""
        return WorkerView(
            self.id,
            self.pool.name,
            self.pool.offer,
            self.room,
            self.quick_count,
            self.quick_seconds,
            frozenset(self.models),
            self.pool.settings.maximum_runners - self.room.runners + self.quick_count,
            tuple(self.interrupted.values()),
            self.info.tasks,
            self.lacks,
            self.behind,
        )

    @property
    def shape_json(self) -> str:
        """What it offers, in the form of `needs_json`."""
        capacity = self.info.capacity._asdict()
        custom = dict(capacity.pop("custom"))
        return needs_json(**capacity, custom=custom, accelerators=self.pool.settings.accelerators)

    def hear(self, now_us: int) -> None:
        """It replied."""
        self.answers = True
        self.heard_us, self.excused_us = now_us, 0

    def excuse(self, span_us: int, now_us: int) -> None:
        """Time that passed is not its silence; at most all since it was heard."""
        self.excused_us = min(self.excused_us + span_us, now_us - self.heard_us)

    def silent_us(self, now_us: int) -> int:
        """For how long it could have replied and did not."""
        return now_us - self.heard_us - self.excused_us

    def obey(self, ordered: WorkerState) -> bool:
        """Takes the state that people ordered; True where that changed something.

        A drain is never taken back: attempts were cancelled for it. Nor are the worker's
        processes: what its `stop` has begun goes on.
        """
        if self.state not in _STEERED or ordered not in (*_STEERED, WorkerState.DRAINING):
            return False
        if self.outdated and ordered is WorkerState.READY:
            return False
        changed, self.state = self.state is not ordered, ordered
        return changed

    def set_aside(self, why: str) -> None:
        """It takes no more work and is replaced; it ends what it has."""
        self.outdated = self.outdated or why
        if self.state is WorkerState.READY:
            self.state = WorkerState.CORDONED

    def count(self, ended: int, released: int) -> None:
        """Attempts ended during its drain, and so many of them go back to their queue."""
        if self.state is WorkerState.DRAINING:
            self.finished += ended - released
            self.released += released

    def occupy(self, held: Held) -> None:
        """Takes the room of an attempt, or its place among the quick ones."""
        if held.interruptions:
            self.interrupted[held.job_id] = held.interruptions
        if held.estimate is None:
            self.room, held.devices = take(self.room, held.needs)
        else:
            self.quick_count += 1
            self.quick_seconds += held.estimate

    def vacate(self, held: Held) -> None:
        """Gives it back."""
        if held.interruptions:
            self.interrupted.pop(held.job_id, None)
        if held.estimate is None:
            self.room = give(self.room, held.needs, held.devices)
            return
        self.quick_count -= 1
        self.quick_seconds -= held.estimate
        if not self.quick_count:  # forget what rounding has left
            self.quick_seconds = 0.0

    def outgrow(self, held: Held) -> None:
        """A quick attempt turned out to last: it counts with its room from now on."""
        self.vacate(held)
        held.estimate = None
        self.occupy(held)

    def overdue(self, before: float) -> list[Held]:
        """Attempts placed before that time whose outcome is not here, oldest first."""
        # `held` is in the order of placing, so this reads no more than it returns.
        old = takewhile(lambda held: held.placed_at < before, self.held.values())
        return [held for held in old if not held.settled]

    @property
    def takes_work(self) -> bool:
        """False where it is on its way out, or has not answered yet."""
        return self.state is WorkerState.READY and self.answers

    def idle_for(self, task: str, needs: Needs) -> bool:
        """True where such an attempt would begin at once.

        A worker of a job that was interrupted is none: that job may be meant to run alone.
        """
        free = count_fitting(self.room, needs)
        fits = self.takes_work and not self.interrupted and self.quick_count < free
        return fits and self.view().has(task)

    def remember_model(self, model: str) -> None:
        """The newest few models are probably loaded."""
        self.models.pop(model, None)
        self.models[model] = None
        while len(self.models) > _MODELS:
            del self.models[next(iter(self.models))]


def _outdated(info: WorkerInfo, pool: PoolSpec) -> str:
    if pool.former or info.capacity != wire_needs(pool.shape_json):
        return "its pool is not declared like that any more"
    if info.protocol != PROTOCOL:
        return f"it speaks protocol {info.protocol}, not {PROTOCOL}"
    return ""


class Roster:
    """The workers by id, and every held attempt by job id."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.held: dict[str, Held] = {}

    def __iter__(self) -> Iterator[Worker]:
        return iter(self.workers.values())

    def add(self, worker: Worker) -> None:
        """A worker is up."""
        self.workers[worker.id] = worker

    def remove(self, worker: Worker) -> list[Held]:
        """Forgets a worker. Returns the leased attempts it took with it."""
        self.workers.pop(worker.id, None)
        worker.state = WorkerState.LOST
        return [held for held in worker.held.values() if held.fence and not held.settled]

    def ready(self) -> list[Worker]:
        """Those that take work."""
        return [worker for worker in self.workers.values() if worker.takes_work]

    def obey(self, orders: Mapping[str, WorkerOrder]) -> int:
        """Workers take the states that were ordered of them. Returns how many changed theirs."""
        given = ((worker, orders.get(worker.id)) for worker in self)
        return sum(worker.obey(WorkerState(order.state)) for worker, order in given if order)

    def reserve(self, placements: Iterable[Placement], now: float) -> list[Held]:
        """Holds the room of what is about to be leased."""
        reserved = []
        for head, worker_id, needs, estimate, ahead in placements:
            worker = self.workers[worker_id]
            held = Held(worker, head.id, head.task, needs, estimate, ahead, now, head.interruptions)
            worker.occupy(held)
            worker.held[head.id] = self.held[head.id] = held
            reserved.append(held)
            if needs.model:
                worker.remember_model(needs.model)
        return reserved

    def adopt(self, worker: Worker, job: ActiveAttempt, needs: Needs, now: float) -> Held:
        """Takes over an attempt that an earlier leader gave to this worker."""
        held = Held(worker, job.id, job.task, needs, None, False, now, job.interruptions)
        held.bind(job)
        if job.started_us is not None:
            held.started_at = now
        worker.occupy(held)
        worker.held[job.id] = self.held[job.id] = held
        return held

    def find(self, job_id: str, fence: int) -> Held | None:
        """The attempt, if it is held and its outcome is not here yet."""
        held = self.held.get(job_id)
        if held is None or held.fence != fence or held.settled:
            return None
        return held

    def settle(self, held: Held) -> None:
        """Its outcome is here: the room is free, the store does not know yet."""
        if not held.settled and held.worker is not None:
            held.worker.vacate(held)
        held.settled = True

    def drop(self, attempts: Iterable[Held]) -> None:
        """The store knows their end, or never granted their lease."""
        for held in attempts:
            self.settle(held)
            # The job may have been leased anew since: then its place is another Held's.
            if self.held.get(held.job_id) is held:
                del self.held[held.job_id]
            worker = held.worker
            if worker is not None and worker.held.get(held.job_id) is held:
                del worker.held[held.job_id]
