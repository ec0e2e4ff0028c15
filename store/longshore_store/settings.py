"""What a deployment declares, read from TOML: queues, pools, tasks, limits.

An unknown key is refused by name: a misspelt limit must not silently be no limit.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Words = Annotated[tuple[str, ...], Field(strict=False)]  # of a list, which is what TOML has
Bytes = Annotated[int, Field(ge=0, le=1024**5)]
Days = Annotated[float, Field(gt=0, le=36_500)]
GIB = 1024**3


class SettingsError(Exception):
    """Settings that cannot be used; the message has one line for each key to blame."""


class _Section(BaseModel):
    # Strict: "5" is no number, and true no count.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class QueueSettings(_Section):
    """One queue. Depth is bounded by default: memory and patience are.

    maximum_waiting: jobs; 0 is no bound. attempt_timeout: seconds, for jobs that set none; with
    overflow_to also the most for those that do.
    overflow_to: the queue that takes jobs which outlive attempt_timeout here; it has a longer one.
    """

    maximum_waiting: int = Field(1_000_000, ge=0, le=10**12)
    attempt_timeout: float | None = Field(None, gt=0, le=30 * 86400)
    overflow_to: str = ""


class PoolSettings(_Section):
    """Workers of one shape: what one of them offers, and how many there may be.

    cpu: cores. memory, gpu_memory: bytes; gpu_memory is per device. gpu: whole devices.
    maximum_runners: attempts at once on one worker, whatever they ask for.
    """

    cpu: float = Field(1.0, ge=0.01, le=1024)
    memory: Bytes = 2 * GIB
    gpu: int = Field(0, ge=0, le=64)
    gpu_memory: Bytes = 0
    accelerators: Words = ()
    custom: dict[str, Annotated[int, Field(ge=0, le=10**9)]] = Field(default_factory=dict)
    minimum_workers: int = Field(1, ge=0, le=10_000)
    maximum_workers: int = Field(1, ge=1, le=10_000)
    maximum_runners: int = Field(16, ge=1, le=1024)

    @model_validator(mode="after")
    def _ordered(self) -> PoolSettings:
        if self.minimum_workers > self.maximum_workers:
            raise ValueError(
                f"minimum_workers {self.minimum_workers} is above "
                f"maximum_workers {self.maximum_workers}"
            )
        return self


class SchedulerSettings(_Section):
    """The clocks of scheduling, in seconds, and its bounds.

    lease: silence of a worker before its attempts are released. abandon: how long a worker that
    no scheduler asks for news goes on before its processes are ended; longer than a lease, and
    longer than a change of leader takes (`longshore-scheduler` wants two terms). term: how long
    leadership lasts unrenewed. prefetch: the extra wait that handing work ahead may cost.
    maximum_prefetch: jobs handed ahead to one worker.
    """

    lease: float = Field(30.0, ge=1, le=3600)
    abandon: float = Field(120.0, ge=1, le=86400)
    term: float = Field(10.0, ge=1, le=300)
    sweep_interval: float = Field(1.0, ge=0.05, le=60)
    prefetch: float = Field(0.02, ge=0, le=10)
    maximum_prefetch: int = Field(4096, ge=1, le=16384)
    maximum_crashes: int = Field(3, ge=1, le=100)
    maximum_ooms: int = Field(3, ge=1, le=100)
    maximum_interruptions: int = Field(10, ge=1, le=1000)


class ServerSettings(_Section):
    """Limits of the gRPC server. Seconds and counts.

    heartbeat_interval: clients take a watch that is silent for 45 s for dead, so it ends at 15.
    """

    shutdown_grace: float = Field(10.0, ge=0, le=600)
    heartbeat_interval: float = Field(15.0, gt=0, le=15)
    maximum_watches: int = Field(10_000, ge=1)
    watch_buffer: int = Field(256, ge=8, le=65_536)
    slow_reader_timeout: float = Field(10.0, gt=0, le=600)


class RetentionSettings(_Section):
    """How many days what has ended is kept, by how it ended; and what is kept shorter.

    logs: log lines of ended jobs, and with them the state changes before the last line, so that
    the events that stay are dense; attempts and the outcome stay as long as the job.
    batch: jobs deleted in one transaction, at most.
    """

    succeeded: Days = 7.0
    failed: Days = 14.0
    cancelled: Days = 7.0
    expired: Days = 7.0
    dead_lettered: Days = 30.0
    logs: Days = 7.0
    batch: int = Field(500, ge=1, le=10_000)


class LoggingSettings(_Section):
    """What the processes write to their log, on standard error.

    level: what is less is left out. format: text, or json with one object a line, which names the
    job, the worker and the queue in fields of their own. `--log-level` and `--log-format` come
    first.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Settings(_Section):
    """A whole deployment.

    cluster: its name; what shares a database or a Ray cluster with another one is told apart.
    """

    cluster: Name = "longshore"
    queues: dict[Name, QueueSettings] = Field(default_factory=lambda: {"default": QueueSettings()})
    pools: dict[Name, PoolSettings] = Field(default_factory=dict)
    tasks: Words = ()
    scheduler: SchedulerSettings = SchedulerSettings()
    server: ServerSettings = ServerSettings()
    retention: RetentionSettings = RetentionSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _abandoned_after_the_lease(self) -> Settings:
        if self.scheduler.abandon <= self.scheduler.lease:
            raise ValueError(
                f"scheduler.abandon {self.scheduler.abandon:g} must be above scheduler.lease"
                f" {self.scheduler.lease:g}: a worker may not give up what is still its own"
            )
        return self

    @model_validator(mode="after")
    def _overflow_ends(self) -> Settings:
        for name, queue in self.queues.items():
            if queue.overflow_to:
                _check_overflow(self.queues, name, queue)
        return self


def _check_overflow(queues: dict[str, QueueSettings], name: str, queue: QueueSettings) -> None:
    # Limits that rise from queue to queue leave no way back: a job cannot go round for ever.
    target, limit = queue.overflow_to, queue.attempt_timeout
    if target not in queues:
        raise ValueError(f"queues.{name}.overflow_to names no queue: {target!r}")
    if limit is None:
        raise ValueError(
            f"queues.{name} has overflow_to {target!r} and no attempt_timeout: set the seconds"
            " after which a job is moved"
        )
    if (queues[target].attempt_timeout or 0) <= limit:
        raise ValueError(
            f"queues.{target} takes the jobs that outlive the attempt_timeout {limit:g} of"
            f" queues.{name}: set its own attempt_timeout, above {limit:g}"
        )


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
    """Settings from parsed TOML. Raises SettingsError with a line for each key to blame."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_line(e) for e in error.errors())) from error


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
