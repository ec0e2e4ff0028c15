"""`longshore dead-letters list | redrive | redrives | stop | purge`."""

from __future__ import annotations

import typer

from longshore.aio import AsyncClient
from longshore.cli import columns
from longshore.cli.group import Command
from longshore.cli.jobs import PAGE, QUEUE, TASK
from longshore.cli.output import Output, to_json
from longshore.cli.parsing import failure_class, moment
from longshore.cli.session import run
from longshore.letters import Selection
from longshore.v1 import queue_service_pb2

CAUSE = typer.Option(
    None,
    "--failure-class",
    metavar="CLASS",
    help="Only whose last attempt ended so, such as CRASH.",
)
AFTER = typer.Option(
    None, "--ended-after", metavar="TIME", help="Such as 2026-01-31T18:00, or 2h for ago."
)
BEFORE = typer.Option(
    None, "--ended-before", metavar="TIME", help="Such as 2026-01-31T18:00, or 2h for ago."
)
REASON = typer.Option("", metavar="TEXT", help="Why; is recorded. Must be given with --yes.")
LIMIT = typer.Option(50, min=0, metavar="N", help="The most to show; 0 shows all.")

dead_letters = typer.Typer(name="dead-letters", no_args_is_help=True, rich_markup_mode=None)


@dead_letters.callback()
def _about() -> None:
    """Show, run again or delete jobs whose attempts are used up."""


@dead_letters.command("list", cls=Command)
def list_(
    context: typer.Context,
    queue: str | None = QUEUE,
    task: str | None = TASK,
    cause: str | None = CAUSE,
    ended_after: str | None = AFTER,
    ended_before: str | None = BEFORE,
    limit: int = LIMIT,
) -> None:
    """List dead letters, the newest job first."""
    selection = _selection(queue, task, cause, ended_after, ended_before)

    async def command(client: AsyncClient, output: Output) -> None:
        found = client.dead_letters(page_size=min(limit + 1, PAGE) if limit else PAGE, **selection)
        await output.show_first(columns.DEAD_LETTER, found, limit)

    run(context, command)


@dead_letters.command(cls=Command)
def redrive(
    context: typer.Context,
    queue: str | None = QUEUE,
    task: str | None = TASK,
    cause: str | None = CAUSE,
    ended_after: str | None = AFTER,
    ended_before: str | None = BEFORE,
    *,
    rate: float = typer.Option(10.0, metavar="N", help="Jobs per second, 0.1 to 1000."),
    maximum_failure_share: float = typer.Option(
        0.0,
        metavar="SHARE",
        help="Stop once more than this share has failed again, such as 0.2; 0 goes on.",
    ),
    reason: str = REASON,
    yes: bool = typer.Option(False, "--yes", help="Do it; else only count, and show some."),
) -> None:
    """Run dead letters again, at a rate; without --yes only show which."""
    selection = _selection(queue, task, cause, ended_after, ended_before)

    async def command(client: AsyncClient, output: Output) -> None:
        answer = await client.redrive(
            rate=rate,
            reason=reason,
            maximum_failure_share=maximum_failure_share,
            dry_run=not yes,
            **selection,
        )
        if output.json:
            output.document(to_json(answer))
        elif yes:
            output.line(answer.redrive_id)
            output.note(f"{answer.count} dead letters: follow it with dead-letters redrives")
        else:
            _preview(output, answer)

    run(context, command)


@dead_letters.command(cls=Command)
def purge(
    context: typer.Context,
    queue: str | None = QUEUE,
    task: str | None = TASK,
    cause: str | None = CAUSE,
    ended_after: str | None = AFTER,
    ended_before: str | None = BEFORE,
    *,
    reason: str = REASON,
    yes: bool = typer.Option(False, "--yes", help="Do it; else only count."),
) -> None:
    """Delete dead letters for good; without --yes only count them."""
    selection = _selection(queue, task, cause, ended_after, ended_before)

    async def command(client: AsyncClient, output: Output) -> None:
        count = await client.purge_dead_letters(reason=reason, dry_run=not yes, **selection)
        if output.json:
            output.document({"count": count, "dry_run": not yes})
        else:
            output.line(f"{count} deleted" if yes else f"{count} would be deleted; add --yes")

    run(context, command)


@dead_letters.command(cls=Command)
def redrives(context: typer.Context, limit: int = LIMIT) -> None:
    """List redrives and how far they are, the newest first."""

    async def command(client: AsyncClient, output: Output) -> None:
        found = client.redrives(page_size=min(limit + 1, PAGE) if limit else PAGE)
        await output.show_first(columns.REDRIVE, found, limit)

    run(context, command)


@dead_letters.command(cls=Command)
def stop(
    context: typer.Context,
    redrive_id: str = typer.Argument(metavar="ID", help="The redrive."),
    reason: str = typer.Option("", metavar="TEXT", help="Why; is recorded."),
) -> None:
    """Stop a redrive; what it has queued stays queued."""

    async def command(client: AsyncClient, output: Output) -> None:
        output.show(columns.REDRIVE, [await client.stop_redrive(redrive_id, reason)])

    run(context, command)


def _selection(
    queue: str | None, task: str | None, cause: str | None, after: str | None, before: str | None
) -> Selection:
    return Selection(
        queue=queue,
        task=task,
        failure_class=failure_class(cause),
        ended_after=moment(after),
        ended_before=moment(before),
    )


def _preview(output: Output, answer: queue_service_pb2.RedriveResponse) -> None:
    output.line(f"{answer.count} would be queued again; add --yes")
    if answer.sample:
        output.show(columns.JOB, answer.sample)
