"""The service process: everything in one event loop, over one SQLite file and a local Ray.

It answers Submit within a second of start, and jobs wait in the store while Ray boots.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from longshore_embedded.catalogue import CatalogueError, read_catalogue
from longshore_embedded.machine import with_pools
from longshore_embedded.main import EXIT_USAGE, MARK
from longshore_embedded.processes import die_with_parent, end_strays
from longshore_scheduler.ray_cluster import RayCluster, WorkerPlace
from longshore_scheduler.scheduler import Scheduler
from longshore_server.server import ListenError, LongshoreServer
from longshore_store.dialects import StoreLocked
from longshore_store.model import QueueDeclaration, StoreUnavailable
from longshore_store.settings import Settings, SettingsError, load_settings
from longshore_store.sql import SqlStore

# SQLite's thread waits for the GIL at every statement; the default of 5 ms is an age for it.
_SWITCH_INTERVAL = 0.0005
_DRAIN_GRACE = 10.0


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What the parent hands over: UpOptions as JSON, and two facts of its own."""

    data: Path
    listen: str
    config: Path | None
    simulate_gpus: int
    insecure: bool
    store: str | None
    parent_pid: int

    @classmethod
    def from_json(cls, text: str) -> ServiceOptions:
        """The other way round of what the parent packed."""
        values = json.loads(text)
        for name in ("data", "config"):
            values[name] = Path(values[name]) if values[name] else None
        return cls(**values)

    @property
    def store_url(self) -> str:
        """The given store, or SQLite in the data folder."""
        return self.store or f"sqlite:///{self.data / 'longshore.db'}"


class Service:
    """Server and scheduler over one store, started and stopped in order."""

    def __init__(self, options: ServiceOptions, settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Runs until `stop`.

        Raises:
            StoreLocked, StoreUnavailable, ListenError, CatalogueError: it cannot be started.
        """
        async with AsyncExitStack() as stack:
            reading = asyncio.create_task(read_catalogue(self._settings.tasks))
            stack.callback(reading.cancel)
            store = await self._open_store(stack)
            await store.publish_tasks(await reading)
            # The last to start is the first to stop: no new work, then what runs, then the store.
            scheduler = self._scheduler(store)
            await scheduler.start()
            stack.push_async_callback(scheduler.stop, _DRAIN_GRACE)
            server = LongshoreServer(store, self._settings, listen=self._options.listen)
            await server.start()
            stack.push_async_callback(server.stop)
            self._announce(server.port)
            await self._until_told(scheduler)

    def stop(self) -> None:
        """Asks for an orderly end."""
        # While Ray starts, its own handler of SIGTERM is in place too; it leaves an alarm that
        # would abort this process in the middle of the drain.
        signal.alarm(0)
        self._stop.set()

    async def _open_store(self, stack: AsyncExitStack) -> SqlStore:
        store = SqlStore(self._options.store_url)
        await store.open()
        stack.push_async_callback(store.close)
        end_strays(f"{MARK}={self._options.data}")  # the lock is ours, so they are nobody's
        await store.declare_queues(
            [
                QueueDeclaration(name, q.maximum_waiting, _us(q.attempt_timeout), q.overflow_to)
                for name, q in self._settings.queues.items()
            ]
        )
        return store

    def _scheduler(self, store: SqlStore) -> Scheduler:
        data = self._options.data
        place = WorkerPlace(data / "artifacts", data / "scratch", self._settings.tasks)
        cluster = RayCluster(place)
        return Scheduler(
            store,
            cluster,
            self._settings,
            simulate_gpus=self._options.simulate_gpus > 0,
        )

    def _announce(self, port: int) -> None:
        host = self._options.listen.rpartition(":")[0]
        lines = [f"Longshore listens on {host}:{port}, data in {self._options.data}"]
        if self._options.simulate_gpus:
            lines.append(f"SIMULATED GPUs: {self._options.simulate_gpus}; models run on the CPU")
        overflowing = [name for name, q in self._settings.queues.items() if q.overflow_to]
        if overflowing:
            lines.append(f"overflow_to is not served by this release: {', '.join(overflowing)}")
        print("\n".join(lines), flush=True)

    async def _until_told(self, scheduler: Scheduler) -> None:
        told = asyncio.create_task(self._stop.wait())
        died = asyncio.create_task(scheduler.run())
        try:
            await asyncio.wait((told, died), return_when=asyncio.FIRST_COMPLETED)
            if not self._stop.is_set():
                await died  # raises what the scheduler died of; the parent starts us again
                raise RuntimeError("the scheduler ended by itself")
        finally:
            told.cancel()
            died.cancel()


def _us(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000)


async def _serve(options: ServiceOptions) -> int:
    try:
        settings = with_pools(load_settings(options.config), options.simulate_gpus)
        service = Service(options, settings)
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, service.stop)
        await service.run()
    except (SettingsError, StoreLocked, StoreUnavailable, ListenError, CatalogueError) as error:
        for line in str(error).splitlines():
            print(f"longshore up: {line}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def main() -> int:
    """The entry of the child. Returns its exit status."""
    options = ServiceOptions.from_json(sys.argv[1])
    die_with_parent(options.parent_pid, signal.SIGTERM)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.set_threshold(50_000, 20, 100)  # thousands of small tuples come and go in every cycle
    return asyncio.run(_serve(options))


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stdout.flush()
    # All is closed. What Ray would still do at exit may wait for a cluster that is starting;
    # the parent ends its processes.
    os._exit(status)
