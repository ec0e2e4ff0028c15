"""The supervisor's end of one runner process."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import signal
import socket
import subprocess
import time
import traceback
from typing import Any, Protocol

import orjson

from longshore_cpu_workers.attempt import Attempt
from longshore_cpu_workers.backlog import Owner, Shape
from longshore_cpu_workers.binding import DeviceSet
from longshore_cpu_workers.reaping import Root, bury, kill_tree, read_stat
from longshore_cpu_workers.spawn import Spawned

Message = list[Any]
_READ = 1 << 18
_LINE = 8
_REST = 0.001
"""Seconds between reads from a runner that has more than `_LINE` attempts in hand, and with them
much to say at once: to be woken for each costs as much as to hear fifty."""

_LONGEST_STACK = 8 * 1024
_LONGEST_MESSAGE = 16 << 20  # a result with all its artifacts is far smaller
_log = logging.getLogger(__name__)


class Role(enum.Enum):
    """What a runner is for; it is fresh until its first attempt decides."""

    FRESH = 0
    SYNC = 1
    ASYNC = 2


class Listener(Protocol):
    """Who hears what a runner says."""

    def on_messages(self, runner: Runner, messages: list[Message]) -> None:
        """Some messages arrived."""

    def on_exit(self, runner: Runner, code: int) -> None:
        """The process is gone; all it ever said was delivered. A negative code is a signal."""


class Runner:
    """A runner process, its socket, and the attempts it holds.

    Attributes:
        attempts: what it was handed and has not finished, by serial, in the order of handing.
        shape: what its attempts look like, while it is a lane for sync attempts.
        devices: what it can see, from its start to its end.
        load: seconds of measured work in attempts.
        owner: whose attempts it runs, from its first one on.
        retiring: it takes no new attempts and ends once it has none: it is not as it was.
        doomed: it takes no new attempts and is about to end.
        killed: the worker itself ended it.
        blamed: the attempt for whose sake it is killed.
        memory_before: bytes it had before its attempt began, if that asked for memory.
        stack: where its threads were when it crashed, once it is dead; empty if it did not.
        peak: the most memory it ever had, in bytes, once it is dead; 0 where nobody knows.
        kill_at: when it gets SIGKILL, after a SIGTERM.
    """

    def __init__(self, spawned: Spawned, devices: DeviceSet, listener: Listener) -> None:
        self.process: subprocess.Popen[bytes] = spawned.process
        self.pid = spawned.process.pid
        stat = read_stat(self.pid)  # nobody has waited for it, so it is there, dead or alive
        self._root = Root(self.pid, stat.started if stat else 0.0, spawned.token)
        self.devices = devices
        self.role = Role.FRESH
        self.ready = False
        self.attempts: dict[int, Attempt] = {}
        self.shape: Shape | None = None
        self.load = 0.0
        self.owner: Owner | None = None
        self.retiring = False
        self.doomed = False
        self.killed = False
        self.blamed: Attempt | None = None
        self.kill_at: float | None = None
        self.since = time.monotonic()
        self.withdrawing = False
        self.memory_before = 0
        self.peak = 0
        self._link: socket.socket = spawned.link
        self._listener = listener
        self._rest = b""
        self._out = bytearray()
        self._loop = asyncio.get_running_loop()
        self._pidfd = -1
        self._faults = spawned.faults
        self.stack = ""
        self._watch()

    @property
    def head(self) -> Attempt | None:
        """The attempt it works on, or will next."""
        return next(iter(self.attempts.values()), None)

    @property
    def takes_more(self) -> bool:
        """False where it is on its way out."""
        return not (self.doomed or self.retiring)

    def send(self, *messages: Message) -> None:
        """Queues messages; never blocks."""
        if self._link.fileno() < 0:
            return
        idle = not self._out
        self._out += b"".join(orjson.dumps(message) + b"\n" for message in messages)
        if idle:
            self._writable()

    def terminate(self, kill_at: float) -> None:
        """Sends SIGTERM to all that belongs to the runner; SIGKILL follows at kill_at."""
        self.doomed = self.killed = True
        if self.kill_at is None:
            self.kill_at = kill_at
            self._signal_group(signal.SIGTERM)
            self._signal_tree(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the group at once; `bury` gets the rest when the exit is seen."""
        self.doomed = self.killed = True
        self._signal_group(signal.SIGKILL)
        self._signal_tree(signal.SIGKILL)

    async def bury(self) -> None:
        """Kills all that is left of a dead runner."""
        await self._loop.run_in_executor(None, bury, self._root)

    def _signal_group(self, sig: signal.Signals) -> None:
        if self.process.returncode is None:  # not waited for yet: its number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, sig)

    def _signal_tree(self, sig: signal.Signals) -> None:
        with contextlib.suppress(RuntimeError):  # no thread to be had: a busy one will do it
            self._loop.run_in_executor(None, kill_tree, self._root, sig)

    def _watch(self) -> None:
        self._loop.add_reader(self._link, self._hear_more)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:  # old kernels, and sandboxes that refuse it
            self._loop.call_later(0.02, self._poll_exit)
        else:
            self._loop.add_reader(self._pidfd, self._exited)

    def _poll_exit(self) -> None:
        if self.process.poll() is None:
            self._loop.call_later(0.02, self._poll_exit)
        else:
            self._exited()

    def _hear_more(self) -> None:
        if self._readable() and len(self.attempts) > _LINE:
            self._loop.remove_reader(self._link)
            self._loop.call_later(_REST, self._listen_again)

    def _listen_again(self) -> None:
        if self._link.fileno() >= 0:
            self._loop.add_reader(self._link, self._hear_more)

    def _readable(self) -> bool:
        """Reads and delivers once; False where there is nothing to read now, or ever again."""
        try:
            data = self._link.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._link)
            return False
        self._deliver(data)
        return True

    def _deliver(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _LONGEST_MESSAGE:
            self._rest = b""
            self._distrust("it sends a message without an end")
        if lines:
            try:
                self._hear(lines)
            except Exception as error:  # noqa: BLE001 - whatever it is, what follows is not sure
                frames = "".join(traceback.format_tb(error.__traceback__))
                self._distrust(f"its messages cannot be read: {type(error).__name__}\n{frames}")

    def _hear(self, lines: list[bytes]) -> None:
        # One call into the parser for all lines: three times faster than a call for each.
        try:
            messages = orjson.loads(b"[" + b",".join(lines) + b"]")
        except orjson.JSONDecodeError:
            for line in lines:  # what it said before stands: that an attempt has begun, say
                self._listener.on_messages(self, [orjson.loads(line)])
            raise
        self._listener.on_messages(self, messages)

    def _distrust(self, why: str) -> None:
        """Task code wrote to our socket, it seems. Messages hold payloads: none is logged."""
        _log.error("runner %d is killed, %s", self.pid, why)
        self.kill()

    def _writable(self) -> None:
        try:
            sent = self._link.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError:  # the runner is dying: its exit tells the rest
            self._out.clear()
            self._loop.remove_writer(self._link)
            return
        del self._out[:sent]
        if self._out:
            self._loop.add_writer(self._link, self._writable)
        else:
            self._loop.remove_writer(self._link)

    def _exited(self) -> None:
        self.doomed = True  # its last messages must not bring it new attempts
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        while self._readable():
            pass
        self._loop.remove_reader(self._link)
        self._loop.remove_writer(self._link)
        self._link.close()
        self.stack = _read_stack(self._faults)
        os.close(self._faults)
        self._listener.on_exit(self, self._wait())

    def _wait(self) -> int:
        """Its exit code, and its peak; it has ended."""
        try:
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:  # it was waited for
            return self.process.wait()
        self.peak = usage.ru_maxrss * 1024
        self.process.returncode = code = os.waitstatus_to_exitcode(status)
        return code


def _read_stack(faults: int) -> str:
    """What faulthandler wrote: files, lines and names of functions, no values."""
    return os.pread(faults, _LONGEST_STACK, 0).decode("utf-8", "replace")
