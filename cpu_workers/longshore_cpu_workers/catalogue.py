"""`python -m longshore_cpu_workers.catalogue [MODULE...]`: the tasks and their build, as JSON."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence

from longshore.sdk.task import load_tasks
from longshore_cpu_workers.build import identify, is_installed, loaded_sources


def main(modules: Sequence[str]) -> int:
    """Prints the build, its source folders and a list of `Task.describe()`; returns the status."""
    answer = _own_stdout()
    try:
        tasks = load_tasks(modules)
        found = {
            "build": [*identify(tasks, modules)],
            "sources": [str(source) for source in loaded_sources()],
            "tasks": [tasks[name].describe() for name in sorted(tasks)],
        }
        described = json.dumps(found)  # in ASCII: the name of a folder need not be text
    except BaseException as error:  # noqa: BLE001 - a module may raise anything, and call sys.exit
        reason = " ".join(str(error).split())
        where = _place(error)
        sys.stderr.write(f"the tasks cannot be loaded: {type(error).__name__}: {reason}{where}\n")
        return 1
    with os.fdopen(answer, "w") as out:
        out.write(f"{described}\n")
    return 0


def _own_stdout() -> int:
    """The standard output for the answer alone: what modules and their programs print is no JSON,
    and goes to the standard error."""
    sys.stdout.flush()
    answer = os.dup(1)
    os.dup2(2, 1)
    return answer


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
