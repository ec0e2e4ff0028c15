"""What every command that calls the server shares: a client, an output, and exit statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import typer

from longshore import errors
from longshore.aio import AsyncClient
from longshore.cli.output import Output
from longshore.cli.reaching import reach
from longshore.cli.settings import Settings
from longshore.errors import LongshoreError

INTERRUPTED = 130
_STATUSES: tuple[tuple[type[LongshoreError], int], ...] = (
    (errors.JobEnded, 1),
    (errors.NotFound, 3),
    (errors.LimitExceeded, 5),
    (errors.RequestError, 2),
    (LongshoreError, 4),
)


def exit_status(error: LongshoreError) -> int:
    """The exit status that stands for an error."""
    return next(status for kind, status in _STATUSES if isinstance(error, kind))


def run(
    context: typer.Context, command: Callable[[AsyncClient, Output], Awaitable[int | None]]
) -> None:
    """Runs a command with a client and ends the process with its status; None is 0."""
    settings = context.find_object(Settings)
    assert settings is not None
    output = Output(as_json=settings.json, wide=settings.wide)

    async def session() -> int | None:
        if not settings.patient:
            await reach(settings.target)
        async with AsyncClient(settings.target, timeout=settings.timeout) as client:
            return await command(client, output)

    try:
        status = asyncio.run(session())
    except ValueError as error:  # of a target that is none
        raise typer.BadParameter(str(error)) from None
    except LongshoreError as error:
        output.error(error)
        status = exit_status(error)
    except KeyboardInterrupt:
        status = INTERRUPTED
    raise typer.Exit(status or 0)
