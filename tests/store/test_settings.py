"""Settings that cannot be used: each names the key, the value, and what would do."""

from __future__ import annotations

import tomllib

import pytest

from longshore_store.settings import Settings, SettingsError, parse_settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clutser = 1", "clutser: no such setting; there are cluster, queues, pools, tasks"),
        ("[pools.cpu]\ncpus = 1", "pools.cpu.cpus: no such setting; there are cpu, memory"),
        ("[scheduler]\nleese = 1", "scheduler.leese: no such setting; there are lease, abandon"),
        ('[scheduler]\nlease = "5"', "scheduler.lease: '5' is no duration; write 500ms, 90s"),
        ("[pools.cpu]\ngpu = true", "pools.cpu.gpu: Input should be a valid integer, not True"),
        ('tasks = "mine"', "tasks: Input should be a list, not 'mine'"),
        ("queues = 5", "queues: Input should be a table, not 5"),
        ("queues.default = 5", "queues.default: Input should be a table, not 5"),
        ("[retention]\nsucceeded = inf", "retention.succeeded: Input should be less than"),
        ("[retention]\nlogs = 1e300", "retention.logs: Input should be less than"),
        ("[retention]\nlogs = nan", "retention.logs: Input should be"),
        ("[queues.q]\nmaximum_waiting = 99999999999999999999", "queues.q.maximum_waiting: "),
        ("[pools.p]\nmemory = 99999999999999999999", "pools.p.memory: Input should be less than"),
        ("queues.a.overflow_to = 'b'", "queues.a.overflow_to names no queue: 'b'"),
        (
            "queues.a = {attempt_timeout = 9, overflow_to = 'b'}\nqueues.b = {}",
            "queues.b takes the jobs that outlive the attempt_timeout 9 of queues.a: set its own",
        ),
        (
            "queues.b = {attempt_timeout = 9, overflow_to = 'a'}\nqueues.a.attempt_timeout = 5",
            "queues.a takes the jobs that outlive the attempt_timeout 9 of queues.b: set its own",
        ),
        ("[pools.p]\ncustom.licence = -1", "pools.p.custom.licence: Input should be greater"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings(tomllib.loads(text))
    assert str(refused.value).startswith(said)


def test_numbers_that_contradict_each_other_are_told_once() -> None:
    text = "[pools.cpu]\nminimum_workers = 5\nmaximum_workers = 2"
    with pytest.raises(SettingsError) as refused:
        parse_settings(tomllib.loads(text))
    assert str(refused.value) == "pools.cpu: minimum_workers 5 is above maximum_workers 2"


def test_what_toml_has_is_taken() -> None:
    text = """
        tasks = ["mine"]
        [pools.gpu]
        cpu = 2
        accelerators = ["t4"]
        custom.licence = 1
        [retention]
        failed = 3
    """
    settings = parse_settings(tomllib.loads(text))
    assert settings.tasks == ("mine",)
    assert settings.pools["gpu"].cpu == 2.0
    assert settings.pools["gpu"].accelerators == ("t4",)
    assert settings.retention.failed == 3.0
    assert parse_settings({}) == Settings()


def test_sizes_and_durations_may_be_written_as_people_do() -> None:
    text = """
        queues.default.attempt_timeout = "1h30m"
        [pools.cpu]
        memory = "2GiB"
        [scheduler]
        lease = "500s"
        abandon = "20m"
        [retention]
        logs = "12h"
    """
    settings = parse_settings(tomllib.loads(text))
    assert settings.queues["default"].attempt_timeout == 5400
    assert settings.pools["cpu"].memory == 2**31
    assert (settings.scheduler.lease, settings.scheduler.abandon) == (500, 1200)
    assert settings.retention.logs == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[pools.p]\nmemory = "much"', "pools.p.memory: 'much' is no size; write 1000, 500MB or"),
        ('[pools.p]\nmemory = "9999TiB"', "pools.p.memory: Input should be less than"),
        ('[scheduler]\nterm = "1ms"', "scheduler.term: Input should be greater than"),
        ('queues.q.attempt_timeout = "0s"', "queues.q.attempt_timeout: Input should be greater"),
    ],
)
def test_what_is_no_size_or_duration_is_named(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings(tomllib.loads(text))
    assert str(refused.value).startswith(said)


def test_every_mistake_is_told_at_once() -> None:
    text = """
        clutser = "a"
        queues.a.overflow_to = "b"
        queues.c.overflow_to = "d"
        queues.e.maximum_waiting = -1
        pools.p = {minimum_workers = 5, maximum_workers = 2}
        [scheduler]
        term = "x"
        lease = 60
        abandon = 30
    """
    with pytest.raises(SettingsError) as refused:
        parse_settings(tomllib.loads(text))
    told = [line.partition(" ")[0] for line in str(refused.value).splitlines()]
    assert sorted(told) == [
        "clutser:", "pools.p:", "queues.a.overflow_to", "queues.c.overflow_to",
        "queues.e.maximum_waiting:", "scheduler.abandon", "scheduler.term:",
    ]  # fmt: skip
