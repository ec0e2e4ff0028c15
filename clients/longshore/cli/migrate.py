"""`longshore migrate`: brings a database to the schema of this release."""

from __future__ import annotations

import importlib

import typer

from longshore.cli.extras import missing


def migrate(
    store: str = typer.Option(
        ...,
        envvar="LONGSHORE_STORE",
        metavar="URL",
        help="The URL of the store, such as postgresql://HOST/DB.",
        show_envvar=True,
    ),
) -> None:
    """Bring a database to the schema of this release, or make it.

    Processes of the last release go on beside it; start those of this one afterwards.
    """
    status, line = _run(store)
    typer.echo(line, err=status != 0)
    raise typer.Exit(status)


def _run(store: str) -> tuple[int, str]:
    """The exit status, and what to say."""
    status: int
    try:
        opening = importlib.import_module("longshore_store.opening")
    except ImportError as error:
        return 2, missing("longshore migrate", "server", error)
    status, line = opening.run_migration(store)
    return status, f"longshore migrate: {line}" if status else line
