"""`longshore up`: server, scheduler and workers in one process, on this machine."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from longshore.cli.extras import missing
from longshore.cli.folders import absolute
from longshore.cli.log_options import LogFormat, LogLevel

DEFAULT_DATA = Path("~/.local/share/longshore")
DEFAULT_LISTEN = "127.0.0.1:7233"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `longshore up` was asked for.

    Attributes:
        data: the folder of the database and the artifacts, absolute; may not exist yet.
        listen: host:port of the gRPC server.
        config: a TOML file of settings, absolute; or None.
        simulate_gpus: how many devices to pretend.
        insecure: True permits plain text on an address that others can reach.
        store: the URL of the store; None is SQLite in the data folder.
        log_level, log_format: of the log; None leaves them to the settings.
        reload: workers are replaced when the sources of the tasks change.
    """

    data: Path
    listen: str
    config: Path | None
    simulate_gpus: int
    insecure: bool
    store: str | None
    log_level: str | None = None
    log_format: str | None = None
    reload: bool = False


def up(
    *,
    data: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the database and the artifacts lie.")
    ] = DEFAULT_DATA,
    listen: str = typer.Option(
        DEFAULT_LISTEN, metavar="HOST:PORT", help="The address of the gRPC server."
    ),
    config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Settings: a TOML file."),
    ] = None,
    simulate_gpus: int = typer.Option(
        0, min=0, metavar="N", help="Pretend to have this many GPUs."
    ),
    insecure: bool = typer.Option(
        False, "--insecure", help="Permit plain text where others can reach it."
    ),
    store: str | None = typer.Option(
        None,
        metavar="URL",
        help="The URL of the store, such as postgresql://HOST/DB.",
        show_default="SQLite",
    ),
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    reload: bool = typer.Option(
        False, "--reload", help="Replace workers when the sources of the tasks change."
    ),
) -> None:
    """Run Longshore on this machine until it is interrupted."""
    options = UpOptions(
        data=absolute(data, "--data"),
        listen=listen,
        config=None if config is None else config.absolute(),
        simulate_gpus=simulate_gpus,
        insecure=insecure,
        store=store,
        log_level=log_level,
        log_format=log_format,
        reload=reload,
    )
    raise typer.Exit(_run(options))


def _run(options: UpOptions) -> int:
    try:
        embedded = importlib.import_module("longshore_embedded.main")
        return int(embedded.run(options))
    except ImportError as error:
        typer.echo(missing("longshore up", "all", error), err=True)
        return 2
