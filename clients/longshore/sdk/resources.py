"""What a task asks for by default; a job may ask for something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_DAY = 86_400.0
_LONGEST = 30 * _DAY
_SHORTEST = 0.001
_TIB = 2**40


@dataclass(frozen=True, slots=True)
class Resources:
    """What one attempt needs.

    Attributes:
        cpu: cores; 0.01 and more.
        memory: host memory in bytes; 0 asks for none in particular.
        gpu: devices; 0.25 shares one, above 1 a whole number.
        gpu_memory: free memory needed on each device, in bytes.
        accelerators: accepted accelerator types, best first; empty accepts any.
        model: a model to have resident: a soft affinity for a warm worker.
        custom: any other counted resource of a pool.

    Raises:
        ValueError: one is out of the range that a service takes.
        TypeError: one has another type.
    """

    cpu: float = 1.0
    memory: int = 0
    gpu: float = 0.0
    gpu_memory: int = 0
    accelerators: tuple[str, ...] = ()
    model: str = ""
    custom: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require("Resources.cpu", self.cpu, 0.01, 1024)
        _require("Resources.gpu", self.gpu, 0, 64)
        if self.gpu > 1 and self.gpu != int(self.gpu):
            raise ValueError(f"Resources.gpu is {self.gpu}; above 1 give whole devices: 2, 3, ...")
        _require_bytes("Resources.memory", self.memory, 64 * _TIB)
        _require_bytes("Resources.gpu_memory", self.gpu_memory, 4 * _TIB)
        if self.gpu_memory and not self.gpu:
            raise ValueError(
                f"Resources.gpu_memory is {self.gpu_memory} and gpu is 0; give gpu=1, or a share"
            )
        accelerators: object = self.accelerators
        if not isinstance(accelerators, (tuple, list)):
            raise TypeError(f"Resources.accelerators is {accelerators!r}; give a tuple of names")
        for name, count in self.custom.items():
            _require(f"Resources.custom[{name!r}]", count, 1, 1_000_000_000)


@dataclass(frozen=True, slots=True)
class Retry:
    """How failed attempts are repeated.

    Attributes:
        max_attempts: all attempts, the first one included.
        initial_backoff: seconds before the second attempt.
        multiplier: growth of the backoff from one attempt to the next.
        max_backoff: its cap, in seconds.
        jitter: the random share of each backoff, 0 to 1.

    Raises:
        ValueError: one is out of the range that a service takes.
    """

    max_attempts: int = 4
    initial_backoff: float = 1.0
    multiplier: float = 2.0
    max_backoff: float = 300.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _require("Retry.max_attempts", self.max_attempts, 1, 100)
        _require("Retry.initial_backoff", self.initial_backoff, 0, _DAY)
        _require("Retry.multiplier", self.multiplier, 1, 10)
        _require("Retry.max_backoff", self.max_backoff, 0, _DAY)
        _require("Retry.jitter", self.jitter, 0, 1)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds; None sets none.

    Attributes:
        queue: from acceptance to the first start.
        attempt: one attempt.
        total: from acceptance to the end, retries included.
        cancel_grace: from the cancel signal to the kill.

    Raises:
        ValueError: one is shorter than a millisecond or longer than 30 days; cancel_grace may be 0.
    """

    queue: float | None = None
    attempt: float | None = 3600.0
    total: float | None = None
    cancel_grace: float = 10.0

    def __post_init__(self) -> None:
        for name in ("queue", "attempt", "total"):
            if (seconds := getattr(self, name)) is not None:
                _require(f"Timeouts.{name}", seconds, _SHORTEST, _LONGEST)
        _require("Timeouts.cancel_grace", self.cancel_grace, 0, _LONGEST)


def _require_bytes(name: str, value: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; give a number of bytes, such as 2 * 2**30")
    _require(name, value, 0, most)


def _require(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; give a number, {low:g} to {high:,.0f}")
    if not low <= value <= high:  # a NaN compares false, so it is refused too
        raise ValueError(f"{name} is {value}; give {low:g} to {high:,.0f}")
