"""`longshore watch`."""

from __future__ import annotations

import typer

from longshore.cli.jobs import IDS
from longshore.cli.live import follow
from longshore.cli.session import run


def watch(
    context: typer.Context,
    ids: list[str] = IDS,
    logs: bool = typer.Option(
        False, "--logs", help="Also what the tasks print from now on; longshore logs has all of it."
    ),
) -> None:
    """Watch jobs live until all have ended.

    The exit status is 1 if one ended otherwise than SUCCEEDED.
    """
    run(context, lambda client, output: follow(client, output, ids, with_logs=logs))
