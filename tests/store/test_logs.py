"""The log of a process: what it leaves out, and what a program reads of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from longshore_store.logs import LogOptions, start_logging
from longshore_store.settings import LoggingSettings, SettingsError, parse_settings

log = logging.getLogger("longshore_scheduler.crew")


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Those of pytest come back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_names_the_job_in_fields_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("longshore-scheduler", LogOptions(format="json"))
    log.info("job %s failed\nbadly", "j1", extra={"job_id": "j1", "queue": "fast", "_ray": 1})
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("a tick failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info", "logger": "longshore_scheduler.crew", "process": "longshore-scheduler",
        "message": "job j1 failed\nbadly", "job_id": "j1", "queue": "fast",
    }  # fmt: skip
    assert second["level"] == "error"
    assert "ValueError: no" in second["exception"]


def test_the_command_line_comes_before_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    settings = LoggingSettings(level="error", format="json")
    start_logging("up", LogOptions(), settings)
    log.warning("left out")
    start_logging("up", LogOptions(level="warning", format="text"), settings)
    log.warning("said")
    assert capsys.readouterr().err.endswith(" WARNING longshore_scheduler.crew: said\n")


def test_settings_name_the_levels() -> None:
    with pytest.raises(SettingsError, match=r"logging.level: .*'debug', 'info'.*, not 'loud'"):
        parse_settings({"logging": {"level": "loud"}})
