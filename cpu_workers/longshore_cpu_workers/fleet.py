"""The runners of a worker: started on demand, one kept warm, reaped when idle long."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from longshore_cpu_workers.backlog import Owner
from longshore_cpu_workers.binding import Binding, DeviceSet
from longshore_cpu_workers.handle import Listener, Role, Runner
from longshore_cpu_workers.settings import WorkerSettings
from longshore_cpu_workers.spawn import spawn

_log = logging.getLogger(__name__)
_FIRST_BACKOFF = 0.2
_LONGEST_BACKOFF = 30.0
_STARTS_AT_ONCE = 4


class Fleet:
    """Starts, lends and reaps runners.

    A runner that dies before it is ready counts as a failed start. Starts then pause, longer
    each time; `hopeless` says that the attempts that wait should not wait any longer.
    The tokens of runners begin with `token`. `refused`: a start has failed before there was a
    process; whoever hears of it takes the word back.
    """

    def __init__(
        self, settings: WorkerSettings, binding: Binding, token: str, listener: Listener
    ) -> None:
        self._settings = settings
        self._binding = binding
        self._listener = listener
        self._runners: dict[int, Runner] = {}
        self._token = token
        self._failures = 0
        self._pause_until = 0.0
        self.closed = False
        self.trouble = ""
        self.refused = False

    def __iter__(self) -> Iterator[Runner]:
        return iter(list(self._runners.values()))

    def __len__(self) -> int:
        return len(self._runners)

    @property
    def hopeless(self) -> bool:
        """True once `start_tries` starts in a row have failed, and no runner is left that works."""
        alive = any(runner.ready and not runner.doomed for runner in self)
        return self._failures >= self._settings.start_tries and not alive

    def take(
        self, devices: DeviceSet, role: Role, owner: Owner, *, alone: bool = False
    ) -> Runner | None:
        """An idle runner for sync attempts, or the shared one for async attempts of a task.

        alone: an async attempt shares its runner with no other.

        None where none is ready now, or all that may work do.
        """
        usable = [r for r in self if r.ready and r.takes_more and r.devices == devices]
        shared = role is Role.ASYNC and not alone
        for runner in usable:
            if runner.owner == owner and runner.role is role and (shared or not runner.attempts):
                return runner
        fresh = [runner for runner in usable if runner.role is Role.FRESH]
        if not fresh or not self._make_room():
            return None
        fresh[0].role, fresh[0].owner = role, owner
        self.keep_spare()
        return fresh[0]

    def request(self, devices: DeviceSet, count: int) -> None:
        """Sees to it that `count` runners are starting, as far as there is room."""
        starting = sum(r.role is Role.FRESH and r.devices == devices and not r.doomed for r in self)
        for _ in range(min(count, _STARTS_AT_ONCE) - starting):
            if not self._start(devices):
                if not starting:
                    self._give_way(devices)
                return
            starting += 1

    def _give_way(self, devices: DeviceSet) -> None:
        """Stops a fresh runner of other devices that has the place of one that could work."""
        working = sum(r.role is not Role.FRESH for r in self)
        if working >= self._settings.max_runners or any(r.doomed for r in self):
            return
        other = [r for r in self if r.role is Role.FRESH and r.ready and r.devices != devices]
        if len(self) > self._settings.max_runners and other:
            other[0].kill()

    def keep_spare(self) -> None:
        """Starts a runner where no fresh one is ready or on its way."""
        spare = any(r.role is Role.FRESH and not r.doomed for r in self)
        if not spare:
            self._start(self._binding.warm())

    def on_ready(self, runner: Runner) -> None:
        """A runner has loaded its tasks."""
        runner.ready = True
        runner.since = time.monotonic()
        self._failures = 0
        self.trouble = ""

    def on_gone(self, runner: Runner) -> bool:
        """Forgets a dead runner; True where it never was ready: a failed start."""
        self._runners.pop(runner.pid, None)
        if runner.ready or self.closed:
            return False
        self._fail(f"a runner exited with {runner.process.returncode} before it was ready")
        return True

    def tick(self, now: float) -> None:
        """Kills what should have ended by now, and reaps what was idle for long."""
        for runner in self:
            if runner.kill_at is not None and now >= runner.kill_at:
                runner.kill_at = now + 1.0
                runner.kill()
            elif not runner.ready and now - runner.since > self._settings.start_timeout:
                self.trouble = f"not ready after {self._settings.start_timeout:g} s"
                runner.kill()
            elif self._long_idle(runner, now):
                runner.kill()
        self.keep_spare()

    def _long_idle(self, runner: Runner, now: float) -> bool:
        if runner.role is Role.FRESH or runner.attempts or runner.doomed:
            return False
        if self._failures:  # while no other comes up, a broken deploy say, it is kept
            return False
        return now - runner.since > self._settings.idle_timeout

    def _make_room(self) -> bool:
        """Stops the runner that was idle longest where as many work as may; False where none is."""
        working = [r for r in self if r.role is not Role.FRESH and not r.doomed]
        if len(working) < self._settings.max_runners:
            return True
        idle = [runner for runner in working if not runner.attempts]
        if idle:
            min(idle, key=lambda runner: runner.since).kill()
        return bool(idle)

    def _start(self, devices: DeviceSet) -> bool:
        room = len(self._runners) <= self._settings.max_runners  # the spare one comes on top
        if self.closed or not room or time.monotonic() < self._pause_until:
            return False
        try:
            spawned = spawn(self._settings, self._binding.env(devices), self._token)
        except OSError as error:
            self._fail(f"cannot start a runner: {error}")
            self.refused = True
            return False
        runner = Runner(spawned, devices, self._listener)
        self._runners[runner.pid] = runner
        return True

    def _fail(self, message: str) -> None:
        self.trouble = self.trouble or message
        self._failures += 1
        pause = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** (self._failures - 1))
        self._pause_until = time.monotonic() + pause
        _log.warning("%s; next try in %.1f s", self.trouble, pause)
