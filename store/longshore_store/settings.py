"""What a deployment declares, read from TOML: queues, pools, tasks, limits.

An unknown key is refused by name: a misspelt limit must not silently be no limit.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from longshore.units import duration, size

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
Words = Annotated[tuple[str, ...], Field(strict=False)]  # of a list, which is what TOML has
GIB = 1024**3


class SettingsError(Exception):
    """Settings that cannot be used; the message has one line for each key to blame."""


def _in_bytes(value: object) -> object:
    return size(value) if isinstance(value, str) else value


def _in_seconds(value: object) -> object:
    return duration(value) if isinstance(value, str) else value


def _in_days(value: object) -> object:
    return duration(value) / 86400 if isinstance(value, str) else value


Bytes = Annotated[int, Field(ge=0, le=1024**5), BeforeValidator(_in_bytes)]
"""A number of bytes, or a size such as "2GiB"."""
Seconds = Annotated[float, BeforeValidator(_in_seconds)]
"""A number of seconds, or a duration such as "1h30m"; each setting adds its bounds."""
Days = Annotated[float, Field(gt=0, le=36_500), BeforeValidator(_in_days)]
"""A number of days, or a duration such as "36h"."""


class _Section(BaseModel):
    # Strict: "5" is no number, and true no count. Docstrings describe settings for their page.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class QueueSettings(_Section):
    """One queue. Its depth is bounded by default, because memory and patience are."""

    maximum_waiting: int = Field(1_000_000, ge=0, le=10**12)
    """The most jobs that may wait; a further one is refused. 0 is no bound."""
    attempt_timeout: Annotated[Seconds, Field(gt=0, le=30 * 86400)] | None = None
    """The longest time of an attempt, for jobs that set none. With `overflow_to`, also the most
    for jobs that set one."""
    overflow_to: str = ""
    """The queue that takes jobs which outlive `attempt_timeout` here; its own one is longer."""


class Variable(_Section):
    """Where the value of a variable is read on a worker: give one of the two."""

    file: str = ""
    """A file; a line break at its end is left out."""
    variable: str = ""
    """A variable of the worker itself."""

    @model_validator(mode="after")
    def _one(self) -> Variable:
        if bool(self.file) == bool(self.variable):
            raise ValueError('give { file = "..." } or { variable = "..." }')
        return self


class PoolSettings(_Section):
    """Workers of one shape: what one of them offers, and how many there may be."""

    cpu: float = Field(1.0, ge=0.01, le=1024)
    """Cores of one worker."""
    memory: Bytes = 2 * GIB
    """Memory of one worker."""
    gpu: int = Field(0, ge=0, le=64)
    """Whole devices of one worker."""
    gpu_memory: Bytes = 0
    """Memory of each device."""
    accelerators: Words = ()
    """Names of the devices, such as "h100"."""
    custom: dict[str, Annotated[int, Field(ge=0, le=10**9)]] = Field(default_factory=dict)
    """Other resources of one worker, by name, such as licences."""
    minimum_workers: int = Field(1, ge=0, le=10_000)
    """The fewest workers."""
    maximum_workers: int = Field(1, ge=1, le=10_000)
    """The most workers."""
    maximum_runners: int = Field(16, ge=1, le=1024)
    """The most attempts at once on one worker, whatever they ask for."""
    runner_max_attempts: int = Field(100_000, ge=0, le=10**9)
    """After so many attempts a process that runs them is replaced; 0 never."""
    runner_max_memory: Bytes = 512 * 1024**2
    """What such a process may still hold after an attempt, beyond what it held before its first
    (or twice what the first has left, if that is more); then it is replaced. 0 never."""
    share_runners: bool = False
    """Jobs of different tenants may follow one another in one process."""
    memory_limit: Literal["off", "soft", "hard"] = "soft"
    """What happens to a job that has more memory than it asked for. off: nothing. soft: it is ended
    as OUT_OF_MEMORY once that is seen, within a second. hard: allocations beyond it fail, too."""
    env: dict[VariableName, str | Variable] = Field(default_factory=dict)
    """Variables of task code. A value is text, { file = "..." } or { variable = "..." }: read on
    the worker when a process for tasks starts, so that a secret is in no settings."""
    hidden_env: Words = ()
    """Variables that task code does not inherit from the worker, such as "AWS_*". It never inherits
    RAY_*, nor LONGSHORE_* other than LONGSHORE_TASK_*."""

    @model_validator(mode="after")
    def _ordered(self) -> PoolSettings:
        if self.minimum_workers > self.maximum_workers:
            raise ValueError(
                f"minimum_workers {self.minimum_workers} is above "
                f"maximum_workers {self.maximum_workers}"
            )
        return self


class SchedulerSettings(_Section):
    """The clocks of scheduling, and its bounds."""

    lease: Seconds = Field(30.0, ge=1, le=3600)
    """How long a worker may be silent before its attempts are released."""
    abandon: Seconds = Field(120.0, ge=1, le=86400)
    """How long a worker that no scheduler asks for news goes on before its processes are ended;
    longer than a lease, and longer than a change of leader takes (`longshore-scheduler` wants two
    terms)."""
    term: Seconds = Field(10.0, ge=1, le=300)
    """How long leadership lasts if it is not renewed."""
    sweep_interval: Seconds = Field(1.0, ge=0.05, le=60)
    """How often the leader looks for what is due."""
    prefetch: Seconds = Field(0.02, ge=0, le=10)
    """The extra wait that handing work ahead to a worker may cost."""
    maximum_prefetch: int = Field(4096, ge=1, le=16384)
    """The most jobs handed ahead to one worker."""
    maximum_crashes: int = Field(3, ge=1, le=100)
    """How often the process of a job may die before the job is a dead letter."""
    maximum_ooms: int = Field(3, ge=1, le=100)
    """How often a job may run out of memory before it is a dead letter."""
    maximum_interruptions: int = Field(10, ge=1, le=1000)
    """How often a job may lose its worker for no fault of its own before it is a dead letter."""


class ServerSettings(_Section):
    """Limits of the gRPC server."""

    shutdown_grace: Seconds = Field(10.0, ge=0, le=600)
    """How long calls under way may go on when the server stops."""
    heartbeat_interval: Seconds = Field(15.0, gt=0, le=15)
    """How often a watch hears from the server when nothing happens. Clients take a watch that is
    silent for 45 s for dead, so 15 is the most."""
    maximum_watches: int = Field(10_000, ge=1)
    """The most watches at once."""
    watch_buffer: int = Field(256, ge=8, le=65_536)
    """The most events that wait for one reader of a watch."""
    slow_reader_timeout: Seconds = Field(10.0, gt=0, le=600)
    """How long a reader may keep its events waiting before its watch is ended."""


class RetentionSettings(_Section):
    """How long what has ended is kept, by how it ended; and what is kept shorter."""

    succeeded: Days = 7.0
    """Jobs that succeeded, with their artifacts."""
    failed: Days = 14.0
    """Jobs that failed."""
    cancelled: Days = 7.0
    """Jobs that were cancelled."""
    expired: Days = 7.0
    """Jobs whose time was up."""
    dead_lettered: Days = 30.0
    """Jobs whose attempts were used up."""
    logs: Days = 7.0
    """Log lines of ended jobs, and with them the state changes before the last line, so that the
    events that stay are dense. Attempts and the outcome stay as long as the job."""
    batch: int = Field(500, ge=1, le=10_000)
    """The most jobs deleted in one transaction."""


class LoggingSettings(_Section):
    """What the processes write to their log, on standard error. The options `--log-level` and
    `--log-format` come first."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """What is less is left out."""
    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line, which names the job, the worker and the queue
    in fields of their own."""


class Settings(_Section):
    """A whole deployment."""

    cluster: Name = "longshore"
    """The name of the deployment. What shares a database, a Redis or a Ray cluster with another
    one is told apart by it."""
    queues: dict[Name, QueueSettings] = Field(default_factory=lambda: {"default": QueueSettings()})
    """The queues, by name. If this is given, `default` is there only if it is named too."""
    pools: dict[Name, PoolSettings] = Field(default_factory=dict)
    """The pools of workers, by name. `longshore up` makes some of this machine if there are none;
    `longshore-scheduler` needs them."""
    tasks: Words = ()
    """Modules with tasks, beside those that installed packages offer by an entry point."""
    scheduler: SchedulerSettings = SchedulerSettings()
    server: ServerSettings = ServerSettings()
    retention: RetentionSettings = RetentionSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        wrong = [*_clock_conflicts(self.scheduler), *_overflow_conflicts(self.queues)]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self


def _clock_conflicts(clocks: SchedulerSettings) -> Iterator[str]:
    if clocks.abandon <= clocks.lease:
        yield (
            f"scheduler.abandon {clocks.abandon:g} must be above scheduler.lease"
            f" {clocks.lease:g}: a worker may not give up what is still its own"
        )


def _overflow_conflicts(queues: dict[str, QueueSettings]) -> Iterator[str]:
    # Limits that rise from queue to queue leave no way back: a job cannot go round for ever.
    for name, queue in queues.items():
        target, limit = queue.overflow_to, queue.attempt_timeout
        if not target:
            continue
        if target not in queues:
            yield f"queues.{name}.overflow_to names no queue: {target!r}"
        elif limit is None:
            yield (
                f"queues.{name} has overflow_to {target!r} and no attempt_timeout: set the seconds"
                " after which a job is moved"
            )
        elif (queues[target].attempt_timeout or 0) <= limit:
            yield (
                f"queues.{target} takes the jobs that outlive the attempt_timeout {limit:g} of"
                f" queues.{name}: set its own attempt_timeout, above {limit:g}"
            )


def scheduler_conflicts(settings: Settings) -> list[str]:
    """What keeps `longshore-scheduler` from using settings that are fine for `longshore up`."""
    clocks, wrong = settings.scheduler, []
    if not settings.pools:
        wrong.append("pools: the settings declare none: add a [pools.NAME]")
    if clocks.abandon < 2 * clocks.term:  # a successor leads after a term and some seconds
        wrong.append(
            f"scheduler.abandon {clocks.abandon:g} is below twice scheduler.term {clocks.term:g}:"
            " workers would end what they run at each change of leader; raise it"
        )
    return wrong


def load_settings(path: Path | None) -> Settings:
    """Settings from a TOML file, or the defaults.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or has a key or value to blame.
    """
    if path is None:
        return Settings()
    try:
        return parse_settings(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from error
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse_settings(values: dict[str, Any]) -> Settings:
    """Settings from parsed TOML. Raises SettingsError with a line for each key to blame, also for
    those that contradict one another."""
    lines: list[str] = []
    for _ in range(2):  # without the wrong values, what contradicts is found
        try:
            settings = Settings.model_validate(values)
        except ValidationError as error:
            lines += [_line(each) for each in error.errors()]
            values = _without(values, [each["loc"] for each in error.errors()])
        else:
            break
    if lines:
        raise SettingsError("\n".join(lines))
    return settings


def _without(values: Any, places: list[tuple[Any, ...]]) -> Any:
    """A copy without what is at these places; without a place for the whole, none is taken."""
    gone = {place[0] for place in places if len(place) == 1}
    if not isinstance(values, dict):
        return values
    return {
        key: _without(value, [place[1:] for place in places if len(place) > 1 and place[0] == key])
        for key, value in values.items()
        if key not in gone
    }


def _line(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{path}: no such setting; there are {', '.join(_known(error['loc'][:-1]))}"
    if error["type"] == "value_error":  # of ours, which names the values
        text = error["msg"].removeprefix("Value error, ")
        return f"{path}: {text}" if path else text
    text = _TOML.get(error["type"], error["msg"])
    return f"{path}: {text}, not {error['input']!r}"


_TOML = dict.fromkeys(("dict_type", "model_type"), "Input should be a table") | {
    "tuple_type": "Input should be a list"
}
"""What TOML calls the types of Python."""


def _known(section: tuple[Any, ...]) -> list[str]:
    """The keys of a section, given by its path."""
    kind: Any = Settings
    for part in section:
        of_names = get_origin(kind) is dict
        kind = get_args(kind)[1] if of_names else kind.model_fields[part].annotation
    return list(kind.model_fields)
