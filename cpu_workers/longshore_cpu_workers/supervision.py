"""What happens between a worker and its runners: messages, deaths, deadlines."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from longshore.sdk.artifacts import delete_folder
from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.attempt import Attempt, Stage
from longshore_cpu_workers.binding import Binding, DeviceSet
from longshore_cpu_workers.build import Build
from longshore_cpu_workers.dispatch import Dispatcher
from longshore_cpu_workers.endings import (
    NEIGHBOUR,
    RUNNER_LOST,
    OomWatch,
    died,
    ordered,
    start_failed,
)
from longshore_cpu_workers.fleet import Fleet
from longshore_cpu_workers.handle import Message, Role, Runner
from longshore_cpu_workers.memory_watch import MemoryWatch
from longshore_cpu_workers.outbox import Outbox
from longshore_cpu_workers.register import Register
from longshore_cpu_workers.settings import WorkerSettings
from longshore_cpu_workers.spawn import scratch_prefix
from longshore_cpu_workers.wire import (
    ArtifactRef,
    Checkpointed,
    Failed,
    Failure,
    Logged,
    Progressed,
    Started,
    Succeeded,
)

_log = logging.getLogger(__name__)
_LONG_HEAD = 0.05
_MOST_BOUNCES = 3


class RunnersFail(Exception):
    """No runner of a worker comes up; the message says why."""


class Supervision:
    """Hears runners, ends attempts, enforces orders and deadlines.

    `tick` is the only place where time makes something happen.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        binding: Binding,
        token: str,
        outbox: Outbox,
        register: Register,
    ) -> None:
        self.fleet = Fleet(settings, binding, token, self)
        self.dispatcher = Dispatcher(settings, binding, self.fleet, self._on_handed)
        self.closing = False
        self.outdated = ""
        self.changed = asyncio.Event()
        self._build: Build | None = None
        self._told = asyncio.Event()
        self._settings = settings
        self._scratch = scratch_prefix(settings, token)
        self._binding = binding
        self._outbox = outbox
        self._register = register
        self._oom = OomWatch()
        self._memory = MemoryWatch(settings.memory_limit)
        self._burials: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, Callable[[Runner, Message], None]] = {
            "start": self._on_start,
            "done": self._on_done,
            "fail": self._on_fail,
            "progress": self._on_progress,
            "log": self._on_log,
            "checkpoint": self._on_checkpoint,
            "withdrawn": self._on_withdrawn,
            "ready": self._on_ready,
            "broken": self._on_broken,
            "spent": self._on_spent,
        }

    # Orders

    def end(self, attempt: Attempt, ending: FailureClass, grace: float) -> None:
        """Tells an attempt to end: now where it has not begun, else within `grace` and a kill."""
        attempt.tell_to_end(ending, time.monotonic() + grace)
        if attempt.stage is Stage.WAITING:
            self._unqueue(attempt)
            return
        for runner in self._holders(attempt):
            runner.send(["withdraw", [attempt.serial]], ["cancel", attempt.serial])

    def recall(self, attempt: Attempt) -> None:
        """Gives an attempt back to the scheduler unless it has begun."""
        attempt.recalled = True
        if attempt.stage is Stage.WAITING:
            self._unqueue(attempt)
        elif attempt.stage is Stage.HANDED:
            for runner in self._holders(attempt):
                runner.send(["withdraw", [attempt.serial]])

    def drain(self, ends_at: float) -> None:
        """Takes nothing more, gives back what has not begun, asks the rest for checkpoints.

        ends_at: when what runs is cancelled, by the monotonic clock, which runners share.
        """
        self.closing = True
        for runner in self.fleet:
            runner.send(["drain", ends_at])
        for attempt in self._register:
            if attempt.stage is not Stage.RUNNING:
                self.recall(attempt)

    def checkpoint_acknowledged(self, report: Checkpointed) -> None:
        """The scheduler has stored a checkpoint: the task may go on."""
        attempt = self._register.get((report.job_id, report.fence))
        number = attempt and self._register.saved(attempt, report)
        if attempt is not None and number is not None:
            for runner in self._holders(attempt):
                runner.send(["saved", attempt.serial, number])

    async def close(self) -> None:
        """Kills every runner and returns once nothing is left of them."""
        self.fleet.closed = True
        for runner in self.fleet:
            runner.kill()
        while len(self.fleet) or self._burials:
            self.changed.clear()
            await self.changed.wait()

    async def identity(self) -> Build:
        """The build of the first runner, which is that of the worker. Raises RunnersFail."""
        await self._told.wait()
        if self._build is None:
            raise RunnersFail(start_failed(self.fleet.trouble).message)
        return self._build

    def _retire(self, why: str) -> None:
        """Starts nothing more, gives back what has not begun; what runs goes on."""
        _log.warning("this worker is to be replaced: %s", why)
        self.outdated = why
        self.closing = self.fleet.closed = True
        for attempt in self._register:
            if attempt.stage is not Stage.RUNNING:
                self.recall(attempt)

    # Time

    def tick(self, now: float) -> None:
        """Deadlines, kills, lines that wait behind a long attempt, idle runners."""
        for runner in self.fleet:
            for attempt in self._current(runner):
                self._check_deadlines(runner, attempt, now)
            self._unblock_line(runner, now)
        self.fleet.tick(now)
        self._memory.tick(now, self.fleet)
        if self.fleet.hopeless:
            self._told.set()
            if self.fleet.refused:
                self._give_up(start_failed(self.fleet.trouble))
        self.fleet.refused = False

    def _current(self, runner: Runner) -> list[Attempt]:
        """Those that a kill would be meant for: not those that only wait in line."""
        if runner.role is Role.ASYNC:
            return list(runner.attempts.values())
        return [runner.head] if runner.head else []

    def _check_deadlines(self, runner: Runner, attempt: Attempt, now: float) -> None:
        if attempt.ending is None and attempt.timeout_at is not None and now >= attempt.timeout_at:
            self.end(attempt, FailureClass.TIMEOUT, attempt.assignment.cancel_grace)
        if attempt.kill_at is not None and now >= attempt.kill_at and not runner.doomed:
            runner.blamed = attempt
            runner.terminate(now + self._settings.term_grace)

    def _unblock_line(self, runner: Runner, now: float) -> None:
        head = runner.head
        if runner.role is Role.ASYNC or runner.withdrawing or len(runner.attempts) < 2:
            return
        since = head.started_at if head else None
        if head and since is None and head.assignment.inputs:
            since = runner.since  # it looks for them, perhaps on a disk that does not answer
        if since is not None and now - since > _LONG_HEAD:
            runner.withdrawing = True
            runner.send(["withdraw", list(runner.attempts)[1:]])

    # What runners say

    def on_messages(self, runner: Runner, messages: list[Message]) -> None:
        handlers = self._handlers
        for message in messages:
            handlers[message[0]](runner, message)
        self.dispatcher.pump()
        self.changed.set()

    def _on_handed(self, runner: Runner, attempt: Attempt) -> None:
        # Its inputs are read before it starts, and that counts; others start within moments.
        if attempt.assignment.inputs and attempt in self._current(runner):
            self._arm(attempt, time.monotonic())

    def _arm(self, attempt: Attempt, now: float) -> None:
        limit = attempt.assignment.attempt_timeout
        attempt.timeout_at = None if limit is None else now + limit

    def _on_ready(self, runner: Runner, message: Message) -> None:
        async_tasks = frozenset(message[1])
        build = Build._make(message[2])
        if self._build is None:
            self._build = build
            self._told.set()
        elif build.id != self._build.id:
            # Jobs would get one code or the other, as runners happen to be free.
            if not self.outdated:
                self._retire(f"its code is now build {build.id}, not {self._build.id}")
            self.fleet.on_ready(runner)
            runner.kill()
            return
        if async_tasks != self.dispatcher.backlog.async_tasks:
            self.dispatcher.backlog.sort_by(async_tasks)
        self.fleet.on_ready(runner)

    def _on_broken(self, runner: Runner, message: Message) -> None:
        self.fleet.trouble = message[1]

    def _on_start(self, runner: Runner, message: Message) -> None:
        _, serial, at = message
        attempt = runner.attempts[serial]
        attempt.stage = Stage.RUNNING
        attempt.started_at = at
        self._arm(attempt, at)
        a = attempt.assignment
        names = self._binding.names(runner.devices)
        self._outbox.add(Started(a.job_id, a.fence, at, names))
        if attempt.ending is not None:  # told to end after the runner had taken it
            runner.send(["cancel", serial])

    def _on_done(self, runner: Runner, message: Message) -> None:
        _, serial, at, seconds, value, artifacts = message
        attempt = runner.attempts[serial]
        refs = tuple(ArtifactRef(*ref) for ref in artifacts)
        a = attempt.assignment
        report = Succeeded(a.job_id, a.fence, at, seconds, value, refs)
        del runner.attempts[serial]  # not before all was understood: else it would never end
        self._left(runner, attempt, seconds)
        self._register.leave(attempt, report)

    def _on_fail(self, runner: Runner, message: Message) -> None:
        _, serial, at, seconds, told = message
        attempt = runner.attempts[serial]
        failure = _failure(told)
        del runner.attempts[serial]
        if attempt.ending is not None:
            failure = ordered(attempt, failure)
        if failure.failure_class is FailureClass.DEVICE_FAULT:
            self._on_device_fault(attempt.devices or runner.devices)
        self._left(runner, attempt, seconds)
        self._register.leave(attempt, Failed(*attempt.key, at, seconds, failure))

    def _left(self, runner: Runner, attempt: Attempt, seconds: float | None) -> None:
        runner.since = time.monotonic()
        if (head := runner.head) and head.assignment.inputs and head.stage is Stage.HANDED:
            self._arm(head, runner.since)
        self.dispatcher.finished(runner, attempt, seconds)
        # Its group got SIGTERM: nobody knows what is left in it.
        if runner.blamed is attempt or (runner.retiring and not runner.attempts):
            runner.kill()

    def _on_spent(self, runner: Runner, message: Message) -> None:
        """It begins no more of what it was handed, unless it runs several at once."""
        _, task, why = message
        _log.info("runner %d is replaced after a job of task %s: %s", runner.pid, task, why)
        runner.retiring = True
        if runner.role is Role.SYNC or not runner.attempts:
            runner.kill()

    def _on_device_fault(self, devices: DeviceSet) -> None:
        """What is faulty again and again gets no more attempts; those that need it go back."""
        self.dispatcher.capacity.fault(devices)
        for attempt in list(self.dispatcher.backlog):
            if not self.dispatcher.capacity.possible(attempt.assignment.needs):
                self._register.give_back(attempt)
                self.dispatcher.backlog.discard()

    def _on_progress(self, runner: Runner, message: Message) -> None:
        _, serial, at, body = message
        if attempt := runner.attempts.get(serial):
            self._outbox.replace(Progressed(*attempt.key, at, body))

    def _on_log(self, runner: Runner, message: Message) -> None:
        _, serial, at, lines, dropped = message
        if attempt := runner.attempts.get(serial):
            self._outbox.log(Logged(*attempt.key, at, tuple(lines), dropped))

    def _on_checkpoint(self, runner: Runner, message: Message) -> None:
        _, serial, at, number, value = message
        if attempt := runner.attempts.get(serial):
            self._register.keep_checkpoint(attempt, at, number, value)

    def _on_withdrawn(self, runner: Runner, message: Message) -> None:
        taken = [runner.attempts.pop(serial) for serial in message[1]]
        runner.withdrawing = False
        self._unhand(taken)
        for attempt in taken:
            self.dispatcher.finished(runner, attempt, None)

    # Deaths

    def on_exit(self, runner: Runner, code: int) -> None:
        """Ends what had begun, takes back what had not; reports once nothing is left of it."""
        held = list(runner.attempts.values())
        head = runner.head
        guiltless = runner.blamed is not None or runner.retiring
        if head and head.stage is Stage.HANDED and not guiltless:
            head.bounces += 1
        task = asyncio.get_running_loop().create_task(self._bury(runner, code, held))
        self._burials.add(task)
        task.add_done_callback(self._buried)

    def _buried(self, task: asyncio.Task[None]) -> None:
        self._burials.discard(task)
        self.changed.set()

    async def _bury(self, runner: Runner, code: int, held: list[Attempt]) -> None:
        started = [attempt for attempt in held if attempt.stage is Stage.RUNNING]
        try:
            await runner.bury()
            await asyncio.to_thread(self._delete_folders, started)
        except Exception:  # noqa: BLE001 - no thread to be had, say; its outcome must be told
            _log.exception("not all that runner %d has left may be gone", runner.pid)
        failed_start = self.fleet.on_gone(runner)
        runner.attempts.clear()
        failure = self._cause(runner, code, started)
        for attempt in started:
            own = ordered(attempt) if attempt.ending is not None else failure
            self._register.fail(attempt, attempt.verdict or own)
        self._unhand([attempt for attempt in held if attempt.stage is Stage.HANDED])
        self.dispatcher.lost(runner, held)
        if failed_start and self.fleet.hopeless:
            self._give_up(start_failed(self.fleet.trouble))
        self.dispatcher.pump()

    def _cause(self, runner: Runner, code: int, started: list[Attempt]) -> Failure:
        if runner.owner is not None and (runner.blamed is not None or len(started) > 1):
            self.dispatcher.apart.hold(runner.owner)
        if runner.blamed is not None:
            return NEIGHBOUR
        if len(started) > 1:
            return RUNNER_LOST
        killed = code == -signal.SIGKILL and not runner.killed
        out_of_memory = killed and self._oom.happened()
        return died(code, out_of_memory=out_of_memory, peak=runner.peak, stack=runner.stack)

    def _give_up(self, failure: Failure) -> None:
        for attempt in list(self.dispatcher.backlog):
            self._register.fail(attempt, failure)
            self.dispatcher.backlog.discard()

    def _delete_folders(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            job_id, fence = attempt.key
            folder = Path(self._settings.artifacts) / job_id / str(fence)
            delete_folder(folder)
            delete_folder(f"{self._scratch}{job_id}-{fence}")
            remove_if_empty(folder.parent)

    # Attempts that have not begun

    def _unqueue(self, attempt: Attempt) -> None:
        self._dispose(attempt)
        self.dispatcher.backlog.discard()
        self.changed.set()

    def _unhand(self, attempts: Iterable[Attempt]) -> None:
        again = [attempt for attempt in attempts if not self._dispose(attempt)]
        for attempt in again:
            attempt.stage = Stage.WAITING
        self.dispatcher.backlog.push_back(again)

    def _dispose(self, attempt: Attempt) -> bool:
        """Ends an attempt that has not begun, if there is a reason; else it runs elsewhere."""
        attempt.timeout_at = None
        if attempt.ending is not None and attempt.ending is not FailureClass.DRAINED:
            self._register.fail(attempt, ordered(attempt), began=False)
        elif attempt.recalled or self.closing or attempt.ending is not None:
            self._register.give_back(attempt)
        elif attempt.bounces >= _MOST_BOUNCES:
            self._register.fail(attempt, RUNNER_LOST, began=False)
        else:
            return False
        return True

    def _holders(self, attempt: Attempt) -> list[Runner]:
        return [runner for runner in self.fleet if attempt.serial in runner.attempts]


def remove_if_empty(folder: Path) -> None:
    """Removes a folder that nobody uses any more."""
    try:
        folder.rmdir()
    except OSError:
        return


def _failure(told: Message) -> Failure:
    number, code, reason, message, metadata, violations, traceback = told
    failure_class = FailureClass(number)
    if failure_class is FailureClass.CANCELLED:
        # Nobody ordered it, or `ordered` replaces this: the task raised JobCancelled by itself.
        failure_class = FailureClass.TASK_ERROR
    pairs = tuple((str(k), str(v)) for k, v in metadata)
    paths = tuple((str(k), str(v)) for k, v in violations)
    return Failure(failure_class, code, reason, message, pairs, paths, traceback)
