"""What looks like a secret leaves no runner: not in messages, facts, tracebacks, lines."""

from __future__ import annotations

import json
import time
import traceback

import pytest

from longshore.sdk.failures import FailureClass, PermanentError, TaskError
from longshore_cpu_workers.runner.failures import (
    _TRACE_WINDOW,
    MAX_MESSAGE,
    MAX_REASON,
    MAX_TRACEBACK,
    raised,
)
from longshore_cpu_workers.runner.lines import LineGate
from longshore_cpu_workers.runner.scrubbing import LineScrubber, scrub

SECRET = "hunter2hunter2hunter2"
KEY = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n"
    f"{SECRET}\n-----END RSA PRIVATE KEY-----"
)
TOKENS = (
    "AKIA" + "IOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "ghp_" + "a1" * 18,
    "github_pat_" + "a1" * 20,
    "glpat-" + "a1" * 10,
    "xoxb-" + "1234567890-abcdef",
    "AIza" + "a1" * 18,
    "sk_live_" + "a1" * 12,
    "hf_" + "a1" * 17,
    "npm_" + "a1" * 18,
    "sk-" + "a1" * 24,
)


@pytest.mark.parametrize(
    "text",
    [
        f"postgres://bob:{SECRET}@db:5432/jobs",
        f"redis://:{SECRET}@cache",
        f"mongodb+srv://bob:{SECRET}@c0.example/?retryWrites=true",
        f"https://{SECRET}@example.org/repo.git",
        f"postgres://bob:p@{SECRET}@db/x",
        f"amqp://bob:a/{SECRET}@mq",
        f"Authorization: Bearer {SECRET}",
        f"authorization: {SECRET}",
        f"{{'Authorization': 'Token {SECRET}'}}",
        f"(b'Authorization', b'ApiKey {SECRET}')",
        f"Cookie: session={SECRET}; theme={SECRET}",
        f"Basic {SECRET}=",
        f"password={SECRET}",
        f"PASSWORD : '{SECRET} with blanks'",
        f'password = "a\\"{SECRET}"',
        f'{{"db_password": "{SECRET}", "user": "bob"}}',
        f'"{{\\"password\\": \\"{SECRET}\\"}}"',
        f"Server=db;Database=x;Uid=bob;Pwd={SECRET};",
        f"AccountName=x;AccountKey={SECRET}==;EndpointSuffix=example",
        f"DB_PASS={SECRET} ./run",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"https://example.org/blob?sv=1&sig={SECRET}&se=2",
        f"https://example.org/x?X-Amz-Signature={SECRET}&x=1",
        f"connect(host='db', api_key='{SECRET}')",
        f"mysql --password {SECRET} --host db",
        f"Command '['mysql', '--password', '{SECRET}']' returned 1",
        f"https://hooks.slack.com/services/T000/B000/{SECRET}",
        KEY,
        KEY.replace("\n", "\\n"),
        KEY.partition("\n-----END")[0],
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    hidden = scrub(f"before {text} after")
    assert SECRET not in hidden
    assert hidden.startswith("before ")
    assert "***" in hidden
    assert scrub(hidden) == hidden, "scrubbing twice is scrubbing once"


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_are_known_by_their_looks(token: str) -> None:
    assert scrub(f"refused: {token}, sorry") == "refused: ***, sorry"


@pytest.mark.parametrize(
    "text",
    [
        "http://db:5432/jobs?owner=bob@example.org",
        "max_tokens=512, tokens: 17, tokenizer=bert",
        "3 passed, author=bob, key=5, signal 11",
        "bob@example.org cannot be reached",
        '  File "/srv/tasks.py", line 12, in run',
        "basic training of 3 steps",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrub(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        *("a", "token", "token='", "://a:", "--", "--a", "-----BEGIN PRIVATE KEY."),
        *("eyJ", "-eyJ", "\\", "sk-"),
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    """Task code decides what is scrubbed: a pattern that backtracks would stop its runner."""
    begin = time.thread_time()
    scrub(piece * (_TRACE_WINDOW // len(piece)))
    assert time.thread_time() - begin < 5.0


def error_in(*parts: BaseException) -> BaseException:
    try:
        raise ExceptionGroup("all failed", [e for e in parts if isinstance(e, Exception)])
    except ExceptionGroup as group:
        return group


def test_chains_notes_and_groups_are_scrubbed() -> None:
    first = OSError(f"cannot reach redis://:{SECRET}@cache")
    second = ValueError(f"token={SECRET}")
    second.__cause__ = first
    second.add_note(KEY)
    second.add_note(f"Authorization: Bearer {SECRET}")
    group = error_in(second, KeyError(f"password={SECRET}"))
    assert SECRET in "".join(traceback.format_exception(group))
    told = raised(group).plain()
    assert SECRET not in json.dumps(told)
    assert "OSError" in str(told[-1])


def test_every_field_of_a_failure_is_scrubbed() -> None:
    facts = {
        "password": SECRET,
        "url": f"https://u:{SECRET}@h",
        f"token={SECRET}": "x",
        "host": "a",
    }
    error = TaskError(
        f"secret={SECRET}",
        reason=f"token={SECRET}",
        metadata=facts,
        violations=[(f'headers["password={SECRET}"]', f"api_key={SECRET} is none")],
    )
    told = raised(error)
    plain = told.plain()
    assert SECRET not in json.dumps(plain)
    assert ("host", "a") in dict.fromkeys(plain[4])  # type: ignore[call-overload]


def test_every_field_of_a_failure_is_bounded() -> None:
    long = "x" * 100_000
    error = TaskError(long, reason=long, metadata=dict.fromkeys(map(str, range(100)), long))
    _, _, reason, message, facts, _, trace = raised(error).plain()
    assert len(str(reason)) == MAX_REASON
    assert len(str(message)) == MAX_MESSAGE
    assert len(str(trace).encode()) <= MAX_TRACEBACK
    assert isinstance(facts, list)
    assert len(facts) == 32
    assert facts[0] == ("exception", "longshore.sdk.failures.TaskError")
    assert max(len(value) for _, value in facts) == MAX_MESSAGE


def test_a_long_message_leaves_the_frames() -> None:
    try:
        raise ValueError("x" * 100_000 + f" password={SECRET}")
    except ValueError as error:
        trace = raised(error).traceback
    assert "test_a_long_message_leaves_the_frames" in trace
    assert len(trace) < 2 * 1024


class Silent(TaskError):
    """Says nothing of itself to its base."""

    def __init__(self) -> None:
        Exception.__init__(self, "silent")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def test_no_exception_is_too_odd_to_be_told() -> None:
    assert raised(Silent()).reason == "TASK_ERROR"
    assert "cannot be written out" in raised(Unspeakable()).message
    odd = TaskError("odd", violations=["not a pair"])  # type: ignore[list-item]
    told = raised(odd)
    assert (told.failure_class, told.reason) == (FailureClass.TASK_ERROR, "TASK_ERROR")
    json.dumps(told.plain())


def test_an_exit_is_a_number() -> None:
    codes = [dict(raised(SystemExit(code)).metadata)["exit_code"] for code in (None, 3, "pwd=x")]
    assert codes == ["0", "3", "1"]


def test_a_group_of_one_is_what_is_in_it() -> None:
    told = raised(error_in(PermanentError("no", reason="NO_CODEC")))
    assert (told.failure_class, told.reason) == (FailureClass.PERMANENT, "NO_CODEC")
    assert raised(error_in(MemoryError())).failure_class is FailureClass.OUT_OF_MEMORY
    both = raised(error_in(MemoryError(), PermanentError("no")))
    assert (both.failure_class, both.reason) == (FailureClass.TASK_ERROR, "EXCEPTION_GROUP")


def test_a_key_is_hidden_line_by_line() -> None:
    lines = LineScrubber()
    hidden = [lines.scrub(line) for line in [*KEY.splitlines(), "step 1 of 2"]]
    assert hidden == ["***"] * 4 + ["-----END RSA PRIVATE KEY-----", "step 1 of 2"]
    mentioned = ["no -----BEGIN PRIVATE KEY----- there", "so nothing was signed"]
    assert [lines.scrub(line) for line in mentioned][1] == "so nothing was signed"


def test_a_key_is_hidden_where_its_beginning_is_dropped() -> None:
    now = 0.0
    gate = LineGate(lambda: now)
    assert [gate.admit("x") for _ in range(201)] == ["x"] * 200 + [None]
    assert gate.admit("-----BEGIN PRIVATE KEY-----") is None
    now = 1.0
    assert gate.admit(SECRET) == "***"
    assert gate.admit("-----END PRIVATE KEY-----") == "-----END PRIVATE KEY-----"
    assert gate.admit("step 1 of 2") == "step 1 of 2"
