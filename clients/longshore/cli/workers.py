"""`longshore drain | cordon | uncordon`: workers taken out of service."""

from __future__ import annotations

from typing import Annotated

import typer

from longshore.aio import AsyncClient
from longshore.cli import columns
from longshore.cli.output import Output, to_json
from longshore.cli.parsing import duration
from longshore.cli.session import run

ID = typer.Argument(metavar="WORKER", help="The id of a worker; see `longshore workers`.")


def drain(
    context: typer.Context,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="WORKER", help="Ids of workers.")
    ] = None,
    pool: str = typer.Option("", metavar="POOL", help="All workers of this pool."),
    node: str = typer.Option(
        "",
        metavar="NODE",
        help="All workers on this node: its host name or its Ray id, or how one begins.",
    ),
    grace: str = typer.Option(
        "30s", metavar="DURATION", help="How long running jobs may take to finish."
    ),
) -> None:
    """Take workers out of service, and wait until they are idle.

    The command returns once nothing runs on them, a minute after the grace at the latest.

    Jobs that do not finish within the grace go on elsewhere, from their newest checkpoint.
    """
    if not (ids or pool or node):
        raise typer.BadParameter("name some workers, or give --pool or --node")
    seconds = duration(grace)

    async def command(client: AsyncClient, output: Output) -> None:
        done = await client.drain_workers(ids or (), pool=pool, node=node, grace=seconds)
        if output.json:
            output.document(to_json(done))
            return
        if not done.workers:
            place = f"on node {node!r}" if node else f"in pool {pool!r}"
            output.note(f"nothing to drain: no worker is {place}; see `longshore workers`")
            return
        output.show(columns.WORKER, done.workers)
        output.note(
            f"{done.finished_attempts} attempts finished, {done.released_attempts} go on elsewhere"
        )

    run(context, command)


def cordon(context: typer.Context, worker: str = ID) -> None:
    """Give a worker no new work; what it runs goes on."""
    _cordon(context, worker, cordoned=True)


def uncordon(context: typer.Context, worker: str = ID) -> None:
    """Give a cordoned worker work again."""
    _cordon(context, worker, cordoned=False)


def _cordon(context: typer.Context, worker: str, *, cordoned: bool) -> None:
    async def command(client: AsyncClient, output: Output) -> None:
        output.show(columns.WORKER, [await client.cordon_worker(worker, cordoned=cordoned)])

    run(context, command)
