"""`python -m longshore_cpu_workers.catalogue [MODULE...]`: the tasks, as JSON on stdout."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import orjson

from longshore.sdk.task import load_tasks


def main(modules: Sequence[str]) -> int:
    """Prints a JSON list of `Task.describe()`; returns the exit status."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what modules print is no JSON
            tasks = load_tasks(modules)
        described = orjson.dumps([tasks[name].describe() for name in sorted(tasks)])
    except Exception as error:  # noqa: BLE001 - importing a module can raise anything
        reason = " ".join(str(error).split())
        sys.stderr.write(f"the tasks cannot be loaded: {type(error).__name__}: {reason}\n")
        return 1
    sys.stdout.buffer.write(described + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
