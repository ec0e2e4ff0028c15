"""`python -m longshore_cpu_workers.catalogue [MODULE...]`: the tasks and their build, as JSON."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Sequence

import orjson

from longshore.sdk.task import load_tasks
from longshore_cpu_workers.build import identify, is_installed, loaded_sources


def main(modules: Sequence[str]) -> int:
    """Prints the build, its source folders and a list of `Task.describe()`; returns the status."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what modules print is no JSON
            tasks = load_tasks(modules)
        found = {
            "build": [*identify(tasks, modules)],
            "sources": [str(source) for source in loaded_sources()],
            "tasks": [tasks[name].describe() for name in sorted(tasks)],
        }
        described = orjson.dumps(found)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything, and call sys.exit
        reason = " ".join(str(error).split())
        where = _place(error)
        sys.stderr.write(f"the tasks cannot be loaded: {type(error).__name__}: {reason}{where}\n")
        return 1
    sys.stdout.buffer.write(described + b"\n")
    return 0


def _place(error: BaseException) -> str:
    """Where in people's own code it happened: the file and the line."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" [{error.filename}:{error.lineno}]"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not is_installed(frame.filename)]
    own = [
        frame for frame in own if frame.filename not in (__file__, load_tasks.__code__.co_filename)
    ]
    return f" [{own[-1].filename}:{own[-1].lineno}]" if own else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
