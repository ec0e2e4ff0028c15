"""The tasks of this installation, read in a process of its own: task code stays out of this one."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from longshore_cpu_workers.build import Build
from longshore_store.topology_records import TaskRecord

DEADLINE = 30.0


class CatalogueError(Exception):
    """The tasks cannot be loaded; the message is what the loader said."""


class TaskCatalogue(NamedTuple):
    """What this installation offers. sources: the packages and modules that are watched."""

    tasks: list[TaskRecord]
    build: Build
    sources: tuple[Path, ...]


async def read_catalogue(modules: Sequence[str]) -> TaskCatalogue:
    """Loads the tasks of the entry points and of `modules` in a child, and returns them.

    Raises:
        CatalogueError: a module cannot be imported, or declares a task wrongly.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "longshore_cpu_workers.catalogue",
        *modules,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(child.communicate(), DEADLINE)
    except TimeoutError:
        raise CatalogueError(f"loading the tasks took more than {DEADLINE:.0f} s") from None
    finally:  # also where the process that wants them ends meanwhile
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0 or not out:
        raise CatalogueError(_why(child.returncode, err, modules))
    return _parse(out)


def _why(status: int | None, err: bytes, modules: Sequence[str]) -> str:
    remedy = "(correct `tasks` in the settings, or let Python find it: PYTHONPATH)"
    last = (err.decode(errors="replace").strip().splitlines() or [""])[-1]
    if last.startswith("the tasks cannot be loaded"):
        return f"{last} {remedy}" if "ModuleNotFoundError" in last else last
    named = ", ".join(modules) or "an installed package"
    ended = f"loading the tasks ended with status {status}: a module ends the process ({named})"
    return f"{ended}: {last[:500]} {remedy}" if last else f"{ended} {remedy}"


def _parse(out: bytes) -> TaskCatalogue:
    found = json.loads(out)
    build_id, description, names = found["build"]
    return TaskCatalogue(
        [TaskRecord(task["name"], json.dumps(task)) for task in found["tasks"]],
        Build(build_id, description, tuple(names)),
        tuple(map(Path, found["sources"])),
    )
