"""One process of a cluster on this machine: started, kept alive, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

_TETHER = Path(__file__).with_name("tether.py")
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
_STEADY_AFTER = 20.0
_STOP_GRACE = 30.0


def tethered(user: str | None) -> list[str]:
    """What a command is prefixed with to run as a user, and to end with this process."""
    return [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), user or ""]


class Member:
    """A process that is started again when it ends, as a supervisor of a cluster would.

    Args:
        name: of its log, `<name>.log` in `logs`.
        command: program and arguments. env: on top of this process's environment.
        user: whom it runs as, where this process is root.

    Attributes:
        starts: how often it was started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        logs: Path,
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = logs / f"{name}.log"
        self._log_begins = self.log.stat().st_size if self.log.exists() else 0
        self.starts = 0
        self.env = dict(env or {})
        self._user = user
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process while it runs."""
        if self._process is None or self._process.returncode is not None:
            return None
        return self._process.pid

    def last_words(self) -> str:
        """The last line of its log that is not empty."""
        lines = [line for line in self._said().splitlines() if line.strip()]
        return lines[-1] if lines else "(nothing)"

    def tail(self, lines: int) -> str:
        """The last lines of its log."""
        return "\n".join(self._said().splitlines()[-lines:])

    def has_said(self, words: str) -> bool:
        """True once these words are in its log."""
        return words in self._said()

    def _said(self) -> str:
        """Its log, without what a member of that name has said to an earlier cluster."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[self._log_begins :].decode(errors="replace")

    async def start(self) -> None:
        """Starts it, and starts it again whenever it ends, until `stop`."""
        self._wanted.set()
        if self._keeper is None:
            await self._spawn()
            self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    def send(self, how: signal.Signals) -> None:
        """Sends it a signal; SIGKILL and the like let it start again."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, how)

    async def down(
        self, how: signal.Signals = signal.SIGTERM, *, grace: float = _STOP_GRACE
    ) -> None:
        """Ends it and leaves it ended until `start`; SIGKILL after `grace` seconds."""
        self._wanted.clear()
        self.send(how)
        if self._process is not None:
            await self._ended(grace)

    async def stop(self, grace: float = _STOP_GRACE) -> None:
        """Ends it for good; SIGKILL after `grace` seconds."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self.down(grace=grace)

    async def _ended(self, grace: float) -> None:
        assert self._process is not None
        try:
            await asyncio.wait_for(self._process.wait(), grace)
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self._process.wait()

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            assert self._process is not None
            began = time.monotonic()
            await self._process.wait()
            steady = time.monotonic() - began > _STEADY_AFTER
            pause = _FIRST_PAUSE if steady else min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)
            await self._wanted.wait()
            await self._spawn()

    async def _spawn(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self._process = await self._launch(log)

    async def _launch(self, log: BinaryIO) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *tethered(self._user),
            *self.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **self.env},
            start_new_session=True,  # Ctrl-C is for the one who started all this
        )
