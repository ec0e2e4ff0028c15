"""The runner process: loads tasks, then runs what the worker hands it until the worker ends it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import faulthandler
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any, NoReturn, TypeVar

from longshore.sdk.failures import FailureClass, JobCancelled
from longshore.sdk.task import load_tasks
from longshore_cpu_workers.build import identify
from longshore_cpu_workers.reaping import end_children, has_children
from longshore_cpu_workers.runner.attempt import AttemptRun, Surroundings
from longshore_cpu_workers.runner.channel import AttemptChannel
from longshore_cpu_workers.runner.failures import Told, clean, spoils_process
from longshore_cpu_workers.runner.inbox import Inbox, Job
from longshore_cpu_workers.runner.limits import limited
from longshore_cpu_workers.runner.link import Link, encode
from longshore_cpu_workers.runner.output import Output
from longshore_cpu_workers.runner.scrubbing import scrub
from longshore_cpu_workers.runner.wear import Bounds, Wear

T = TypeVar("T")

_TERMINATED = 128 + signal.SIGTERM
_BROKEN = 3
_FILES = "longshore-files"
_FILE_THREADS = 2
_ASYNC = "asyncio"
_FASTEST_FORK = 30e-6
"""Seconds. A fork copies the tables of this process, and a spawn waits for the new program: what
ran for less has started none. To ask the kernel costs a tenth of so short an attempt."""

_UNBOUND = contextlib.nullcontext()
_OWN_THREADS = ("inbox", "output", "flusher", "longshore-popen", _FILES, _ASYNC)


def main(fd: int, artifacts: str, scratch: str, bounds: Bounds, modules: Sequence[str]) -> None:
    """Runs until the worker closes the socket or ends the process."""
    link = Link(socket.socket(fileno=fd))
    output = Output()
    try:
        tasks = load_tasks(modules)
    except BaseException as error:  # noqa: BLE001 - a module may call sys.exit when imported
        where = f" of {', '.join(modules)}" if modules else ""
        reason = clean(scrub(f"{type(error).__name__}: {error}"))
        link.write(encode(["broken", f"the task modules{where} cannot be loaded: {reason}"]))
        os._exit(_BROKEN)
    inbox = Inbox(link)
    threading.Thread(target=_serve, args=(inbox,), name="inbox", daemon=True).start()
    build = identify(tasks, modules)
    link.write(encode(["ready", [name for name, task in tasks.items() if task.is_async], [*build]]))
    try:
        _Runner(link, inbox, output, Surroundings(tasks, artifacts, scratch), bounds).run()
    except BaseException as error:  # noqa: BLE001 - whatever it is, nobody would run jobs here
        _give_up(error)


def _give_up(error: BaseException) -> NoReturn:
    """Ends the process at once: the interpreter would wait for threads of task code."""
    with contextlib.suppress(Exception):
        traceback.print_exception(error)
    os._exit(1)


def _serve(inbox: Inbox) -> None:
    try:
        inbox.serve()
    finally:
        # The worker is gone, or this thread is broken: nobody could stop us any more.
        os.killpg(0, signal.SIGKILL)


class _Runner:
    def __init__(
        self, link: Link, inbox: Inbox, output: Output, where: Surroundings, bounds: Bounds
    ) -> None:
        self._link = link
        self._inbox = inbox
        self._output = output
        self._where = where
        self._pid = os.getpid()
        self._in_task = False
        self._running: dict[int, AttemptChannel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = ""
        self._farewell = b""
        self._files = ThreadPoolExecutor(_FILE_THREADS, thread_name_prefix=_FILES)
        signal.signal(signal.SIGTERM, self._on_term)
        self._bounds = bounds
        self._ready_since = boot_time()
        self._unasked: float | None = None
        self._masks = threading.local()
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._unblock,
            after_in_child=self._after_fork,
        )

    def _before_fork(self) -> None:
        """Python forgets a signal that comes while a copy begins: SIGTERM waits until it has."""
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _after_fork(self) -> None:
        """A copy has none of our threads: what they held would stay locked for ever.

        SIGTERM ends it, as it ends any program: a Pool ends its processes so.
        """
        if signal.getsignal(signal.SIGTERM) == self._on_term:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._unblock()
        faulthandler.enable(2)  # the stack of a copy is a line of the job, not the runner's end
        self._link.after_fork()
        self._inbox.after_fork()
        self._output.after_fork()

    def run(self) -> None:
        """The first job decides what this runner is for: sync tasks, or async ones."""
        taken = self._inbox.take(wait=True)
        assert taken is not None
        task = self._where.tasks.get(taken[0].task)
        if task is not None and task.is_async:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            asyncio.run(self._run_async(taken))
        else:
            self._wear = Wear(self._bounds, _OWN_THREADS)
            self._run_sync(taken)

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        """The grace is over: interrupts Python code wherever it is, so that it can clean up."""
        if not self._in_task:
            os._exit(_TERMINATED)
        self._in_task = False
        raise JobCancelled

    # One at a time, on the main thread

    def _run_sync(self, first: tuple[Job, AttemptChannel]) -> None:
        taken: tuple[Job, AttemptChannel] | None = first
        unsent = b""
        while taken is not None:
            run = AttemptRun(*taken, self._where)
            unsent = self._one(run, unsent)
            self._wear.count()
            taken = self._inbox.take(wait=False)
            if taken is None:
                self._link.write(unsent)
                unsent = b""
                self._end_if_spent(run, run.job, unsent)
                taken = self._inbox.take(wait=True)
            assert taken is not None
            self._end_if_spent(run, taken[0], unsent)

    def _end_if_spent(self, run: AttemptRun, following: Job, unsent: bytes) -> None:
        if self._is_spent(run, alike=following.task == run.job.task):
            self._link.write(unsent + self._farewell)
            threading.Event().wait()  # for the end: what was taken begins elsewhere

    def _is_spent(self, run: AttemptRun, *, alike: bool) -> bool:
        """True where this process should take no further attempt."""
        if run.told is not None and spoils_process(run.told):
            self._left = f"it may not use its memory or its device any more ({run.told.reason})"
        if not (self._left or self._wear.due(run.seconds, alike=alike)):
            return False
        if self._unasked is not None:  # was there a fork that took no time at all?
            self._end_children(self._unasked)
            self._unasked = None
        why = self._left or self._wear.look()
        self._farewell = encode(["spent", run.job.task, why])
        return bool(why)

    def _one(self, run: AttemptRun, unsent: bytes) -> bytes:
        """Runs one attempt and returns its outcome, which goes out with the start of the next.

        One write for both is what makes the worker's knowledge exact: it never sees an outcome
        without knowing whether the next attempt has begun.
        """
        if run.job.inputs and unsent:  # reading them may take long
            self._link.write(unsent)
            unsent = b""
        if run.prepare():
            self._output.router.sole = run.channel
            self._link.write(unsent + run.start())
            unsent = b""
            self._execute(run)
        self._inbox.forget(run.job.serial)
        return unsent + run.outcome()

    def _execute(self, run: AttemptRun) -> None:
        since = boot_time()
        self._in_task = True
        try:
            with limited(run.job.memory) if run.job.memory else _UNBOUND:
                run.run(lambda: self._end_children(since))
        finally:
            self._in_task = False
        self._end_if_copy(run.told)
        run.stop_clock()
        if run.seconds is None or run.seconds > _FASTEST_FORK:
            self._end_children(since)  # before the report: who reads it may rely on their end
        elif self._unasked is None:
            self._unasked = since
        self._output.finish()

    def _end_children(self, since: float) -> None:
        if has_children() and (count := end_children(since)):
            self._left = f"an attempt left {count} process(es)"

    def _end_if_copy(self, told: Told | None) -> None:
        """A copy that task code forked came back here: it ends, for only the runner reports."""
        if os.getpid() == self._pid:
            return
        if told is not None and told.traceback:
            os.write(2, told.traceback.encode())
        os._exit(_exit_status(told))

    # Many at once, in an event loop

    async def _run_async(self, first: tuple[Job, AttemptChannel]) -> None:
        loop = asyncio.get_running_loop()
        self._wear = Wear(self._bounds, _OWN_THREADS)  # asyncio has a handler of signals
        loop.set_default_executor(_ContextExecutor(thread_name_prefix=_ASYNC))
        self._begin(*first)
        self._inbox.on_more = lambda: loop.call_soon_threadsafe(self._take_all)
        self._take_all()  # what came in before on_more was set
        await loop.create_future()  # until the process is ended

    def _take_all(self) -> None:
        while taken := self._inbox.take(wait=False):
            self._begin(*taken)

    def _begin(self, job: Job, channel: AttemptChannel) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._one_async(job, channel))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if (error := task.exception()) is not None:  # its outcome could not be told
            _give_up(error)

    async def _one_async(self, job: Job, channel: AttemptChannel) -> None:
        run = AttemptRun(job, channel, self._where)
        self._output.router.current.set(channel)
        if await self._aside(run.prepare) if job.inputs else run.prepare():
            self._note(job.serial, channel)
            self._make_cancellable(channel)
            self._link.write(run.start())
            await run.run_async(self._aside)
            self._end_if_copy(run.told)
            run.stop_clock()
            self._note(job.serial, None)
        self._inbox.forget(job.serial)
        outcome = await self._aside(run.outcome) if run.leaves_files else run.outcome()
        self._link.write(outcome)
        self._look_between(run)

    async def _aside(self, step: Callable[[], T]) -> T:
        """Runs a step that works on files in a thread of ours: the others go on meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._files, step)

    def _look_between(self, run: AttemptRun) -> None:
        """What attempts have left can be told from what others use only while none runs."""
        self._wear.count()
        if self._running:
            if run.told is not None and spoils_process(run.told):
                self._link.write(encode(["spent", run.job.task, run.told.reason]))
            return
        self._end_children(self._ready_since)
        tasks = asyncio.all_tasks() - self._tasks
        if len(tasks) > 1:  # one is this runner itself
            self._left = f"an attempt left {len(tasks) - 1} asyncio task(s)"
        if self._is_spent(run, alike=True):
            self._link.write(self._farewell)

    def _make_cancellable(self, channel: AttemptChannel) -> None:
        """Only now: a cancel before the first step of a task would end it without an outcome."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        channel.cancel_task = lambda: loop.call_soon_threadsafe(task.cancel)
        if channel.is_cancelled:
            task.cancel()

    def _note(self, serial: int, channel: AttemptChannel | None) -> None:
        """Lines from outside the event loop belong to an attempt only while it is alone."""
        if channel is None:
            self._running.pop(serial, None)
        else:
            self._running[serial] = channel
        alone = len(self._running) == 1
        self._output.router.sole = next(iter(self._running.values())) if alone else None


class _ContextExecutor(ThreadPoolExecutor):
    """Knows in its threads which attempt a call is of, so that lines go to its log."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return super().submit(contextvars.copy_context().run, fn, *args, **kwargs)


def boot_time() -> float:
    """Seconds since boot, as the kernel notes the starts of processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _exit_status(told: Told | None) -> int:
    """As the interpreter would end: what task code gave to sys.exit, else 1 for an exception."""
    if told is not None and told.failure_class is FailureClass.CRASH:
        return int(dict(told.metadata)["exit_code"]) & 255
    return 0 if told is None else 1
