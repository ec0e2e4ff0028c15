"""A small process that outlives a killed worker by a moment, and ends what the worker left.

The kernel kills runners when their worker dies, and `sdk.processes.popen` ties a child to its
runner in the same way. What task code starts by other means has no such tie: the guardian finds
it by the token in its environment.
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from pathlib import Path

_CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from longshore_cpu_workers.reaping import bury_worker
sys.stdin.buffer.read()
bury_worker(sys.argv[2])
"""
_ROOT = Path(__file__).parent.parent


class Guardian:
    """Holds a pipe to the guardian process; when the pipe closes, the guardian acts and ends.

    Attributes:
        token: what the tokens of this worker's runners begin with.
    """

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CODE, str(_ROOT), self.token],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the worker's group does not reach it
        )

    async def dismiss(self) -> None:
        """Closes the pipe and returns once the process has ended."""
        await asyncio.to_thread(self._process.communicate, timeout=10)
