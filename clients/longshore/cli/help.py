"""`longshore help [COMMAND | filter]`."""

from __future__ import annotations

import typer

FILTER = """\
A filter chooses jobs: comparisons joined by AND.

  state = RUNNING AND queue = "default" AND labels.team = "ads"
  state:(FAILED, DEAD_LETTERED) AND end_time >= "2026-01-31T00:00:00Z"

Fields:
  state, task, queue, tenant   = and !=
  labels.NAME                  =
  create_time, end_time        =, <, <=, > and >=, with an RFC 3339 time in quotes
  state:(A, B), task:(A, B)    one of several
"""


def help_(
    context: typer.Context,
    topic: str | None = typer.Argument(None, metavar="COMMAND|filter", help="About what."),
) -> None:
    """Show the help of a command, or how to write a filter."""
    root = context.find_root()
    if topic == "filter":
        typer.echo(FILTER, nl=False)
        return
    if topic is None:
        typer.echo(root.get_help())
        return
    group = root.command
    found = group.get_command(root, topic)  # type: ignore[attr-defined]  # of a group
    if found is None:
        raise typer.BadParameter(f"there is no command {topic!r}; see longshore --help")
    with found.make_context(topic, [], parent=root, resilient_parsing=True) as about:
        typer.echo(about.get_help())
