"""A real process with server and scheduler over a store, and fake workers instead of Ray.

Started by `Serving`. Its one argument is `Options` as JSON. It prints a line of JSON once it
listens, and one for each command, a line of JSON, that it reads: see `Child.obey`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import text

from longshore_scheduler.scheduler import Scheduler
from longshore_server import answering
from longshore_server.server import LongshoreServer
from longshore_store import opening
from longshore_store.dialects import Connection, postgres
from longshore_store.settings import Settings, parse_settings
from longshore_store.sql import SqlStore
from longshore_store.topology_records import QueueDeclaration, TaskRecord
from tests.faults.unsure import UnsureStore
from tests.faults.work import Workers, work
from tests.scheduler.fake_cluster import FakeCluster

GIB = 1024**3
_NO_LIMIT = 1_000_000_000
_PATIENCE = 50.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Options:
    """unsure: the share of calls of the store that fail after they were done. answer_time: seconds
    before the deadline of a call at which it is answered; None leaves what the server has.
    patient: see `open_patiently`; not where Postgres is what is broken."""

    url: str
    marks: str
    listen: str = "127.0.0.1:0"
    settings: dict[str, Any] = field(default_factory=dict)
    unsure: float = 0.0
    seed: int = 0
    answer_time: float | None = None
    patient: bool = True

    def pack(self) -> str:
        """As one argument."""
        return json.dumps(asdict(self))


def make_settings(changes: dict[str, Any]) -> Settings:
    """One pool of many runners and short clocks, unless the changes say otherwise.

    The term is long: that one runs out is a fault of its own, not for a slow machine to add.
    """
    pools = {"cpu": {"cpu": 64, "memory": 1024 * GIB, "maximum_runners": 64}}
    values: dict[str, Any] = {"pools": pools, **changes}
    values["scheduler"] = {"sweep_interval": 0.1, "term": 60.0, **values.get("scheduler", {})}
    values["server"] = {"shutdown_grace": 2.0, **values.get("server", {})}
    return parse_settings(values)


def open_patiently() -> None:
    """Stores of this process wait for Postgres for as long as a slow machine takes. Elsewhere a
    supervisor starts a process again that did not reach its store."""
    opening.OPEN_DEADLINE = postgres.CONNECT_DEADLINE = _PATIENCE


class Child:
    """The parts, and what it can be told."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.settings = make_settings(options.settings)
        self.store = SqlStore(options.url)
        self.unsure = UnsureStore(self.store, 0.0, options.seed)
        self.cluster = FakeCluster(time.monotonic)
        self.cluster.default = Workers(Path(options.marks)).begin
        store: Any = self.unsure
        self.server = LongshoreServer(store, self.settings, listen=options.listen, poll=0.2)
        self.scheduler = Scheduler(store, self.cluster, self.settings)
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        """Until it is told to stop."""
        await self.store.open()
        await self.store.declare_queues(
            [
                QueueDeclaration(name, queue.maximum_waiting, None, "")
                for name, queue in self.settings.queues.items()
            ]
        )
        await self.store.publish_tasks([TaskRecord(work.name, json.dumps(work.describe()))])
        await self.scheduler.start()
        await self.server.start()
        self.unsure.rate = self.options.unsure
        say({"port": self.server.port})
        reading = asyncio.create_task(self._read())
        await self.stopped.wait()
        reading.cancel()
        self.unsure.rate = 0.0
        await self.scheduler.stop(0.5)
        await self.server.stop()
        await self.store.close()

    async def _read(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            say(await self.obey(**json.loads(line)))
        self.stopped.set()  # the test is gone

    async def obey(self, command: str, argument: Any = None) -> Any:
        """stats: numbers of now. jump: the wall clock of this process, by so many seconds.

        lead: asks for leadership; its term, or None while another one leads.

        quota, pages: files may grow, or the database may, by so many bytes; None is no limit.
        """
        if command == "jump":
            jump(float(argument))
            return time.time()
        if command == "quota":
            return self._limit_files(argument)
        if command == "pages":
            return await self._limit_pages(argument)
        if command == "lead":  # as it asks itself, to win a term or to keep it
            return await self.scheduler._leadership._ask()
        assert command == "stats", command
        led = self.scheduler._led
        return {
            "term": led.term.number if led else None,
            "sweeps": led.sweep.rounds if led else 0,
            "watches": self.server.services.hub.open_watches,
            "resident": resident(),
            "leads": self.scheduler.leading,
            "ready": self.scheduler.ready_workers,
            "calls": self.unsure.calls,
            "failures": self.unsure.failures,
        }

    def _limit_files(self, room: int | None) -> None:
        """The kernel refuses to let a file grow: EFBIG, as EDQUOT or ENOSPC would be."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        files = Path(self.options.url.removeprefix("sqlite:///")).parent.glob("store.db*")
        largest = max(path.stat().st_size for path in files)
        soft = hard if room is None else largest + room
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    async def _limit_pages(self, room: int | None) -> None:
        """SQLite refuses to let the database grow, with the error of a full disk."""

        async def work(connection: Connection) -> None:
            pages = await connection.scalar(text("PRAGMA page_count"))
            size = await connection.scalar(text("PRAGMA page_size"))
            most = _NO_LIMIT if room is None else pages + room // size
            await connection.scalar(text(f"PRAGMA max_page_count = {most}"))

        await self.store._dialect.transact(work)


def say(what: Any) -> None:
    """One line of JSON to the test."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def jump(seconds: float) -> None:
    """Moves what Python calls the time of day; the monotonic clock goes on, as a kernel's does."""
    before, before_ns = time.time, time.time_ns
    time.time = lambda: before() + seconds
    time.time_ns = lambda: before_ns() + round(seconds * 1e9)


async def main() -> None:
    """The process."""
    options = Options(**json.loads(sys.argv[1]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    random.seed(options.seed)
    if options.patient:
        open_patiently()
    if options.answer_time is not None:
        answering.ANSWER_TIME, answering.ANSWER_SHARE = options.answer_time, 1.0
    child = Child(options)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, child.stopped.set)
    await child.run()


if __name__ == "__main__":
    asyncio.run(main())
