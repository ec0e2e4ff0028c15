"""`longshore-server`: the gRPC server as a process of its own, one of as many as are wanted.

It holds no state: the truth is in Postgres, and what other processes commit is heard over Redis,
or by polling where Redis is away.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import longshore
from longshore.cli.addresses import UnusableAddress, check_address
from longshore.cli.group import run_alone
from longshore.cli.log_options import LogFormat, LogLevel
from longshore.cli.up import DEFAULT_LISTEN
from longshore_server.server import ListenError, LongshoreServer
from longshore_store.bus import BusRefused, open_bus
from longshore_store.dialects import require_shared
from longshore_store.logs import LogOptions, start_logging
from longshore_store.process import run_process
from longshore_store.settings import load_settings
from longshore_store.sql import SqlStore

NAME = "longshore-server"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the command line and the environment say."""

    store: str
    redis: str | None
    listen: str
    config: Path | None
    logs: LogOptions


async def serve(options: ServerOptions, told: asyncio.Event) -> None:
    """Serves until `told`.

    Raises:
        UnusableUrl, SettingsError, StoreUnavailable, StoreMismatch, BusRefused, ListenError: it
            cannot be started.
    """
    require_shared(options.store)
    settings = load_settings(options.config)
    start_logging(NAME, options.logs, settings.logging)
    async with AsyncExitStack() as stack:
        store = SqlStore(options.store, cluster=settings.cluster)
        await store.open()
        stack.push_async_callback(store.close)
        bus = await open_bus(stack, options.redis, store, settings.cluster, publishes_wakes=True)
        server = LongshoreServer(store, settings, listen=options.listen, bus=bus)
        await server.start()
        stack.push_async_callback(server.stop)
        host = options.listen.rpartition(":")[0]
        print(f"{NAME} {longshore.__version__} listens on {host}:{server.port}", flush=True)  # noqa: T201  # for people
        await told.wait()


def command(
    *,
    store: Annotated[
        str,
        typer.Option(
            envvar="LONGSHORE_STORE", metavar="URL", help="postgresql://USER:PASSWORD@HOST/DB"
        ),
    ],
    redis: Annotated[
        str | None,
        typer.Option(
            envvar="LONGSHORE_REDIS", metavar="URL", help="redis://HOST:PORT; left out, it polls."
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            envvar="LONGSHORE_LISTEN", metavar="HOST:PORT", help="The address of the gRPC server."
        ),
    ] = DEFAULT_LISTEN,
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
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Permit plain text where others can reach it.")
    ] = False,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Serve gRPC over a shared Postgres, until it is told to stop."""
    try:
        check_address(listen, insecure=insecure)
    except UnusableAddress as error:
        typer.echo(f"{NAME}: {error}", err=True)
        raise typer.Exit(2) from None
    logs = LogOptions(log_level, log_format)
    options = ServerOptions(store, redis, listen, config, logs)
    status = run_process(NAME, lambda told: serve(options, told), (ListenError, BusRefused), logs)
    raise typer.Exit(status)


def main() -> None:
    """The entry of the command."""
    run_alone(NAME, command)


if __name__ == "__main__":
    main()
