"""The command line: `longshore`."""

from __future__ import annotations

import io
import os
import sys


def main() -> None:
    """Runs the command line and ends the process with its exit status."""
    # grpc writes of every connection that breaks; what matters of that, the client says itself.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be text
    # Imported here: `longshore_embedded` takes UpOptions from this package without typer's cost.
    try:
        from longshore.cli.app import app  # noqa: PLC0415
    except KeyboardInterrupt:  # the command itself sees to the later ones
        sys.exit(130)
    app(prog_name="longshore")
