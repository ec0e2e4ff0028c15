"""The small parent: starts the service, restarts it when it dies, leaves nothing behind.

It imports neither gRPC nor Ray, so it has little to die of.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from longshore.cli.addresses import UnusableAddress, check_address
from longshore.cli.up import UpOptions
from longshore_embedded.processes import adopt_orphans, end_descendants
from longshore_scheduler.ray_folder import make_ray_folder

EXIT_USAGE = 2
"""As `longshore_store.process` has it, which this process does not import: it is too heavy."""

SERVICE = [sys.executable, "-m", "longshore_embedded.service"]
"""The command of the service; its options follow as one argument."""

MARK = "OWNED_BY_LONGSHORE"
"""The variable that every process below the service inherits; names the data folder."""

QUIET = {"GRPC_VERBOSITY": "NONE", "RAY_USAGE_STATS_ENABLED": "0"}
"""gRPC's core repeats on standard error what the service says in one line."""

STOP_GRACE = 60.0
ORPHAN_GRACE = 3.0
LONGEST_BACKOFF = 30.0
STEADY_AFTER = 60.0


def run(options: UpOptions) -> int:
    """Runs the service until SIGTERM or SIGINT. Returns the exit status of the command.

    Raises:
        ImportError: an extra is missing; a service without it would die at every start.
    """
    for name in ("ray", "sqlalchemy", "psutil"):
        if find_spec(name) is None:
            raise ImportError(f"no module named {name!r}", name=name)
    try:
        check_address(options.listen, insecure=options.insecure)
        # What jobs read and write is private, also if the data folder was there and is not.
        for folder in (options.data, options.data / "artifacts", options.data / "scratch"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except UnusableAddress as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"--data {options.data}: cannot be made ({error.strerror}): give another")
    adopt_orphans()
    return Supervisor(options).run()


def _refuse(why: str) -> int:
    print(f"longshore up: {why}", file=sys.stderr)
    return EXIT_USAGE


class Supervisor:
    """Keeps one service process alive."""

    def __init__(self, options: UpOptions) -> None:
        self._options = options
        self._child: subprocess.Popen[bytes] | None = None
        self._told = threading.Event()
        self._failures = 0

    def run(self) -> int:
        """Starts the service and restarts it until told to stop, or until it is no use."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        while True:
            began = time.monotonic()
            status = self._run_once()
            if self._told.is_set():
                return self._ended(status)
            if status in (0, EXIT_USAGE):
                return status
            self._failures = 0 if time.monotonic() - began > STEADY_AFTER else self._failures + 1
            self._say(f"the service died ({_how(status)}); starting it again")
            if self._told.wait(min(LONGEST_BACKOFF, 0.1 * 2**self._failures)):
                return 0

    def _run_once(self) -> int:
        with _ray_folder() as folder:
            self._child = subprocess.Popen(
                [*SERVICE, _packed(self._options)],
                env={
                    **os.environ,
                    **QUIET,
                    MARK: str(self._options.data),
                    "RAY_TMPDIR": str(folder),
                },
                start_new_session=True,  # Ctrl-C is for this process, which tells it once
            )
            if self._told.is_set():  # the signal came before there was a child to pass it on to
                self._child.terminate()
            status = self._wait()
            # A killed service leaves Ray's processes; they are this process's children by now.
            end_descendants(ORPHAN_GRACE)
        return status

    def _wait(self) -> int:
        assert self._child is not None
        while not self._told.is_set():
            try:
                return self._child.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                continue
        try:
            return self._child.wait(timeout=STOP_GRACE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self._told.set()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _ended(self, status: int) -> int:
        """The exit status of a stop: 0 only where the service ended in order, or had no time to
        begin."""
        if status in (0, -signal.SIGTERM):
            return 0
        self._say(f"the service did not end in order ({_how(status)})")
        return 1

    def _say(self, text: str) -> None:
        """One line among those of the service's log, and as JSON if those are asked to be."""
        if self._options.log_format != "json":
            print(f"longshore up: {text}", file=sys.stderr)
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "level": "error", "logger": __name__, "process": "longshore up"}
        print(json.dumps({**line, "message": text}), file=sys.stderr)


def _how(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _packed(options: UpOptions) -> str:
    values = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items()}
    return json.dumps({**values, "parent_pid": os.getpid()})


@contextmanager
def _ray_folder() -> Iterator[Path]:
    # Ray's sockets lie in it and a socket's path has 107 characters; data folders may be long.
    folder = Path(make_ray_folder("longshore-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
