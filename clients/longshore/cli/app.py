"""The command tree and its global options.

Commands are imported when they are called: `longshore up` does not wait for gRPC, nor for the
display of the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from longshore.cli.settings import Settings
from longshore.cli.up import DEFAULT_LISTEN

# A blank line between: help folds single line ends.
EXIT_STATUSES = "\n\n".join(
    (
        "Exit status:",
        "0 success",
        "1 a job ended otherwise than SUCCEEDED (watch, submit), or drift is left (doctor)",
        "2 wrong usage, or a request that was refused",
        "3 not found",
        "4 no service, or no answer in time",
        "5 refused for now, such as by a full queue: try again later",
        "130 interrupted",
    )
)
_COMMANDS = {
    "up": ("up", "up"),
    "dev-cluster": ("dev_cluster", "dev_cluster"),
    "submit": ("submit", "submit"),
    "status": ("jobs", "status"),
    "watch": ("jobs", "watch"),
    "list": ("jobs", "list_"),
    "cancel": ("jobs", "cancel"),
    "retry": ("jobs", "retry"),
    "queues": ("service", "queues"),
    "pools": ("service", "pools"),
    "dead-letters": ("dead_letters", "dead_letters"),
    "workers": ("service", "workers"),
    "drain": ("workers", "drain"),
    "cordon": ("workers", "cordon"),
    "uncordon": ("workers", "uncordon"),
    "tasks": ("service", "tasks"),
    "migrate": ("migrate", "migrate"),
    "doctor": ("doctor", "doctor"),
}
"""Each command's module in this package, and its name there."""

_GLOBAL_VALUES = ("--target", "--timeout")
_GLOBAL_FLAGS = ("--json",)


class Group(TyperGroup):
    """Takes the global options behind the command too: `longshore status ID --json`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Imports the command, or gives None where there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        found = getattr(import_module(f"longshore.cli.{module}"), name)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False)
            found.command(cmd_name)(function)
        return typer.main.get_command(found)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Moves them to the front, where they are declared."""
        return super().parse_args(ctx, _globals_first(args))


def _globals_first(args: list[str]) -> list[str]:
    before, separator, after = _partition(args, "--")
    first: list[str] = []
    rest: list[str] = []
    words = iter(before)
    for word in words:
        if word in _GLOBAL_VALUES:
            first += [word, *([value] if (value := next(words, None)) is not None else [])]
        elif word in _GLOBAL_FLAGS or word.startswith(tuple(f"{o}=" for o in _GLOBAL_VALUES)):
            first.append(word)
        else:
            rest.append(word)
    return first + rest + separator + after


def _partition(args: list[str], at: str) -> tuple[list[str], list[str], list[str]]:
    index = args.index(at) if at in args else len(args)
    return args[:index], args[index : index + 1], args[index + 1 :]


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    epilog=EXIT_STATUSES,
    pretty_exceptions_enable=False,
    help="Longshore runs long jobs: submit them, watch them, get their results.",
)


@app.callback()
def settings(
    context: typer.Context,
    target: str = typer.Option(
        DEFAULT_LISTEN, envvar="LONGSHORE_TARGET", help="HOST:PORT of the server."
    ),
    json: bool = typer.Option(False, "--json", help="One JSON document a line, for programs."),
    timeout: float = typer.Option(10.0, min=0.001, max=86400, help="Seconds for each call."),
) -> None:
    """Remembers the global options for the command."""
    if not target.strip():
        raise typer.BadParameter("--target is empty; give HOST:PORT, or leave it out")
    context.obj = Settings(target=target, timeout=timeout, json=json)
