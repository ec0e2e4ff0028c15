"""A local Ray cluster in a process of its own, which is also the program of that process.

Ray starts its processes by fork, with Python code between fork and exec. In a process whose other
threads hold locks at that moment (gRPC's, SQLite's) the child can hang there for ever: one start
in six or so, seen as a gcs_server that never says its port. A process with one thread cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import select
import signal
import sys
from collections.abc import Mapping
from typing import Any

import psutil

_VITAL = ("gcs_server", "raylet")
_WATCH_PERIOD = 0.5
START_DEADLINE = 60.0
STOP_DEADLINE = 10.0


class HeadFailed(Exception):
    """The cluster did not come up; the message is the last line it said."""


class LocalHead:
    """The cluster as its owner sees it: an address, and an end.

    It ends with its owner, however that ends: its standard input is closed then.
    """

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self.address = address

    @classmethod
    async def start(cls, options: Mapping[str, Any]) -> LocalHead:
        """Starts it with these options of `ray.init`.

        Raises:
            HeadFailed: it ended, or did not answer within 60 s.
        """
        # Ray asks its clients for a token; this one is for the owner and what it starts.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            json.dumps(dict(options)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the owner, who then ends it in order
        )
        assert process.stdout is not None
        head = cls(process, "")
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_DEADLINE)
        except TimeoutError:
            line = b""
        except asyncio.CancelledError:
            await head.stop()
            raise
        if not line.startswith(b"ready "):
            await head.stop()
            raise HeadFailed(line.decode(errors="replace").strip() or "Ray did not start in time")
        head.address = line.decode().split()[1]
        return head

    @property
    def ended(self) -> bool:
        """True once its process is gone, and the cluster with it."""
        return self._process.returncode is not None

    async def stop(self) -> None:
        """Ends the cluster; takes at most 10 s."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_DEADLINE)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()


def main() -> int:
    """Starts Ray, says where it is, and stays until standard input is closed or Ray is broken.

    A head that lost its gcs_server or its raylet is of no use, and would say so after a minute.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import ray  # noqa: PLC0415 - the class above is used where Ray is not needed

    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **json.loads(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - whatever it is, the owner is told
        print(f"failed {type(error).__name__}: {error}".partition("\n")[0], flush=True)  # noqa: T201
        return 1
    print("ready", ray.get_runtime_context().gcs_address, flush=True)  # noqa: T201
    vital = [p for p in psutil.Process().children() if p.name() in _VITAL]
    while not select.select([sys.stdin], [], [], _WATCH_PERIOD)[0]:
        if not all(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in vital):
            os._exit(1)  # an orderly end would wait for what is gone
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
