"""Where a context sends its reports: one channel for each attempt, one flusher for all."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson

from longshore.sdk.context import Progress
from longshore_cpu_workers.runner.failures import clean
from longshore_cpu_workers.runner.lines import LineGate
from longshore_cpu_workers.runner.link import Link, encode
from longshore_cpu_workers.runner.pacing import Conflator

PROGRESS_INTERVAL = 0.1
LINES_PER_REPORT = 100
MAX_CHECKPOINT = 256 * 1024
_MAX_METRICS = 32


class AttemptChannel:
    """Reports of one attempt: paced, bounded, in order. Any thread may use it.

    Implements longshore.sdk.context.Channel.
    """

    __slots__ = (
        "_clock",
        "_dropped",
        "_flusher",
        "_gate",
        "_lines",
        "_link",
        "_lock",
        "_progress",
        "_saved",
        "_saves",
        "_wake",
        "_wakers",
        "cancel_task",
        "closed",
        "drains_at",
        "is_cancelled",
        "is_copy",
        "serial",
    )

    def __init__(
        self,
        serial: int,
        link: Link,
        flusher: Flusher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.serial = serial
        self.is_cancelled = False
        self.is_copy = False
        self.closed = False
        self.cancel_task: Callable[[], object] | None = None
        self.drains_at: float | None = None
        self._link = link
        self._flusher = flusher
        self._clock = clock
        self._lock = threading.Lock()
        self._progress: Conflator[str] | None = None
        self._gate: LineGate | None = None
        self._lines: list[str] = []
        self._dropped = 0
        self._saves = 0
        self._saved = 0
        self._wake: threading.Condition | None = None
        self._wakers: dict[int, Callable[[], object]] = {}

    # What task code calls, through its context

    def progress(self, progress: Progress) -> None:
        # Here and not when it leaves: a value that is no number is the caller's mistake.
        text = progress_text(progress)
        now = self._clock()
        with self._lock:
            if self.closed:
                return
            if self._progress is None:
                self._progress = Conflator(PROGRESS_INTERVAL)
            leaves = self._progress.offer(text, now)
            if leaves is not None:
                self._link.write(self._encode_progress(leaves, now))
        if leaves is None:
            self._flusher.watch(self)

    def log(self, line: str) -> None:
        if self.is_copy:  # only whole lines of one process may go through the socket
            os.write(1, line.encode("utf-8", "replace") + b"\n")
            return
        with self._lock:
            if self.closed:
                return
            if self._gate is None:
                self._gate = LineGate(self._clock)
            admitted = self._gate.admit(line)
            if admitted is None:
                self._dropped += 1
                return
            self._lines.append(admitted)
            if len(self._lines) >= LINES_PER_REPORT:
                self._link.write(self._encode_lines(self._clock()))
                return
        self._flusher.watch(self)

    def checkpoint(self, value: Any, timeout: float) -> None:
        number = self._send(value)
        if _in_event_loop():
            return  # to wait here would stop every attempt of this process
        with self._lock:
            if self._wake is None:
                self._wake = threading.Condition()
        with self._wake:
            self._wake.wait_for(lambda: self._saved >= number or self.is_cancelled, timeout)
        self._confirm(number, timeout)

    async def acheckpoint(self, value: Any, timeout: float) -> None:
        number = self._send(value)
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        waker = self._wakers[number] = lambda: loop.call_soon_threadsafe(changed.set)
        waker()  # it may be there already
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._saved < number and not self.is_cancelled:
                    changed.clear()
                    if self._saved < number and not self.is_cancelled:
                        await changed.wait()
        self._wakers.pop(number, None)
        self._confirm(number, timeout)

    def _send(self, value: Any) -> int:
        """Sends a checkpoint to the store; returns its number."""
        if self.is_copy:
            raise RuntimeError(
                "a forked process cannot save checkpoints: return the value to the process that"
                " runs the task, and save it there"
            )
        text = _checkpoint_text(value)
        with self._lock:
            self._saves += 1
            number = self._saves
            self._link.write(encode(["checkpoint", self.serial, self._clock(), number, text]))
        return number

    def _confirm(self, number: int, timeout: float) -> None:
        if self._saved < number and not self.is_cancelled:
            raise TimeoutError(f"the checkpoint was not confirmed within {timeout:g} s")

    def cancelled(self) -> bool:
        return self.is_cancelled

    def grace(self) -> float | None:
        return None if self.drains_at is None else max(0.0, self.drains_at - self._clock())

    def after_fork(self) -> None:
        """In a copy of this process: its lines go through the pipe, where ours are read."""
        self.is_copy = True
        self._lock = threading.Lock()
        self._lines, self._dropped = [], 0

    # What the worker says

    def cancel(self) -> None:
        """The attempt is to end."""
        self.is_cancelled = True
        self._notify()
        if self.cancel_task is not None:
            self.cancel_task()

    def saved(self, number: int) -> None:
        """A checkpoint, and all before it, are durable."""
        self._saved = max(self._saved, number)
        self._notify()

    def _notify(self) -> None:
        if (wake := self._wake) is not None:
            with wake:
                wake.notify_all()
        for waker in list(self._wakers.values()):
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits there
                waker()

    # What leaves

    def flush(self, now: float) -> bool:
        """Sends what is due; returns True while something still waits."""
        with self._lock:
            if self.closed:
                return False
            data = self._encode_lines(now) if self._lines or self._dropped else b""
            due = self._progress.due(now) if self._progress else None
            if due is not None:
                data += self._encode_progress(due, now)
            if data:
                self._link.write(data)
            return self._progress is not None and self._progress.waits

    def close(self) -> bytes:
        """Ends it; returns what was not sent, to go before the outcome in the same write."""
        with self._lock:
            self.closed = True
            if self._progress is None and not self._lines and not self._dropped:
                return b""
            now = self._clock()
            data = self._encode_lines(now) if self._lines or self._dropped else b""
            last = self._progress.last(now) if self._progress else None
            return data if last is None else data + self._encode_progress(last, now)

    def _encode_progress(self, text: str, now: float) -> bytes:
        return encode(["progress", self.serial, now, text])

    def _encode_lines(self, now: float) -> bytes:
        lines, self._lines = self._lines, []
        dropped, self._dropped = self._dropped, 0
        return encode(["log", self.serial, now, lines, dropped])


class Flusher:
    """One thread that sends what had to wait, about ten times a second while there is any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watched: set[AttemptChannel] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, channel: AttemptChannel) -> None:
        """Sees to it that what waits in a channel leaves in time."""
        with self._lock:
            self._watched.add(channel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)
                self._thread.start()
        self._wake.set()

    def after_fork(self) -> None:
        """In a copy of this process: its thread is not there."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread, self._watched = None, set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._watched:
                time.sleep(PROGRESS_INTERVAL / 2)
                self.flush(self._clock())

    def flush(self, now: float) -> None:
        """One round."""
        with self._lock:
            watched, self._watched = self._watched, set()
        still = {channel for channel in watched if channel.flush(now)}
        with self._lock:
            self._watched |= still


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def progress_text(progress: Progress) -> str:
    """JSON with the field names of longshore.v1.Progress; empty fields are left out."""
    body: dict[str, Any] = {}
    if progress.fraction is not None and math.isfinite(progress.fraction):
        body["fraction"] = float(progress.fraction)
    for name in ("completed", "total"):
        if number := int(getattr(progress, name)):
            body[name] = number
    for name in ("unit", "phase", "message"):
        if text := getattr(progress, name):
            body[name] = clean(text)
    if progress.metrics:
        pairs = list(progress.metrics.items())[:_MAX_METRICS]
        body["metrics"] = {clean(k): float(v) for k, v in pairs if math.isfinite(v)}
    return orjson.dumps(body).decode()


def _checkpoint_text(value: Any) -> str:
    try:
        text = orjson.dumps(value)
    except TypeError as error:
        raise ValueError(f"the checkpoint is not JSON: {error}") from None
    if len(text) > MAX_CHECKPOINT:
        raise ValueError(
            f"the checkpoint has {len(text)} bytes as JSON, more than {MAX_CHECKPOINT}; "
            "write large state to a file and keep its name here"
        )
    return text.decode()
