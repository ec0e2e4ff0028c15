"""A small process that outlives a dead or useless worker by a moment, and ends what it left.

The kernel kills runners when their worker dies, and `sdk.processes.popen` ties a child to its
runner in the same way. What task code starts by other means has no such tie: the guardian finds
it by the token in its environment.

A worker that is stopped, hung or cut off from every scheduler is not dead, but its leases are
lost. It beats while a scheduler asks it for news; when the beats stay away for long, the guardian
kills it too. At last it deletes the scratch folders that nobody is left to delete.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import subprocess
import sys
from pathlib import Path

# It counts its own waking: a clock that jumps, or a machine that sleeps, ends nobody. One read
# takes all beats of the time in which it was stopped itself.
_CODE = """
import os, select, signal, sys
sys.path.insert(0, sys.argv[1])
from longshore_cpu_workers.reaping import bury_worker
token, period, patience = sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
worker, silent = os.getppid(), 0
while silent < patience or not patience:
    if not select.select([0], [], [], period)[0]:
        silent += 1
    elif os.read(0, 65536):
        silent = 0
    else:
        break
else:
    if os.getppid() == worker == int(sys.argv[5]):
        os.kill(worker, signal.SIGKILL)
bury_worker(token)
scratch = sys.argv[6]
left = os.listdir(scratch) if os.path.isdir(scratch) else ()
left = [os.path.join(scratch, name) for name in left if name.startswith(token + "-")]
if left:
    os.execvp("rm", ["rm", "-rf", "--", *left])
"""
_log = logging.getLogger(__name__)
_ROOT = Path(__file__).parent.parent
_LONGEST_PERIOD = 1.0
_PARTS = 10
_LAST_RITES = 30.0


class Guardian:
    """Holds a pipe to the guardian process; when it closes or falls silent, the guardian acts.

    Args:
        scratch: where folders of attempts are; what a dead worker has left there is deleted.
        abandon_after: seconds without a beat after which it kills this process, and all that
            belongs to it; None waits for ever.

    Attributes:
        token: what the tokens of this worker's runners begin with.
        period: seconds between two beats.
    """

    def __init__(self, scratch: Path, abandon_after: float | None = None) -> None:
        self.token = secrets.token_hex(8)
        self.period = _LONGEST_PERIOD
        patience = 0
        if abandon_after is not None:
            self.period = min(_LONGEST_PERIOD, abandon_after / _PARTS)
            patience = math.ceil(abandon_after / self.period)
        times = (str(self.period), str(patience))
        self._words = (str(_ROOT), self.token, *times, str(os.getpid()), str(scratch))
        self._process, self._pipe = self._start()

    def _start(self) -> tuple[subprocess.Popen[bytes], int]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CODE, *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the worker's group does not reach it
        )
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        return process, process.stdin.fileno()

    def revive(self) -> None:
        """Starts the process again where something killed it; called before every beat."""
        if self._process.poll() is None:
            return
        try:
            process, pipe = self._start()
        except OSError:  # no process to be had now: the next beat tries again
            _log.exception("the guardian is gone and cannot be started")
            return
        self._process.communicate()
        self._process, self._pipe = process, pipe

    def beat(self) -> None:
        """Says that a scheduler asks for this worker. Never blocks."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._pipe, b".")

    async def dismiss(self) -> None:
        """Closes the pipe and returns once the process has ended."""
        await asyncio.to_thread(self._process.communicate, timeout=_LAST_RITES)
