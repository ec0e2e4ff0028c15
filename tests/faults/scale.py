"""How often a fault is injected: seldom in `make test`, as often as the matrix says in a soak.

LONGSHORE_SOAK=1 asks for the whole number; LONGSHORE_SEED=N repeats a run that failed.
"""

from __future__ import annotations

import os
import random

SOAK = os.environ.get("LONGSHORE_SOAK") == "1"
_EVERYDAY_SHARE = 20


def times(whole: int, everyday: int | None = None) -> int:
    """How often: `whole` in a soak, else `everyday`, or a twentieth of the whole."""
    return whole if SOAK else everyday or max(1, whole // _EVERYDAY_SHARE)


def kills(whole: int) -> int:
    """How many processes are killed: a fifth of the whole, unless it is a soak."""
    return times(whole, max(1, whole // 5))


def new_seed() -> int:
    """What decides the faults of a test: the same in each run of a pipeline, new at a desk."""
    if given := os.environ.get("LONGSHORE_SEED"):
        return int(given)
    return 1 if os.environ.get("CI") else random.randrange(1_000_000)
