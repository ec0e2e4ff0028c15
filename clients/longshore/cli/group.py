"""The group of commands: it imports a command when it is called, and says what was used wrongly.

`longshore up` does not wait for gRPC, nor for the display of the other commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

import longshore

GLOBAL_VALUES = ("--target", "--timeout")
GLOBAL_FLAGS = ("--json", "--wide")
USAGE = 2


class _Plain:
    """Ends the process itself, and says what was used wrongly in one sentence or as JSON."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command line and ends the process; wrong usage is one sentence, or JSON."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            main = super().main  # type: ignore[misc]  # of the class beside this one
            status = main(words, prog_name, complete_var, standalone_mode=False, **extra)
        except typer.Abort:
            sys.exit(130)
        except TyperException as error:
            _say(error, as_json="--json" in _partition(words, "--")[0])
            sys.exit(error.exit_code)
        sys.exit(status if isinstance(status, int) else 0)


class Command(_Plain, TyperCommand):
    """A command whose help names no types of Python: an argument is said by its metavar."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Without the braces around what is required."""
        pieces = super().collect_usage_pieces(ctx)
        return [piece.replace("{", "").replace("}", "") for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments without a type, which an option with a metavar has not either."""
        for param in self.params:
            if param.param_type_name == "argument":
                param.display_type_rich = _no_type  # type: ignore[attr-defined]
        super().format_options(ctx, formatter)


def _no_type(ctx: Any) -> str:  # noqa: ARG001
    return ""


class Group(_Plain, TyperGroup):
    """Commands by name, in the order of the help; set `members` in a subclass.

    It takes the global options behind the command too: `longshore status ID --json`.
    """

    members: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Each command's module in this package, and its name there."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the help."""
        return list(self.members)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Imports the command, or gives None if there is none of that name."""
        if cmd_name not in self.members:
            return None
        module, name = self.members[cmd_name]
        found = getattr(import_module(f"longshore.cli.{module}"), name)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False, rich_markup_mode=None)
            found.command(cmd_name, cls=Command)(function)
        return typer.main.get_command(found)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command, or an error that names the ones that were likely meant."""
        word = args[0]
        if word not in self.members and not word.startswith("-") and not ctx.resilient_parsing:
            likely = get_close_matches(word, self.members)
            hint = f"did you mean {' or '.join(likely)}" if likely else "see longshore --help"
            ctx.fail(f"there is no command {word!r}; {hint}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Moves the global options to the front, where they are declared."""
        return super().parse_args(ctx, _globals_first(args))


def run_alone(name: str, function: Callable[..., None]) -> None:
    """Runs a program that is one command, and ends the process; --version prints the release."""
    if sys.argv[1:] == ["--version"]:
        typer.echo(f"{name} {longshore.__version__}")
        sys.exit(0)
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(cls=Command)(function)
    app(prog_name=name)


def _say(error: TyperException, *, as_json: bool) -> None:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "longshore"
    message = error.format_message().removeprefix("Invalid value: ").strip()
    if as_json:
        described = {
            "type": "UsageError",
            "code": "INVALID_ARGUMENT",
            "reason": "USAGE",
            "message": message,
            "metadata": {"command": command},
        }
        typer.echo(json.dumps({"error": described}, ensure_ascii=False), err=True)
        return
    typer.echo(f"{command}: {message}", err=True)
    if not message.startswith("Usage:"):
        typer.echo(f"See `{command} --help`.", err=True)


def _globals_first(args: list[str]) -> list[str]:
    before, separator, after = _partition(args, "--")
    first: list[str] = []
    rest: list[str] = []
    words = iter(before)
    for word in words:
        if word in GLOBAL_VALUES:
            first += [word, *([value] if (value := next(words, None)) is not None else [])]
        elif word in GLOBAL_FLAGS or word.startswith(tuple(f"{o}=" for o in GLOBAL_VALUES)):
            first.append(word)
        else:
            rest.append(word)
    return first + rest + separator + after


def _partition(args: list[str], at: str) -> tuple[list[str], list[str], list[str]]:
    index = args.index(at) if at in args else len(args)
    return args[:index], args[index : index + 1], args[index + 1 :]
