"""`longshore cancel | retry`: jobs that are named, or that a filter chooses."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import typer

from longshore.aio import AsyncClient
from longshore.cli import columns
from longshore.cli.jobs import FILTER, LABELS, PAGE, QUEUE, STATE, TASK, each, terms_of
from longshore.cli.output import Output
from longshore.cli.session import run
from longshore.cli.settings import Settings
from longshore.v1 import job_pb2

IDS = typer.Argument(None, metavar="ID", help="Ids of jobs; or choose them by options.")
YES = typer.Option(False, "--yes", help="Do it to all that the options choose; else only count.")
ACTIVE = "state:(SCHEDULED, QUEUED, LEASED, RUNNING, RETRYING)"
ENDED = "state:(FAILED, CANCELLED, EXPIRED, DEAD_LETTERED)"
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_STATE = re.compile(r"(?<![\w.])state\s*(:|=|!=)")
AT_ONCE = 100
"""Calls that are under way together."""
SAMPLE = 10
MOST_SHOWN = 1000

Act = Callable[[AsyncClient, str], Awaitable[job_pb2.Job]]


def cancel(
    context: typer.Context,
    ids: list[str] | None = IDS,
    *,
    state: list[str] | None = STATE,
    queue: str | None = QUEUE,
    task: str | None = TASK,
    labels: list[str] | None = LABELS,
    filter_: str = FILTER,
    reason: str = typer.Option("", metavar="TEXT", help="Why; goes to the log and the worker."),
    force: bool = typer.Option(False, "--force", help="Kill at once, without the grace."),
    yes: bool = YES,
) -> None:
    """Ask for jobs to be cancelled, by ids or by a filter.

    By options, jobs that have ended are left out, and without --yes the command only counts.
    """

    async def one(client: AsyncClient, job_id: str) -> job_pb2.Job:
        return await client.cancel(job_id, reason, force=force)

    chosen = _chosen(ids, terms_of(filter_, state, queue, task, labels), state, ACTIVE)
    _act(context, ids or [], chosen, one, "cancelled", yes=yes)


def retry(
    context: typer.Context,
    ids: list[str] | None = IDS,
    *,
    state: list[str] | None = STATE,
    queue: str | None = QUEUE,
    task: str | None = TASK,
    labels: list[str] | None = LABELS,
    filter_: str = FILTER,
    reason: str = typer.Option("", metavar="TEXT", help="Why; is recorded."),
    yes: bool = YES,
) -> None:
    """Run ended jobs again under the same ids, by ids or a filter.

    By options, jobs that succeeded are left out unless --state names them, and without --yes the
    command only counts. `longshore dead-letters redrive` does so at a rate.
    """

    async def one(client: AsyncClient, job_id: str) -> job_pb2.Job:
        return await client.retry(job_id, reason)

    chosen = _chosen(ids, terms_of(filter_, state, queue, task, labels), state, ENDED)
    _act(context, ids or [], chosen, one, "run again", yes=yes)


def _chosen(
    ids: list[str] | None, terms: str, states: list[str] | None, default_states: str
) -> str:
    """The filter of a selection; empty if jobs are named."""
    if terms and ids:
        raise typer.BadParameter("give ids, or options that choose jobs, not both")
    if not terms:
        return ""
    says_state = states or _STATE.search(_TEXT.sub('""', terms))
    return terms if says_state else f"{terms} AND {default_states}"


def _act(
    context: typer.Context, ids: list[str], chosen: str, one: Act, done: str, *, yes: bool
) -> None:
    settings = context.find_object(Settings)
    if not chosen and not ids:  # xargs with nothing to do calls it so
        output = Output(as_json=settings is not None and settings.json)
        output.tell("no job is named: give ids, or choose jobs by --filter and its like")
        raise typer.Exit(0)

    async def command(client: AsyncClient, output: Output) -> int:
        if not chosen:
            return await _act_on(client, output, ids, one, done)
        if not yes:
            await _preview(client, output, chosen, done)
            return 0
        named = [job.job_id async for job in client.list(chosen, page_size=PAGE)]
        return await _act_on(client, output, named, one, done)

    run(context, command)


async def _act_on(client: AsyncClient, output: Output, ids: list[str], one: Act, done: str) -> int:
    """A bounded number of calls at once; the first error decides the exit status."""
    acted: list[job_pb2.Job] = []
    status = 0
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        found, exit_with = await each(output, part, lambda job_id: one(client, job_id))
        status = status or exit_with
        if output.json:
            output.show(columns.JOB, found)
        else:
            acted += found[: MOST_SHOWN - len(acted)]
    if acted:
        output.show(columns.JOB, acted)
    if len(ids) > MOST_SHOWN:
        output.tell(f"{len(ids)} jobs were asked to be {done}; the first {MOST_SHOWN} are shown")
    return status


async def _preview(client: AsyncClient, output: Output, chosen: str, done: str) -> None:
    sample: list[job_pb2.Job] = []
    count = 0
    async for job in client.list(chosen, page_size=PAGE):
        count += 1
        sample += [job] if count <= SAMPLE else []
    if output.json:
        output.document({"count": count, "dry_run": True})
        return
    output.line(f"{count} jobs would be {done}; add --yes")
    if sample:
        output.show(columns.JOB, sample)
    if count > SAMPLE:
        output.tell(f"and {count - SAMPLE} more")
