"""`longshore dev-cluster`: the distributed deployment on this machine, for trying it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from longshore.cli.extras import missing
from longshore.cli.folders import absolute

DEFAULT_DATA = Path("~/.local/share/longshore-dev-cluster")


def dev_cluster(
    *,
    data: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where the database, the artifacts and the logs lie."),
    ] = DEFAULT_DATA,
    servers: int = typer.Option(2, min=1, metavar="N", help="How many longshore-server."),
    schedulers: int = typer.Option(
        2, min=1, metavar="N", help="How many longshore-scheduler; one leads."
    ),
    nodes: int = typer.Option(2, min=1, metavar="N", help="How many Ray nodes."),
    config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Settings: a TOML file."),
    ] = None,
) -> None:
    """Run a distributed deployment on this machine, to try it.

    Postgres, Redis, Ray nodes, servers and schedulers run until the command is interrupted.
    """
    try:
        module = importlib.import_module("longshore_embedded.dev_cluster")
        options = module.DevClusterOptions(
            data=absolute(data, "--data"),
            servers=servers,
            schedulers=schedulers,
            nodes=nodes,
            config=None if config is None else config.absolute(),
        )
        raise typer.Exit(module.run(options))
    except ImportError as error:
        typer.echo(missing("longshore dev-cluster", "dev-cluster", error), err=True)
        raise typer.Exit(2) from None
