"""`longshore run`: a task in this process, without a service."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from longshore.cli import parsing
from longshore.cli import submit_options as options
from longshore.cli.settings import Settings
from longshore.sdk import JobCancelled, Progress, Task, load_tasks
from longshore.testing import Outcome, run_task

_PAUSE = 0.5
"""Seconds between two reports that are shown."""


def run(
    context: typer.Context,
    *,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task to run.")],
    payload: options.Payload = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=PATH", help="A file. Repeatable."),
    ] = None,
    modules: Annotated[
        list[str] | None,
        typer.Option("--module", metavar="MODULE", help="A module with tasks. Repeatable."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, metavar="FILE", help="Take the modules of these settings."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where its files go.", show_default="a temporary folder"
        ),
    ] = None,
) -> None:
    """Run a task here and now, without a service, to try it.

    The standard output has the result alone. Nothing is retried, limited or stored.
    """
    found = _find(task, [*(modules or ()), *_modules_of(config)])
    text, named = parsing.payload(payload), parsing.pairs(inputs or ())
    place = folder or Path(tempfile.mkdtemp(prefix="longshore-run-"))
    settings = context.find_object(Settings)
    try:
        outcome = run_task(found, text, folder=place, inputs=named, watch=_Shown())
    except ValidationError as error:
        for line in _violations(error):
            typer.echo(f"longshore run: {line}", err=True)
        raise typer.Exit(2) from None
    except FileNotFoundError as error:
        if error.filename not in named.values():
            _fail()
        raise typer.BadParameter(f"--input: there is no file {error.filename}") from None
    except JobCancelled:
        raise typer.Exit(1) from None
    except Exception:  # noqa: BLE001  # task code raises anything; a worker would report it
        _fail()
    _tell(outcome, as_json=settings is not None and settings.json)


def _find(name: str, modules: list[str]) -> Task[Any, Any]:
    sys.path.insert(0, "")  # as `python -m` does: modules beside where the command is typed
    try:
        tasks = load_tasks(modules)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a module may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise typer.BadParameter(f"the tasks cannot be loaded: {reason}") from None
    if name not in tasks:
        raise typer.BadParameter(
            f"there is no task {name!r} here; there are {', '.join(sorted(tasks)) or 'none'}:"
            " name its module by --module"
        )
    return tasks[name]


def _modules_of(config: Path | None) -> tuple[str, ...]:
    if config is None:
        return ()
    settings = importlib.import_module("longshore_store.settings")
    try:
        modules: tuple[str, ...] = settings.load_settings(config).tasks
    except settings.SettingsError as error:
        raise typer.BadParameter(f"--config: {error}") from None
    return modules


class _Shown:
    """Reports of progress on the standard error, a few a second."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        if (now := time.monotonic()) - self._last < _PAUSE:
            return
        self._last = now
        share = f"{progress.fraction:.0%}" if progress.fraction is not None else ""
        total = f" of {progress.total:,}" if progress.total else ""
        done = f"{progress.completed:,}{total} {progress.unit}" if progress.completed else ""
        words = (share, progress.phase, progress.message or done.strip())
        typer.echo(" ".join(word for word in words if word), err=True)


def _violations(error: ValidationError) -> list[str]:
    return [
        f"{'.'.join(map(str, each['loc'])) or error.title}: {each['msg']}"
        for each in error.errors()
    ]


def _fail() -> None:
    traceback.print_exc()
    raise typer.Exit(1) from None


def _tell(outcome: Outcome, *, as_json: bool) -> None:
    files = {name: str(path) for name, path in outcome.artifacts.items()}
    if as_json:
        document = {"result": outcome.result, "artifacts": files}
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    typer.echo(json.dumps(outcome.result, ensure_ascii=False))
    for name, path in files.items():
        typer.echo(f"artifact {name} {path}", err=True)
