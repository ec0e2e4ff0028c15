"""The options of the log, which `up`, `longshore-server` and `longshore-scheduler` share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Level(StrEnum):
    """What is less is left out."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Format(StrEnum):
    """How a line of the log looks."""

    TEXT = "text"
    JSON = "json"


LogLevel = Annotated[
    Level | None,
    typer.Option(
        "--log-level",
        envvar="LONGSHORE_LOG_LEVEL",
        metavar="debug|info|warning|error",
        show_default="the settings', else info",
        help="Leave out of the log what is less.",
    ),
]
LogFormat = Annotated[
    Format | None,
    typer.Option(
        "--log-format",
        envvar="LONGSHORE_LOG_FORMAT",
        metavar="text|json",
        show_default="the settings', else text",
        help="Write the log for people or, as JSON, for programs.",
    ),
]
