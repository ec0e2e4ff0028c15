"""How the command line says that it was used wrongly, and what it can be used for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from typer.testing import CliRunner

import longshore
from longshore import error_mapping
from longshore.cli import extras, parsing
from longshore.cli.app import Commands, app
from longshore.targets import full_target, proxy_variable
from longshore.v1 import job_pb2
from tests.client.command import Run, documents
from tests.client.fake import DEADLINE, FakeService


def test_wrong_usage_is_one_sentence_on_one_line(run: Run) -> None:
    result = run("submit", "resize", "--in", "5x", COLUMNS="40")
    assert result.stderr.splitlines() == [
        "longshore submit: '5x' is no duration; write 90, 500ms, 10m or 1h30m",
        "See `longshore submit --help`.",
    ]


@pytest.mark.parametrize("words", [["submit"], ["submit", "a", "--priority", "high"], ["submti"]])
def test_wrong_usage_is_json_for_programs(run: Run, words: list[str]) -> None:
    result = run("--json", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    error = json.loads(result.stderr)["error"]
    assert (error["type"], error["code"]) == ("UsageError", "INVALID_ARGUMENT")
    assert error["message"]


def test_a_misspelt_command_is_told_what_was_likely_meant(run: Run) -> None:
    assert "there is no command 'submti'; did you mean submit" in run("submti").stderr


def test_the_version(run: Run) -> None:
    assert run("--version").stdout == f"longshore {longshore.__version__}\n"


def test_the_completion_script_is_shown() -> None:
    code = "from longshore.cli import main; main()"
    shell = {**os.environ, "_LONGSHORE_COMPLETE": "complete_bash", "COMP_WORDS": "longshore sta"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**shell, "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["status"]


@pytest.mark.parametrize("command", ["", *Commands.members])
def test_every_help_is_readable_at_80_columns(command: str) -> None:
    words = [command, "-h"] if command else ["-h"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert result.exit_code == 0
    usage, *rest = result.stdout.splitlines()
    assert usage.startswith("Usage:")
    described = "\n".join(line for line in rest if "<=" not in line)
    assert not any(mark in described for mark in ("<", "{", "....", "[["))


def test_help_on_filters_and_commands(run: Run) -> None:
    assert "labels.NAME" in run("help", "filter").stdout
    assert run("help", "cancel").stdout.startswith("Usage: longshore cancel")
    assert run("help", "nothing").exit_code == 2


def test_submit_says_every_deadline_and_pause(service: FakeService, run: Run) -> None:
    words = """submit resize --total-timeout 2h --queue-timeout 5m --attempt-timeout 30s
        --backoff 2s --max-backoff 1m --unique daily --unique-for 24h"""
    assert run(*words.split()).exit_code == 0
    (request,) = service.requests["Submit"]
    spec = request.spec
    assert request.uniqueness.key == "daily"
    assert request.uniqueness.window.seconds == 86400
    assert run("submit", "resize", "--unique-for", "1h").exit_code == 2
    assert spec.timeouts == job_pb2.Timeouts(
        queue=Duration(seconds=300), attempt=Duration(seconds=30), total=Duration(seconds=7200)
    )
    assert spec.retry_policy == job_pb2.RetryPolicy(
        initial_backoff=Duration(seconds=2), maximum_backoff=Duration(seconds=60)
    )


@pytest.mark.parametrize("how", ["--wait", "--watch"])
def test_ctrl_c_says_that_the_job_goes_on(service: FakeService, target: str, how: str) -> None:
    service.add()
    service.holds = True
    code = "from longshore.cli import main; main()"
    command = [sys.executable, "-c", code, "--target", target, "submit", "known", how]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        deadline = time.monotonic() + DEADLINE
        while not service.requests["WatchProgress"] and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert "job job-1 goes on; cancel it with: longshore cancel job-1" in said


def test_nobody_at_the_address_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longshore.calls.Calls.unary", None)  # no call is made
    result = CliRunner().invoke(app, ["--target", "127.0.0.1:1", "list"])
    assert result.exit_code == 4
    assert "nobody listens" in result.stderr
    assert "--timeout waits" in result.stderr


def test_the_timeout_may_come_from_the_environment(run: Run) -> None:
    assert run("list", LONGSHORE_TIMEOUT="soon").exit_code == 2
    assert run("list", LONGSHORE_TIMEOUT="20").exit_code == 0


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("localhost", "localhost:7233"),
        ("10.0.0.1:99", "10.0.0.1:99"),
        ("::1", "[::1]:7233"),
        ("[::1]", "[::1]:7233"),
        ("[::1]:99", "[::1]:99"),
        ("dns:///longshore", "dns:///longshore:7233"),
        ("dns:///longshore:99", "dns:///longshore:99"),
        ("ipv4:10.0.0.1,10.0.0.2:99", "ipv4:10.0.0.1:7233,10.0.0.2:99"),
        ("unix:/run/a b#c.sock", "unix:/run/a b#c.sock"),
    ],
)
def test_a_target_gets_its_port(given: str, full: str) -> None:
    assert full_target(given) == full


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("http://localhost:7233", "without http://"),
        ("localhost:port", "is not HOST:PORT"),
        ("localhost:0", "is not HOST:PORT"),
        (":7233", "is not HOST:PORT"),
        ("a:1,b:1", "write ipv4:a:1,b:1"),
    ],
)
def test_what_is_no_target_is_refused_in_a_sentence(run: Run, given: str, said: str) -> None:
    result = run("--target", given, "list")
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("new_york")
def test_a_local_time_that_is_two_moments_or_none_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match=r"comes twice.*05:30:00Z or .*06:30:00Z"):
        parsing.schedule(None, "2027-11-07T01:30")
    with pytest.raises(typer.BadParameter, match=r"never comes.*06:30:00Z or .*07:30:00Z"):
        parsing.schedule(None, "2027-03-14T02:30")
    with pytest.raises(typer.BadParameter, match="comes twice"):
        parsing.moment("2027-11-07T01:30")
    plain = datetime(2027, 6, 1, 16, tzinfo=UTC)
    assert parsing.schedule(None, "2027-06-01T12:00") == plain


def test_more_than_the_limit_is_said(service: FakeService, run: Run) -> None:
    for number in range(7):
        service.add(f"job-{number}")
    few = run("list", "--limit", "3")
    assert "there are more than these 3" in few.stderr
    assert run("list", "--limit", "7").stderr == ""
    assert len(documents(run("list", "--all", "--json"))) == 7


def test_list_by_failure_class(service: FakeService, run: Run) -> None:
    service.add("fine")
    crashed = service.add("crashed").job
    crashed.attempts.add(number=1, failure_class=job_pb2.FAILURE_CLASS_CRASH)
    found = documents(run("list", "--failure-class", "crash", "--json"))
    assert [job["job_id"] for job in found] == ["crashed"]


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_jobs_are_chosen_by_a_filter(service: FakeService, run: Run, command: str) -> None:
    for number in range(3):
        service.add(f"job-{number}")
    request = command.capitalize()
    counted = run(command, "--task", "resize", "--label", "a=b")
    assert counted.stdout.startswith("3 jobs would be ")
    assert service.requests[request] == []
    chosen = service.requests["ListJobs"][0].filter
    assert chosen.startswith('task = "resize" AND labels.a = "b" AND state:(')
    done = run(command, "--filter", "state != RUNNING", "--yes", "--reason", "old")
    assert done.exit_code == 0
    assert service.requests["ListJobs"][1].filter == "state != RUNNING"
    assert {one.job_id for one in service.requests[request]} == {"job-0", "job-1", "job-2"}
    assert run(command, "job-1", "--task", "resize").exit_code == 2
    run(command, "--filter", 'labels.note = "state = 1"')
    assert " AND state:(" in service.requests["ListJobs"][2].filter, "a text says no state"


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_xargs_with_nothing_to_do_is_no_error(command: str) -> None:
    result = CliRunner().invoke(app, ["--target", "127.0.0.1:1", command])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no job is named" in result.stderr


def test_check_config_tells_every_mistake(tmp_path: Path) -> None:
    file = tmp_path / "set #?.toml"
    file.write_text("clutser = 1\n[scheduler]\nlease = 60\nabandon = 30\n")
    result = CliRunner().invoke(app, ["check-config", str(file)])
    assert result.exit_code == 2
    assert "clutser: no such setting" in result.stderr
    assert "scheduler.abandon 30 must be above" in result.stderr
    file.write_text("[scheduler]\nterm = 30\nabandon = 40\n")
    assert CliRunner().invoke(app, ["check-config", str(file)]).exit_code == 0
    result = CliRunner().invoke(app, ["check-config", "--scheduler", "--json", str(file)])
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)["mistakes"]) == 2
    assert CliRunner().invoke(app, ["check-config", str(tmp_path / "none")]).exit_code == 2


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ('{"url": "file:///src/long%20shore"}', "'longshore[all] @ file:///src/long%20shore'"),
        ("{}", "'longshore[all]'"),
        (None, "'longshore[all]'"),
    ],
)
def test_what_is_missing_comes_from_where_this_came_from(
    monkeypatch: pytest.MonkeyPatch, told: str | None, said: str
) -> None:
    found = SimpleNamespace(read_text=lambda name: told)
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: found)
    assert extras.remedy("all") == f"pip install {said}"


def test_a_proxy_is_no_way_to_this_machine(run: Run) -> None:
    assert run("list", http_proxy="http://127.0.0.1:9").exit_code == 0


@pytest.mark.parametrize(
    ("target", "past", "variable"),
    [
        ("10.0.0.1:1", "", "http_proxy"),
        ("10.0.0.1:1", "10.0.0.1", ""),
        ("longshore.example.org:1", "other.org,.example.org", ""),
        ("localhost:1", "", ""),
        ("[::1]:1", "", ""),
        ("unix:/run/a.sock", "", ""),
    ],
)
def test_which_targets_are_behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch, target: str, past: str, variable: str
) -> None:
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", past)
    assert proxy_variable(target) == variable
    refusal = error_mapping.Refusal(StatusCode.UNAVAILABLE, "no", "ListJobs", target)
    said = str(error_mapping._unavailable(refusal))
    assert ("http_proxy" in said) == bool(variable)
    assert "secret" not in said


def test_a_path_that_is_no_text_is_printed_all_the_same(tmp_path: Path) -> None:
    code = "from longshore.cli import main; main()"
    file = tmp_path / os.fsdecode(b"\xff.toml")
    file.write_bytes(b"")
    command = [sys.executable, "-c", code, "check-config", str(file)]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONUTF8": "1"}
    file.write_text("a = 1")
    done = subprocess.run(command, env=strict, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"\\udcff.toml: a: no such setting" in done.stderr


def test_a_user_without_a_home_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    for command in ("up", "dev-cluster", "doctor"):
        result = CliRunner().invoke(app, [command])
        assert result.exit_code == 2
        assert "give --data a full path, or set HOME" in result.stderr
        assert "Traceback" not in result.stderr
