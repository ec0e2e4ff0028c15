"""Processes of a distributed deployment: servers and schedulers apart, over Postgres and Redis.

Workers are fake ones, inside the scheduler. As a program, its one argument is `Part` as JSON; it
prints a line of JSON once it runs, and one for each line that it reads: see `Running.stats`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from longshore_scheduler.scheduler import Scheduler
from longshore_server.server import LongshoreServer
from longshore_store.bus.redis_bus import RedisBus
from longshore_store.sql import SqlStore
from tests.faults.child import make_settings, open_patiently, say
from tests.faults.serving import ROOT, START
from tests.faults.work import Workers
from tests.scheduler.fake_cluster import FakeCluster

SWEEP = 0.5
_TICK = 0.005


@dataclass(frozen=True)
class Part:
    """role: "server" or "scheduler"."""

    role: str
    url: str
    redis: str
    marks: str


class Running:
    """One part, as it runs in its process."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._settings = make_settings({"scheduler": {"sweep_interval": SWEEP}})
        self.store = SqlStore(part.url)
        serves = part.role == "server"
        self.bus = RedisBus(part.redis, self.store, cluster="faults", publishes_wakes=serves)
        self._lag = 0.0

    async def run(self) -> None:
        """Until its standard input ends."""
        async with AsyncExitStack() as stack:
            await self.store.open()
            stack.push_async_callback(self.store.close)
            await self.bus.start()
            stack.push_async_callback(self.bus.stop)
            start = self._serve if self._part.role == "server" else self._schedule
            measuring = asyncio.create_task(self._measure())
            stack.callback(measuring.cancel)
            say({"port": await start(stack)})
            reader = asyncio.StreamReader()
            loop = asyncio.get_running_loop()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
            while await reader.readline():
                say(self.stats())

    async def _serve(self, stack: AsyncExitStack) -> int:
        server = LongshoreServer(self.store, self._settings, listen="127.0.0.1:0", bus=self.bus)
        await server.start()
        stack.push_async_callback(server.stop)
        return server.port

    async def _schedule(self, stack: AsyncExitStack) -> int:
        cluster = FakeCluster(time.monotonic)
        cluster.default = Workers(Path(self._part.marks)).begin
        scheduler = Scheduler(self.store, cluster, self._settings)
        await scheduler.start()
        stack.push_async_callback(scheduler.stop, 0.5)
        self.bus.on_wake(scheduler.notify)
        return 0

    async def _measure(self) -> None:
        """Counts how often a thread of this process came to run between two turns of the loop: a
        machine that does other things holds up both, a call that blocks the loop alone."""
        beats = 0
        over = threading.Event()

        def beat() -> None:
            nonlocal beats
            while not over.wait(_TICK):
                beats += 1

        threading.Thread(target=beat, daemon=True).start()
        try:
            while True:
                before = beats
                await asyncio.sleep(_TICK)
                self._lag = max(self._lag, (beats - before - 1) * _TICK)
        finally:
            over.set()

    def stats(self) -> dict[str, Any]:
        """The bus, and the largest lag of the event loop since it was last asked, in seconds of
        a thread that did nothing else."""
        lag, self._lag = self._lag, 0.0
        return {"lag": lag, **asdict(self.bus.state)}


class Apart:
    """Starts one part as a process and asks it; it ends with the block."""

    def __init__(self, folder: Path, part: Part, name: str) -> None:
        self.port = 0
        self._part = part
        self._log = folder / f"{name}.log"

    async def __aenter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.faults.apart", json.dumps(asdict(self._part))),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.port = (await self._hear())["port"]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(START):
                status = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            raise
        assert status == 0, self.log

    @property
    def log(self) -> str:
        """The end of what it has logged."""
        return self._log.read_text()[-3000:]

    async def stats(self) -> dict[str, Any]:
        """See Running.stats."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"stats\n")
        return await self._hear()

    async def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(START):
            line = await self._process.stdout.readline()
        assert line, f"the process ended:\n{self.log}"
        heard: dict[str, Any] = json.loads(line)
        return heard


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    open_patiently()
    asyncio.run(Running(Part(**json.loads(sys.argv[1]))).run())
