"""The command line in this process, against the scripted service."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from typer.testing import CliRunner, Result

from longshore.cli.app import app
from longshore.v1 import job_pb2
from tests.client.fake import History

Run = Callable[..., Result]
WIDE, TERMINAL = {"COLUMNS": "200"}, {"FORCE_COLOR": "1", "NO_COLOR": "1"}


def runner(target: str) -> Run:
    """Runs `longshore WORDS`; keywords are variables of its environment."""

    def invoke(*words: str, stdin: str | None = None, **environment: str) -> Result:
        environment = {"LONGSHORE_TARGET": target, **WIDE, **environment}
        return CliRunner().invoke(app, words, input=stdin, env=environment, prog_name="longshore")

    return invoke


def documents(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def ran(history: History) -> History:
    history.state(job_pb2.JOB_STATE_RUNNING, "STARTED").progress(0.4, "cropped").log("a [b] line")
    return history.end(job_pb2.JOB_STATE_SUCCEEDED, '{"ok":true}')
