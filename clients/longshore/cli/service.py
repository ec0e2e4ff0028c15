"""`longshore queues | pools | workers | tasks`."""

from __future__ import annotations

import json

import typer

from longshore.aio import AsyncClient
from longshore.cli import columns
from longshore.cli.group import Command
from longshore.cli.output import Output, to_json
from longshore.cli.session import run
from longshore.v1 import task_service_pb2

queues = typer.Typer(name="queues", invoke_without_command=True, rich_markup_mode=None)


@queues.callback()
def list_queues(context: typer.Context) -> None:
    """Show queues; pause and resume them."""
    if context.invoked_subcommand is not None:
        return

    async def command(client: AsyncClient, output: Output) -> None:
        output.show(columns.QUEUE, await client.queues())

    run(context, command)


@queues.command(cls=Command)
def pause(
    context: typer.Context,
    name: str = typer.Argument(metavar="QUEUE", help="The queue."),
    reason: str = typer.Option("", metavar="TEXT", help="Why; is shown to those who wait."),
) -> None:
    """Start nothing more from a queue; what runs goes on, and jobs are still accepted."""

    async def command(client: AsyncClient, output: Output) -> None:
        output.show(columns.QUEUE, [await client.pause_queue(name, reason)])

    run(context, command)


@queues.command(cls=Command)
def resume(
    context: typer.Context, name: str = typer.Argument(metavar="QUEUE", help="The queue.")
) -> None:
    """Start jobs of a paused queue again."""

    async def command(client: AsyncClient, output: Output) -> None:
        output.show(columns.QUEUE, [await client.resume_queue(name)])

    run(context, command)


def pools(context: typer.Context) -> None:
    """Show pools of workers."""

    async def command(client: AsyncClient, output: Output) -> None:
        output.show(columns.POOL, await client.pools())
        await _show_leader(client, output)

    run(context, command)


def workers(
    context: typer.Context, pool: str = typer.Option("", metavar="POOL", help="Only of this pool.")
) -> None:
    """Show workers."""

    async def command(client: AsyncClient, output: Output) -> None:
        output.show(columns.WORKER, await client.workers(pool))
        await _show_leader(client, output)

    run(context, command)


async def _show_leader(client: AsyncClient, output: Output) -> None:
    """Whether anybody places jobs: what the tables show is old where nobody does."""
    if output.json:
        return
    leader = await client.scheduler()
    if leader.leads:
        output.note(f"scheduler {leader.scheduler_id} leads in term {leader.term}")
    else:
        last = f"; the last one was {leader.scheduler_id}" if leader.scheduler_id else ""
        output.tell(f"no scheduler leads{last}: nothing is started, and what is shown is old")


def tasks(
    context: typer.Context,
    name: str | None = typer.Argument(None, metavar="TASK", help="One task, with its schemas."),
) -> None:
    """Show the tasks that can be run."""

    async def command(client: AsyncClient, output: Output) -> None:
        if name is None:
            output.show(columns.TASK, await client.tasks())
        else:
            _show_task(output, await client.task(name))

    run(context, command)


def _show_task(output: Output, task: task_service_pb2.Task) -> None:
    if output.json:
        output.document(to_json(task))
        return
    for column in columns.TASK:
        output.line(f"{column.title.lower():<12} {column.cell(task)}")
    for title, schema in (("input", task.input_schema), ("output", task.output_schema)):
        if schema:
            output.line(f"{title}:\n{json.dumps(json.loads(schema), indent=2)}")
