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
        ('[scheduler]\nlease = "5"', "scheduler.lease: Input should be a valid number, not '5'"),
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
