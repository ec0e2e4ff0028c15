"""Which attempt goes to which runner, and when.

An attempt starts when its resources are free. A runner of sync attempts is a *lane*: it holds
the resources of one attempt and works on a line of equal ones. It is handed more than one only
where the measured run time says that the extra wait stays tiny.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from longshore_cpu_workers.attempt import Attempt, Stage
from longshore_cpu_workers.backlog import Backlog, Owner, Shape
from longshore_cpu_workers.binding import Binding, DeviceSet
from longshore_cpu_workers.capacity import Capacity
from longshore_cpu_workers.fleet import Fleet
from longshore_cpu_workers.handle import Message, Role, Runner
from longshore_cpu_workers.memory import resident
from longshore_cpu_workers.settings import WorkerSettings

_MANY_STARTS = 4
_APART = 600.0


class Estimates:
    """Measured run time by task: rises fast and falls slowly, so that one long run counts."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def of(self, task: str) -> float | None:
        """Seconds, or None before the first run."""
        return self._seconds.get(task)

    def learn(self, task: str, seconds: float) -> None:
        """Takes a run into account."""
        known = self._seconds.get(task, seconds)
        weight = 0.5 if seconds > known else 0.05
        self._seconds[task] = known + weight * (seconds - known)


class Apart:
    """Async tasks of which an attempt stopped the others of its process, or took them along.

    Their attempts get a process each for a while, so that the next time it is theirs alone.
    """

    def __init__(self) -> None:
        self._until: dict[Owner, float] = {}

    def hold(self, owner: Owner) -> None:
        """It has just happened."""
        now = time.monotonic()
        self._until = {kept: until for kept, until in self._until.items() if until > now}
        self._until[owner] = now + _APART

    def holds(self, owner: Owner) -> bool:
        """True where attempts may not share a process now."""
        return bool(self._until) and self._until.get(owner, 0.0) > time.monotonic()


class Dispatcher:
    """Moves attempts from the backlog to runners."""

    def __init__(
        self,
        settings: WorkerSettings,
        binding: Binding,
        fleet: Fleet,
        on_handed: Callable[[Runner, Attempt], None],
    ) -> None:
        self.backlog = Backlog(share=settings.share_runners)
        self.apart = Apart()
        self.capacity = Capacity(settings.capacity, binding)
        self.estimates = Estimates()
        self._settings = settings
        self._binding = binding
        self._fleet = fleet
        self._on_handed = on_handed

    def pump(self) -> None:
        """Hands out what can run now."""
        if not len(self.backlog):
            return
        for shape in self.backlog.shapes():
            self._admit(shape)
        for runner in self._fleet:
            if runner.shape is not None and runner.takes_more:
                self._top_up(runner, runner.shape)

    def finished(self, runner: Runner, attempt: Attempt, seconds: float | None) -> None:
        """An attempt left its runner: learns from it, and frees what nobody goes on using."""
        runner.load -= attempt.estimate
        if seconds is not None:
            self.estimates.learn(attempt.assignment.task, seconds)
        if runner.role is Role.ASYNC:
            self.capacity.release(attempt.devices, attempt.assignment.needs)
        elif not runner.attempts:
            self._close_lane(runner)

    def lost(self, runner: Runner, attempts: list[Attempt]) -> None:
        """A runner is gone with all it held: frees their resources."""
        if runner.role is Role.ASYNC:
            for attempt in attempts:
                self.capacity.release(attempt.devices, attempt.assignment.needs)
        else:
            self._close_lane(runner)

    def _close_lane(self, runner: Runner) -> None:
        """An empty lane goes on with the oldest attempt of any shape that fits."""
        if runner.shape is not None:
            self.capacity.release(runner.devices, runner.shape.needs)
        runner.shape, runner.load, runner.withdrawing = None, 0.0, False

    def _admit(self, shape: Shape) -> None:
        role = Role.ASYNC if shape.is_async else Role.SYNC
        while self.backlog.head(shape) is not None:
            devices = self.capacity.acquire(shape.needs)
            if devices is None:
                return
            alone = shape.is_async and self.apart.holds(shape.owner)
            runner = self._fleet.take(devices, role, shape.owner, alone=alone)
            if runner is None:
                self._fleet.request(devices, self._demand(shape))
                self.capacity.release(devices, shape.needs)
                return
            self._open(runner, shape, devices)

    def _demand(self, shape: Shape) -> int:
        """How many more runners this shape could use, beginning with one that has its place."""
        if shape.is_async and not self.apart.holds(shape.owner):
            return 1
        held: list[DeviceSet] = []
        most = min(_MANY_STARTS, self.backlog.length(shape)) - 1
        while len(held) < most and (more := self.capacity.acquire(shape.needs)) is not None:
            held.append(more)
        for devices in held:
            self.capacity.release(devices, shape.needs)
        return 1 + len(held)

    def _open(self, runner: Runner, shape: Shape, devices: DeviceSet) -> None:
        attempt = self.backlog.pop(shape)
        if runner.role is Role.ASYNC:
            attempt.devices = devices
        else:
            runner.shape = shape
            if shape.needs.memory_bytes and self._settings.memory_limit != "off":
                runner.memory_before = resident(runner.pid)
        self._hand(runner, [attempt])

    def _top_up(self, runner: Runner, shape: Shape) -> None:
        """Fills the line of a lane once it is half empty: full frames, not one for each end."""
        if len(runner.attempts) > self._settings.ahead_count // 2 or not self._tiny(runner.head):
            return
        if runner.load > self._settings.ahead_seconds / 2 or self._older_waits(shape):
            return
        if batch := self._ahead(runner, shape):
            self._hand(runner, batch)

    def _ahead(self, runner: Runner, shape: Shape) -> list[Attempt]:
        room = min(self._settings.ahead_count - len(runner.attempts), self._share(shape))
        seconds = self._settings.ahead_seconds - runner.load
        batch: list[Attempt] = []
        while len(batch) < room and self._tiny(head := self.backlog.head(shape)):
            assert head is not None
            seconds -= self.estimates.of(head.assignment.task) or 0.0
            if seconds < 0:
                break
            batch.append(self.backlog.pop(shape))
        return batch

    def _tiny(self, attempt: Attempt | None) -> bool:
        """True where another attempt may wait behind this one, and this one behind another."""
        if attempt is None or attempt.ending is not None or _hashes(attempt):
            return False
        seconds = self.estimates.of(attempt.assignment.task)
        return seconds is not None and seconds <= self._settings.ahead_seconds / 2

    def _share(self, shape: Shape) -> int:
        lanes = sum(runner.shape == shape for runner in self._fleet)
        return math.ceil(self.backlog.length(shape) / max(1, lanes))

    def _older_waits(self, shape: Shape) -> bool:
        """True where another shape has waited longer: then lanes run empty and it gets its turn."""
        shapes = self.backlog.shapes()
        return bool(shapes) and shapes[0] != shape

    def _hand(self, runner: Runner, attempts: list[Attempt]) -> None:
        if not runner.attempts:
            runner.since = time.monotonic()
        for attempt in attempts:
            attempt.stage = Stage.HANDED
            attempt.estimate = self.estimates.of(attempt.assignment.task) or 0.0
            runner.load += attempt.estimate
            runner.attempts[attempt.serial] = attempt
            self._on_handed(runner, attempt)
        names = self._binding.names(runner.devices)
        hard = self._settings.memory_limit == "hard"
        runner.send(["run", [_job(attempt, names, hard=hard) for attempt in attempts]])


def _hashes(attempt: Attempt) -> bool:
    """True where inputs are read before the task begins; that takes as long as they are large."""
    inputs = attempt.assignment.inputs
    return bool(inputs) and any(ref.sha256 for ref in inputs)


def _job(attempt: Attempt, devices: tuple[str, ...], *, hard: bool) -> Message:
    a = attempt.assignment
    return [
        attempt.serial,
        a.job_id,
        a.fence,
        a.number,
        a.task,
        a.tenant,
        a.payload,
        [tuple(ref) for ref in a.inputs],  # orjson knows tuples, not kinds of them
        a.checkpoint,
        a.attempt_timeout,
        devices,
        a.needs.memory_bytes if hard else 0,
    ]
