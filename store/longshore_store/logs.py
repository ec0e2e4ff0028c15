"""The log of a process, on standard error: lines for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from longshore_store.settings import LoggingSettings

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; the rest came as `extra`, such as job_id, worker_id and queue."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What the command line says; None leaves it to the settings.

    Attributes:
        level: debug, info, warning or error.
        format: text or json.
    """

    level: str | None = None
    format: str | None = None


DEFAULTS = LogOptions()


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, process, message, what came as `extra`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; a value that JSON does not know as its text."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
        }
        line |= {
            name: value
            for name, value in vars(record).items()
            if name not in _PLAIN and name[0] != "_"
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=False, default=str)


def start_logging(
    process: str, options: LogOptions, settings: LoggingSettings | None = None
) -> None:
    """Logs from now on as the command line says, else the settings, else at info and as text.

    May be called again, when the settings are known.
    """
    chosen = settings or LoggingSettings()
    handler = logging.StreamHandler(sys.stderr)
    as_json = (options.format or chosen.format) == "json"
    handler.setFormatter(JsonLines(process) if as_json else logging.Formatter(_TEXT))
    level = (options.level or chosen.level).upper()
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def logs_json() -> bool:
    """True if this process logs JSON: what else it has to say should be JSON too."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)
