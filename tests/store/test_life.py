"""Opening, closing, hints, and what one bad write does to those beside it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from longshore_store import committer
from longshore_store.dialects import StoreLocked
from longshore_store.model import StoreUnavailable
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from longshore_store.topology_records import QueueDeclaration
from tests.store.factory import HOUR, FakeClock, Yard, completion, new_job
from tests.store.places import Place, Postgres


async def test_reopening_keeps_everything(place: Place, clock: FakeClock) -> None:
    store = await place.open(clock)
    yard = await Yard.make(store, clock)
    await store.declare_queues([QueueDeclaration("fast", 9, None, "")])
    jobs = [await yard.job_in(state) for state in (JobState.QUEUED, JobState.RUNNING)]
    done = await yard.completed()
    before = [await yard.read(i) for i in (*(job.job_id for job in jobs), done)]
    queues = await store.list_queues()
    await place.close(store)

    again = await place.open(clock)
    yard.store = again
    assert [await yard.read(record.id) for record in before] == before
    assert await again.list_queues() == queues
    term = await again.lead("yard", HOUR) or 0
    assert await again.complete_attempts(term, [completion(jobs[1])]) == []


async def test_a_write_in_flight_is_committed(place: Place, clock: FakeClock) -> None:
    store = await place.open(clock)
    batch = [new_job() for _ in range(300)]
    calls = [asyncio.create_task(store.submit_jobs([job])) for job in batch]
    await asyncio.sleep(0)
    await place.close(store)
    assert all(answer[0].created for answer in await asyncio.gather(*calls))
    with pytest.raises(StoreUnavailable):
        await store.submit_jobs([new_job()])
    with pytest.raises(StoreUnavailable):
        await store.read_job(batch[0].id)

    again = await place.open(clock)
    assert len(await again.read_jobs([job.id for job in batch])) == 300


async def test_a_store_that_was_never_opened(place: Place) -> None:
    store = SqlStore(place.url)
    with pytest.raises(StoreUnavailable):
        await store.submit_jobs([new_job()])
    await store.close()


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite://", "sqlite:///:memory:"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite|SQLite"):
        SqlStore(url)


async def test_a_caller_who_leaves_does_not_undo_the_write(store: SqlStore) -> None:
    job, other = new_job(), new_job()
    call = asyncio.create_task(store.submit_jobs([job]))
    await asyncio.sleep(0)
    call.cancel()
    await store.submit_jobs([other])
    assert await store.read_job(job.id) is not None


async def test_hints_follow_the_commit(yard: Yard) -> None:
    heard: list[str] = []
    stop = yard.store.subscribe(heard.extend)
    attempt = await yard.running()
    assert heard == [attempt.job_id] * 3
    await yard.store.complete_attempts(yard.term, [completion(attempt)])
    await yard.store.retry_jobs([attempt.job_id], "")
    await yard.store.cancel_jobs([attempt.job_id], "", False)
    assert set(heard) == {attempt.job_id}
    stop()
    heard.clear()
    await yard.submit()
    assert heard == []


async def test_a_refused_call_gives_no_hint(store: SqlStore) -> None:
    await store.declare_queues([QueueDeclaration("fast", 1, None, "")])
    heard: list[str] = []
    store.subscribe(heard.extend)
    await asyncio.gather(
        store.submit_jobs([new_job(), new_job()]),
        store.submit_jobs([new_job(queue="none", idempotency_key="k")] * 2),
        return_exceptions=True,
    )
    assert len(set(heard)) <= 1


async def test_a_listener_that_fails_harms_nobody(
    store: SqlStore, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(ids: Any) -> None:
        raise RuntimeError("a bug of the listener")

    store.subscribe(fail)
    calls = [store.submit_jobs([new_job()]) for _ in range(10)]
    assert all(a.created for [a] in await asyncio.gather(*calls))
    assert "a bug of the listener" in caplog.text


POISON = {
    "a number that is too large": {"priority": 2**70, "payload": "connection timeout"},
    "text that is no text": {"payload": "\ud800"},
    "an id that is taken": {"id": "taken"},
    "a type that is no text": {"needs_json": object()},
}


@pytest.mark.parametrize("changes", POISON.values(), ids=POISON.keys())
async def test_a_poison_write_does_not_fail_its_neighbours(
    store: SqlStore, changes: dict[str, Any]
) -> None:
    await store.submit_jobs([new_job(id="taken")])
    good = [new_job() for _ in range(6)]
    calls = [store.submit_jobs([job]) for job in good]
    poison = store.submit_jobs([new_job(), new_job(**changes)])
    answers = await asyncio.gather(*calls[:3], poison, *calls[3:], return_exceptions=True)
    assert isinstance(answers.pop(3), Exception)
    assert [a[0].job_id for a in answers if isinstance(a, list)] == [job.id for job in good]
    assert len(await store.read_jobs([job.id for job in good])) == 6


async def test_too_much_waiting_is_refused(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that falls behind says so, before memory does."""
    monkeypatch.setattr(committer, "MAX_PENDING_ROWS", 100)
    answers = await asyncio.gather(
        *(store.submit_jobs([new_job() for _ in range(30)]) for _ in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(a, StoreUnavailable) for a in answers) == 2
    await store.submit_jobs([new_job()])


async def test_large_bodies_do_not_meet_in_one_transaction(store: SqlStore) -> None:
    """A transaction is bounded by what it carries, not only by its number of rows."""
    body = '"' + "x" * 256 * 1024 + '"'
    sizes: list[int] = []
    store.subscribe(lambda ids: sizes.append(len(list(ids))))
    await asyncio.gather(*(store.submit_jobs([new_job(payload=body)]) for _ in range(400)))
    assert sum(sizes) == 400
    assert max(sizes) <= 128


HOLD = """
import asyncio, sys
from longshore_store.sql import SqlStore
from tests.store.patience import be_patient

async def main():
    be_patient()
    store = SqlStore(sys.argv[1])
    await store.open()
    print("open", flush=True)
    sys.stdin.readline()
    await store.close()

asyncio.run(main())
"""


async def test_a_second_process_is_kept_out(place: Place) -> None:
    """Of a file; a Postgres takes both."""
    store = await place.open()
    command = [sys.executable, "-c", HOLD, place.url]
    child = await asyncio.to_thread(
        subprocess.run, command, input="\n", capture_output=True, text=True, check=False
    )
    if place.name == "postgres":
        assert (child.returncode, child.stdout) == (0, "open\n")
        return
    assert child.returncode == 1
    assert "StoreLocked" in child.stderr
    assert "store.db is in use by another Longshore process" in child.stderr
    with pytest.raises(StoreLocked):
        await SqlStore(place.url).open()
    await place.close(store)
    await place.open()


async def test_a_database_that_is_away(postgres: Postgres) -> None:
    store = SqlStore(postgres.url("no_such_database"))
    with pytest.raises(Exception, match="no_such_database"):
        await store.open()
    await store.close()
    store = SqlStore("postgresql://postgres@/db?host=/tmp/no-such-folder")
    with pytest.raises(StoreUnavailable):
        await store.open()
    await store.close()


async def test_a_lost_connection_is_unavailable_once(
    postgres: Postgres, postgres_place: Place, clock: FakeClock
) -> None:
    store = await postgres_place.open(clock)
    await store.submit_jobs([new_job()])
    await postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shared'"
    )
    job = new_job()
    await store.submit_jobs([job])
    assert await store.read_job(job.id) is not None
