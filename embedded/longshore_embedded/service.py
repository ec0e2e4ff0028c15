"""The service process: everything in one event loop, over one SQLite file and a local Ray.

It answers Submit within a second of start, and jobs wait in the store while Ray boots.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import longshore
from longshore_cpu_workers.build import Build
from longshore_embedded.machine import with_pools
from longshore_embedded.main import MARK
from longshore_embedded.processes import die_with_parent, end_strays
from longshore_embedded.reloading import Reloading
from longshore_scheduler.catalogue import CatalogueError, TaskCatalogue, read_catalogue
from longshore_scheduler.declaring import declare_queues
from longshore_scheduler.ray_cluster import RayCluster
from longshore_scheduler.scheduler import Scheduler
from longshore_scheduler.worker_place import WorkerPlace
from longshore_server.server import ListenError, LongshoreServer
from longshore_store.logs import LogOptions, start_logging
from longshore_store.process import run_process
from longshore_store.settings import Settings, load_settings
from longshore_store.sql import SqlStore

NAME = "longshore up"
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
    log_level: str | None
    log_format: str | None
    reload: bool
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

    async def run(self, told: asyncio.Event) -> None:
        """Runs until `told`.

        Raises:
            StoreLocked, StoreUnavailable, ListenError, CatalogueError: it cannot be started.
            ClusterLost: Ray is gone; a new process has to start it again.
        """
        async with AsyncExitStack() as stack:
            reading = asyncio.create_task(read_catalogue(self._settings.tasks))
            stack.push_async_callback(_end, reading)
            store = await self._open_store(stack)
            catalogue = await reading
            await store.publish_tasks(catalogue.tasks)
            # The last to start is the first to stop: no new work, then what runs, then the store.
            scheduler = self._scheduler(store, catalogue.build)
            await scheduler.start()
            stack.push_async_callback(scheduler.stop, _DRAIN_GRACE)
            server = LongshoreServer(store, self._settings, listen=self._options.listen)
            await server.start()
            stack.push_async_callback(server.stop)
            self._announce(server.port)
            if self._options.reload:
                stack.push_async_callback(_end, self._watch_sources(store, scheduler, catalogue))
            await scheduler.run_until(told)

    async def _open_store(self, stack: AsyncExitStack) -> SqlStore:
        store = SqlStore(self._options.store_url, cluster=self._settings.cluster)
        await store.open()
        stack.push_async_callback(store.close)
        end_strays(f"{MARK}={self._options.data}")  # the lock is ours, so they are nobody's
        await declare_queues(store, self._settings)
        return store

    def _scheduler(self, store: SqlStore, build: Build) -> Scheduler:
        data = self._options.data
        place = WorkerPlace(
            data / "artifacts",
            data / "scratch",
            self._settings.tasks,
            abandon_after=self._settings.scheduler.abandon,
        )
        # While people work on the tasks, a long job must not keep new code from coming up.
        cluster = RayCluster(place, spare=self._options.reload)
        return Scheduler(
            store,
            cluster,
            self._settings,
            leader_id="embedded",
            simulate_gpus=self._options.simulate_gpus > 0,
            artifacts=data / "artifacts",
            build=build,
        )

    def _watch_sources(
        self, store: SqlStore, scheduler: Scheduler, catalogue: TaskCatalogue
    ) -> asyncio.Task[None]:
        async def deploy(new: TaskCatalogue) -> None:
            await store.publish_tasks(new.tasks)
            scheduler.deploy(new.build)

        reloading = Reloading(self._settings.tasks, catalogue, deploy, say=_say)
        return asyncio.create_task(reloading.run(), name="reload")

    def _announce(self, port: int) -> None:
        place = f"{self._options.listen.rpartition(':')[0]}:{port}"
        release = f"Longshore {longshore.__version__}"
        lines = [f"{release} listens on {place}, data in {self._options.data}"]
        if self._options.simulate_gpus:
            lines.append(f"SIMULATED GPUs: {self._options.simulate_gpus}; models run on the CPU")
        print("\n".join(lines), flush=True)


def _say(line: str) -> None:
    print(line, flush=True)


async def _end(task: asyncio.Task[Any]) -> None:
    """Cancels it and waits: its child must be gone before the loop is."""
    task.cancel()
    await asyncio.wait([task])


def main() -> int:
    """The entry of the child. Returns its exit status."""
    options = ServiceOptions.from_json(sys.argv[1])
    die_with_parent(options.parent_pid, signal.SIGTERM)

    logs = LogOptions(options.log_level, options.log_format)

    async def serve(told: asyncio.Event) -> None:
        declared = load_settings(options.config)
        start_logging(NAME, logs, declared.logging)
        settings = with_pools(declared, options.simulate_gpus)
        await Service(options, settings).run(told)

    return run_process(NAME, serve, (ListenError, CatalogueError), logs)


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stdout.flush()
    # All is closed. What Ray would still do at exit may wait for a cluster that is starting;
    # the parent ends its processes.
    os._exit(status)
