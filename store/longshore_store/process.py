"""What every long-lived process of Longshore does: it logs, hears signals, ends with a status."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import io
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

from longshore_store.dialects import StoreLocked, UnusableUrl
from longshore_store.logs import DEFAULTS, LogOptions, logs_json, start_logging
from longshore_store.model import StoreMismatch, StoreRefused, StoreUnavailable
from longshore_store.settings import SettingsError

EXIT_USAGE = 2
"""Started again as it is, the process would fail again; it has said why."""

EXIT_DIED = 1
"""Something ended it; whoever watches over it starts it again."""

REFUSALS: tuple[type[Exception], ...] = (
    SettingsError,
    StoreLocked,
    StoreMismatch,
    StoreRefused,
    UnusableUrl,
)
"""What keeps any process from starting; their messages are for people."""

# Threads that wait for the GIL (SQLite's, Ray's) do so at every call; 5 ms is an age for them.
_SWITCH_INTERVAL = 0.0005
_LARGE_BLOCK = 128 * 1024
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8

_log = logging.getLogger(__name__)
_Serve = Callable[[asyncio.Event], Awaitable[None]]


class Superseded(Exception):
    """This process is of no more use, and that is no fault: the one started next is."""


def run_process(
    name: str,
    serve: _Serve,
    refusals: tuple[type[Exception], ...] = (),
    logs: LogOptions = DEFAULTS,
) -> int:
    """Runs `serve(told)` until it returns; SIGTERM and SIGINT set `told`. Returns the status.

    name: what its lines on standard error begin with. refusals: exceptions, beside REFUSALS,
    whose message says all there is to say: status 2 and no traceback. A store that is away is
    said in one line too, with status 1: started again later, the process may find it there. logs:
    what the command line says of the log; `serve` calls `start_logging` with the settings.
    """
    start_logging(name, logs)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be text
    sys.setswitchinterval(_SWITCH_INTERVAL)
    # Thousands of small tuples come and go in every cycle; what was imported never goes.
    gc.set_threshold(50_000, 10, 10)
    gc.freeze()
    _keep_the_heap_small()
    try:
        asyncio.run(_until_told(serve))
    except (*REFUSALS, *refusals) as error:
        _say(name, error)
        return EXIT_USAGE
    except StoreUnavailable as error:
        _say(name, error)
        return EXIT_DIED
    except Superseded as error:
        _log.warning("%s ends: %s", name, error)
        return EXIT_DIED
    except Exception:  # noqa: BLE001  # not left to sys.excepthook: Ray's asks a cluster first
        _log.exception("%s dies", name)
        return EXIT_DIED
    return 0


def _say(name: str, error: Exception) -> None:
    if logs_json():
        _log.error("%s", error)
        return
    for line in str(error).splitlines():
        print(f"{name}: {line}", file=sys.stderr)  # noqa: T201  # before there is a log


def _keep_the_heap_small() -> None:
    """Tells malloc to share two arenas among all threads, as Ray brings dozens, which would keep
    what they freed; and to map each large block by itself. asyncio reads from a socket into a
    block of 256 KiB that it then shrinks to what came. Left to itself malloc raises its threshold
    above that, and what came lies on the heap, a hole of up to 256 KiB behind it: 12 MiB more of
    them every two minutes were measured in a leader.
    """
    with contextlib.suppress(OSError, AttributeError):  # a libc that is not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


async def _until_told(serve: _Serve) -> None:
    told = asyncio.Event()

    def tell() -> None:
        # While Ray starts, its own handler of SIGTERM is in place too; it leaves an alarm that
        # would abort this process in the middle of its stop.
        signal.alarm(0)
        told.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, tell)
    await serve(told)
