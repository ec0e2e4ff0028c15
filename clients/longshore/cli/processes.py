"""The commands `longshore-server` and `longshore-scheduler`, which an extra has to bring."""

from __future__ import annotations

import importlib
import os
import sys

from longshore.cli.extras import missing


def server() -> None:
    """`longshore-server`."""
    _main("longshore_server.main", "longshore-server", "server")


def scheduler() -> None:
    """`longshore-scheduler`."""
    _main("longshore_scheduler.main", "longshore-scheduler", "scheduler")


def _main(module: str, name: str, extra: str) -> None:
    # gRPC's core repeats on standard error what is said in one line; it looks when it is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        entry = importlib.import_module(module)
    except KeyboardInterrupt:  # before there is anything to end in order
        sys.exit(130)
    except ImportError as error:
        sys.stderr.write(f"{missing(name, extra, error)}\n")
        sys.exit(2)
    entry.main()
