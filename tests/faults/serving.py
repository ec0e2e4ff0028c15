"""Starts, asks and kills the process of `child.py`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.child import Options

ROOT = Path(__file__).resolve().parents[2]
START = 60.0
STOP = 60.0


class Serving:
    """One process over a store; leaves nothing behind when the block ends.

    Args:
        folder: its log, and the marks of executions.
        url: of the store; by default SQLite in the folder.
        environment: on top of that of the test.
        settings, unsure, seed, listen: see `Options`.
    """

    def __init__(
        self,
        folder: Path,
        url: str = "",
        *,
        environment: dict[str, str] | None = None,
        name: str = "child",
        **options: Any,
    ) -> None:
        self.url = url or f"sqlite:///{folder / 'store.db'}"
        self.marks = folder / "marks"
        self.log = folder / f"{name}.log"
        self.target = ""
        self._options = Options(self.url, str(self.marks), **options)
        self._environment = {**os.environ, **(environment or {})}
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.kill()

    @property
    def pid(self) -> int:
        """Of the process as it runs now."""
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        """Starts it, again if it had died, and waits until it listens."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.faults.child", self._options.pack()),
                cwd=ROOT,
                env=self._environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.target = f"127.0.0.1:{(await self._hear(START))['port']}"

    async def ask(self, command: str, argument: Any = None) -> Any:
        """What `Child.obey` answers."""
        assert self.process is not None and self.process.stdin is not None
        line = json.dumps({"command": command, "argument": argument})
        self.process.stdin.write(f"{line}\n".encode())
        return await self._hear(START)

    async def _hear(self, seconds: float) -> Any:
        assert self.process is not None and self.process.stdout is not None
        async with asyncio.timeout(seconds):
            line = await self.process.stdout.readline()
        assert line, f"the process ended:\n{self.log.read_text()[-3000:]}"
        return json.loads(line)

    async def died(self, seconds: float = START) -> int:
        """Waits until it has ended by itself. Returns its status."""
        assert self.process is not None
        async with asyncio.timeout(seconds):
            return await self.process.wait()

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM; it must end in order."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = await self.died(STOP)
        assert status == 0, f"status {status}:\n{self.log.read_text()[-3000:]}"
