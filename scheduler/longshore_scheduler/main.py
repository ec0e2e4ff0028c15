"""`longshore-scheduler`: the scheduler as a process of its own, on a node of a Ray cluster.

Two or more may run: one leads, the others wait for its term to run out. Workers are detached
actors, so a deploy of schedulers interrupts no running job.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Annotated

import typer

from longshore.cli.group import run_alone
from longshore.cli.log_options import LogFormat, LogLevel
from longshore_scheduler.catalogue import CatalogueError, read_catalogue
from longshore_scheduler.declaring import declare_queues
from longshore_scheduler.ray_cluster import RayCluster
from longshore_scheduler.scheduler import Scheduler
from longshore_scheduler.worker_place import WorkerPlace
from longshore_store.bus import BusRefused, open_bus
from longshore_store.dialects import require_shared
from longshore_store.logs import LogOptions, start_logging
from longshore_store.process import run_process
from longshore_store.settings import Settings, SettingsError, load_settings, scheduler_conflicts
from longshore_store.sql import SqlStore

NAME = "longshore-scheduler"
_STOP_GRACE = 5.0
_SCRATCH = Path(gettempdir(), "longshore-scratch")
"""A folder of a node, made when it is used."""

_HOST = re.compile(r"[\w.-]+|\[[0-9a-fA-F:.]+\]")


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What the command line and the environment say."""

    store: str
    redis: str | None
    ray: str
    artifacts: Path
    scratch: Path
    config: Path | None
    simulate_gpus: bool
    logs: LogOptions


async def serve(options: SchedulerOptions, told: asyncio.Event) -> None:
    """Leads or stands by until `told`.

    Raises:
        UnusableUrl, SettingsError, StoreUnavailable, StoreMismatch, BusRefused, CatalogueError: it
            cannot be started.
        Superseded: this process is of no more use, the next one is.
    """
    require_shared(options.store)
    settings = load_settings(options.config)
    start_logging(NAME, options.logs, settings.logging)
    if wrong := scheduler_conflicts(settings):
        where = f" (--config {options.config})" if options.config else ": name a file by --config"
        raise SettingsError("\n".join(f"{line}{where}" for line in wrong))
    _check_ray(options.ray)
    _check_artifacts(options.artifacts)
    catalogue = await read_catalogue(settings.tasks)
    RayCluster.load()  # now, and not while a term that was just won runs out
    async with AsyncExitStack() as stack:
        store = SqlStore(options.store, cluster=settings.cluster)
        await store.open()
        stack.push_async_callback(store.close)
        bus = await open_bus(stack, options.redis, store, settings.cluster, publishes_wakes=False)

        async def declare(term: int) -> None:
            await declare_queues(store, settings, term)
            await store.publish_tasks(catalogue.tasks, term)

        scheduler = Scheduler(
            store,
            _cluster(options, settings),
            settings,
            simulate_gpus=options.simulate_gpus,
            artifacts=options.artifacts,
            keep_workers=True,
            single_term=True,
            build=catalogue.build,
            declare=declare,
        )
        await scheduler.start()
        stack.push_async_callback(scheduler.stop, _STOP_GRACE)
        if bus is not None:
            bus.on_wake(scheduler.notify)
        print(f"{NAME} runs", flush=True)  # noqa: T201  # for people
        await scheduler.run_until(told)


def _check_ray(address: str) -> None:
    """Raises SettingsError for what is no address: a cluster may be away, and is waited for."""
    host, _, port = address.rpartition(":")
    if address != "auto" and not (_HOST.fullmatch(host) and port.isdigit() and int(port) < 65536):
        raise SettingsError(
            f"--ray {address!r} is no address of Ray's head: give HOST:PORT, such as"
            " 10.0.0.1:6379, or auto on a node of the cluster"
        )


def _check_artifacts(folder: Path) -> None:
    """Raises SettingsError where no file can be written: each job with files would fail there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what jobs write is private
        with TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        raise SettingsError(
            f"--artifacts {folder}: cannot be written ({error.strerror}): give a folder that this"
            " user may write to, and that all nodes share"
        ) from error


def _cluster(options: SchedulerOptions, settings: Settings) -> RayCluster:
    abandon_after = settings.scheduler.abandon
    place = WorkerPlace(
        options.artifacts, options.scratch, settings.tasks, abandon_after=abandon_after
    )
    return RayCluster(place, address=options.ray, namespace=settings.cluster)


def command(
    *,
    store: Annotated[
        str,
        typer.Option(
            envvar="LONGSHORE_STORE", metavar="URL", help="postgresql://USER:PASSWORD@HOST/DB"
        ),
    ],
    artifacts: Annotated[
        Path,
        typer.Option(
            envvar="LONGSHORE_ARTIFACTS",
            metavar="FOLDER",
            help="Where results' files go: a path all nodes share.",
        ),
    ],
    redis: Annotated[
        str | None,
        typer.Option(
            envvar="LONGSHORE_REDIS", metavar="URL", help="redis://HOST:PORT; left out, it polls."
        ),
    ] = None,
    ray: Annotated[
        str,
        typer.Option(
            envvar="RAY_ADDRESS",
            metavar="ADDRESS",
            help="HOST:PORT of Ray's head; this is a node of it.",
        ),
    ] = "auto",
    scratch: Annotated[
        Path,
        typer.Option(
            envvar="LONGSHORE_SCRATCH", metavar="FOLDER", help="Working files, on each node's disk."
        ),
    ] = _SCRATCH,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar="LONGSHORE_CONFIG",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Settings: a TOML file.",
        ),
    ] = None,
    simulate_gpus: Annotated[
        bool, typer.Option("--simulate-gpus", help="Pretend the devices of GPU pools.")
    ] = False,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Place jobs on the workers of a Ray cluster, until it is told to stop."""
    logs = LogOptions(log_level, log_format)
    options = SchedulerOptions(
        store, redis, ray, artifacts.absolute(), scratch.absolute(), config, simulate_gpus, logs
    )
    refusals = (CatalogueError, BusRefused)
    status = run_process(NAME, lambda told: serve(options, told), refusals, logs)
    raise typer.Exit(status)


def main() -> None:
    """The entry of the command."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what fails is said in one line
    try:
        run_alone(NAME, command)
    except SystemExit as ended:
        status = int(ended.code or 0)
    logging.shutdown()
    sys.stdout.flush()
    # All is closed. What Ray would still do at exit may wait a minute for a cluster that is gone.
    os._exit(status)


if __name__ == "__main__":
    main()
