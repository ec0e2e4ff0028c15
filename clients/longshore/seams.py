"""Named points in the code at which a fault test lets a real process die, stop or wait.

A seam does nothing unless the variable LONGSHORE_SEAMS names it, as in

    LONGSHORE_SEAMS="submit.committed=kill@3 report.sent=wait:/tmp/go"

that is, NAME=ACTION[@N], separated by spaces: at the N-th passage (the first one where left out)
this process does ACTION, once. Actions: `kill` sends SIGKILL to itself, `stop` SIGSTOP;
`touch:PATH` makes a file; `wait:PATH` blocks the thread until the file exists, a minute at most.
`crash` raises RuntimeError. A name that no code passes is never noticed: tests wait for the effect.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

VARIABLE = "LONGSHORE_SEAMS"
_LONGEST_WAIT = 60.0


class _Armed(NamedTuple):
    action: str
    passage: int


def _parse(text: str) -> dict[str, _Armed]:
    armed = {}
    for word in text.split():
        name, _, rest = word.partition("=")
        action, _, count = rest.partition("@")
        armed[name] = _Armed(action, int(count or 1))
    return armed


_armed = _parse(os.environ.get(VARIABLE, ""))
_passed: dict[str, int] = {}


def seam(name: str) -> None:
    """Passes a named point. Costs a look at an empty dictionary where nothing is armed."""
    if _armed:
        _pass(name)


def _pass(name: str) -> None:
    point = _armed.get(name)
    if point is None:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] == point.passage:
        _act(name, *point.action.partition(":")[::2])


def _act(name: str, action: str, argument: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "touch":
        Path(argument).touch()
    elif action == "wait":
        _wait_for(Path(argument))
    elif action == "crash":
        raise RuntimeError(f"seam {name} was told to crash")
    else:
        raise ValueError(f"{VARIABLE}: {name}={action} is none of kill stop touch wait crash")


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _LONGEST_WAIT
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
