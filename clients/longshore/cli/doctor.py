"""`longshore doctor`: what must be true of the store and the workers, counted again."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from longshore.cli.extras import missing
from longshore.cli.folders import absolute
from longshore.cli.settings import Settings
from longshore.cli.up import DEFAULT_DATA


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What `longshore doctor` was asked for.

    Attributes:
        data: the folder of an embedded service, absolute; where `store` is None.
        store: the URL of the store, or None.
        repair: True mends what is safe to mend.
        ray: the address of the Ray cluster whose workers are asked; None asks none.
        cluster: the name of the deployment there; None takes the store's word.
        json: True prints a JSON document a line.
    """

    data: Path
    store: str | None
    repair: bool
    ray: str | None
    cluster: str | None
    json: bool


def doctor(
    context: typer.Context,
    *,
    store: str | None = typer.Option(
        None,
        envvar="LONGSHORE_STORE",
        metavar="URL",
        help="The URL of the store, such as postgresql://HOST/DB.",
        show_default="SQLite",
    ),
    data: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The data folder of `longshore up`.")
    ] = DEFAULT_DATA,
    repair: bool = typer.Option(
        False, "--repair", help="Mend counters, rows of jobs that are gone, claims of nobody."
    ),
    ray: str | None = typer.Option(
        None,
        metavar="ADDRESS",
        help="Ask its workers too: HOST:PORT of Ray, or auto. The token is RAY_AUTH_TOKEN.",
    ),
    cluster: str | None = typer.Option(
        None,
        metavar="NAME",
        help="The name of the deployment on that cluster.",
        show_default="the store's",
    ),
) -> None:
    """Check the store, beside a running service or without one.

    The command counts again what must be true.

    Exit status: 0 clean, or all that was found is mended; 1 drift is left; 2 wrong usage; 4 the
    store or the cluster cannot be asked.
    """
    if cluster is not None and ray is None:
        raise typer.BadParameter("--cluster is looked for on a Ray cluster: give --ray too")
    settings = context.find_object(Settings)
    options = DoctorOptions(
        data=absolute(data, "--data"),
        store=_store(context, store),
        repair=repair,
        ray=ray,
        cluster=cluster,
        json=settings is not None and settings.json,
    )
    raise typer.Exit(_run(options))


def _store(context: typer.Context, store: str | None) -> str | None:
    """The store that was meant: a folder that is named comes before an environment."""
    sources = {name: context.get_parameter_source(name) for name in ("store", "data")}
    given = {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
    if given == {"store", "data"}:
        raise typer.BadParameter("give --store or --data, not both")
    return None if given == {"data"} else store


def _run(options: DoctorOptions) -> int:
    try:
        embedded = importlib.import_module("longshore_embedded.doctor")
        return int(embedded.run(options))
    except ImportError as error:
        typer.echo(missing("longshore doctor", "all", error), err=True)
        return 2
