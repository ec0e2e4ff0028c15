"""The command tree and its global options."""

from __future__ import annotations

from typing import ClassVar

import typer

import longshore
from longshore.cli.group import USAGE, Group
from longshore.cli.settings import Settings
from longshore.cli.up import DEFAULT_LISTEN

DEFAULT_TIMEOUT = 10.0
# \b keeps the line ends of a paragraph.
EXIT_STATUSES = "\n".join(
    (
        "\b",
        "Exit status:",
        "  0    success",
        "  1    a job ended otherwise than SUCCEEDED (watch, submit), or drift is left (doctor)",
        "  2    wrong usage, or a request that was refused",
        "  3    not found",
        "  4    no service, or no answer in time",
        "  5    refused for now, such as by a full queue: try again later",
        "  130  interrupted",
    )
)


class Commands(Group):
    """All commands of `longshore`."""

    members: ClassVar = {
        "up": ("up", "up"),
        "dev-cluster": ("dev_cluster", "dev_cluster"),
        "submit": ("submit", "submit"),
        "status": ("jobs", "status"),
        "watch": ("watch", "watch"),
        "logs": ("logs", "logs"),
        "list": ("jobs", "list_"),
        "cancel": ("acting", "cancel"),
        "retry": ("acting", "retry"),
        "queues": ("service", "queues"),
        "pools": ("service", "pools"),
        "dead-letters": ("dead_letters", "dead_letters"),
        "workers": ("service", "workers"),
        "drain": ("workers", "drain"),
        "cordon": ("workers", "cordon"),
        "uncordon": ("workers", "uncordon"),
        "tasks": ("service", "tasks"),
        "run": ("run_local", "run"),
        "check-config": ("check_config", "check_config"),
        "migrate": ("migrate", "migrate"),
        "doctor": ("doctor", "doctor"),
        "help": ("help", "help_"),
    }


app = typer.Typer(
    cls=Commands,
    invoke_without_command=True,
    add_completion=True,
    epilog=EXIT_STATUSES,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Longshore runs long jobs: submit them, watch them, get their results.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"longshore {longshore.__version__}")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    target: str = typer.Option(
        DEFAULT_LISTEN,
        envvar="LONGSHORE_TARGET",
        metavar="TARGET",
        help="The server: HOST or HOST:PORT, several as ipv4:A:PORT,B:PORT or dns:///NAME:PORT.",
    ),
    json: bool = typer.Option(False, "--json", help="Print one JSON document a line."),
    wide: bool = typer.Option(False, "--wide", help="Print tables with all columns, uncut."),
    timeout: float | None = typer.Option(
        None,
        min=0.001,
        max=86400,
        envvar="LONGSHORE_TIMEOUT",
        metavar="SECONDS",
        show_default=f"{DEFAULT_TIMEOUT:g}",
        help="The longest time for each call. If it is given, a server that is not there is"
        " waited for as long; if not, the command ends at once.",
    ),
    version: bool = typer.Option(  # noqa: ARG001  # its callback does it
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Remembers the global options for the command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)
    if not target.strip():
        raise typer.BadParameter("--target is empty; give HOST:PORT, or leave it out")
    context.obj = Settings(
        target=target,
        timeout=DEFAULT_TIMEOUT if timeout is None else timeout,
        patient=timeout is not None,
        json=json,
        wide=wide,
    )
