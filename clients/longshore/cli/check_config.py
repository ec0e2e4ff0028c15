"""`longshore check-config`: what is wrong in a file of settings, before anything starts."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Annotated

import typer

from longshore.cli.settings import Settings


def check_config(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The settings: a TOML file.")],
    scheduler: bool = typer.Option(
        False, "--scheduler", help="Check also what only longshore-scheduler wants of them."
    ),
) -> None:
    """Tell every mistake in a file of settings at once.

    Nothing is started, and no task is loaded. With --json and no mistake, the command prints all
    settings with their defaults.
    """
    module = importlib.import_module("longshore_store.settings")
    try:
        found = module.load_settings(file)
        wrong = module.scheduler_conflicts(found) if scheduler else []
    except module.SettingsError as error:
        found, wrong = None, str(error).splitlines()
    options = context.find_object(Settings)
    if options is not None and options.json:
        told = {"mistakes": wrong} if wrong else found.model_dump(mode="json")
        typer.echo(json.dumps(told, ensure_ascii=False))
    elif wrong:
        typer.echo("\n".join(wrong), err=True)
    else:
        pools = ", ".join(found.pools) or "made of the machine"
        typer.echo(f"no mistake; queues: {', '.join(found.queues)}; pools: {pools}")
    raise typer.Exit(2 if wrong else 0)
