from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from longshore_store.committer import Transaction, Write
from longshore_store.model import Accepted, IdempotencyConflict
from longshore_store.sql import SqlStore
from longshore_store.states import JobState
from longshore_store.submit import SubmitWrites
from longshore_store.tables import jobs
from tests.store.factory import SECOND, START_US, FakeClock, Yard, new_job
from tests.store.places import Place
from tests.store.recount import fetch


async def stored(store: SqlStore) -> set[str]:
    return {row[0] for row in await fetch(store, select(jobs.c.id))}


async def test_the_same_again_is_the_same_job(yard: Yard) -> None:
    attempt = await yard.running(idempotency_key="k")
    yard.clock.advance(SECOND)
    answer = await yard.store.submit_jobs([new_job(idempotency_key="k")])
    assert answer == [Accepted(attempt.job_id, False, JobState.RUNNING, START_US)]
    assert await stored(yard.store) == {attempt.job_id}


async def test_another_payload_is_a_conflict_and_stores_nothing(store: SqlStore) -> None:
    first = new_job(idempotency_key="k")
    await store.submit_jobs([first])
    call = [new_job(), new_job(idempotency_key="k", fingerprint="f2"), new_job()]
    for method in (store.submit_jobs, store.check_jobs):
        with pytest.raises(IdempotencyConflict) as refused:
            await method(call)
        assert (refused.value.index, refused.value.key) == (1, "k")
        assert refused.value.existing_id == first.id
    assert await stored(store) == {first.id}


async def test_keys_belong_to_tenants(store: SqlStore) -> None:
    answers = [
        await store.submit_jobs([new_job(tenant=tenant, idempotency_key="k", fingerprint=tenant)])
        for tenant in ("a", "b")
    ]
    assert all(a.created for [a] in answers)


async def test_a_key_used_twice_in_one_call(store: SqlStore) -> None:
    first = new_job(idempotency_key="k")
    answers = await store.submit_jobs([first, new_job(), new_job(idempotency_key="k")])
    assert [a.created for a in answers] == [True, True, False]
    assert answers[2].job_id == first.id

    twice = [new_job(idempotency_key="z"), new_job(idempotency_key="z", fingerprint="f2")]
    with pytest.raises(IdempotencyConflict) as refused:
        await store.submit_jobs(twice)
    assert (refused.value.index, refused.value.existing_id) == (1, twice[0].id)
    assert len(await stored(store)) == 2


async def test_a_hundred_at_once_with_one_key(store: SqlStore) -> None:
    """They meet in one group commit; half of them send another payload."""
    calls = [
        store.submit_jobs([new_job(idempotency_key="k", fingerprint=f"f{i % 2}")])
        for i in range(100)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    accepted = [a[0] for a in answers if isinstance(a, list)]
    refused = [a for a in answers if isinstance(a, IdempotencyConflict)]
    assert (len(accepted), len(refused)) == (50, 50)
    assert sum(a.created for a in accepted) == 1
    assert {a.job_id for a in accepted} | {r.existing_id for r in refused} == await stored(store)
    assert len(await stored(store)) == 1


async def test_a_taken_key_does_not_hold_up_the_others(store: SqlStore) -> None:
    await store.submit_jobs([new_job(idempotency_key="k")])
    calls = [[new_job(idempotency_key="k" if i == 5 else None)] for i in range(10)]
    answers = await asyncio.gather(*map(store.submit_jobs, calls))
    assert [a.created for [a] in answers] == [i != 5 for i in range(10)]


async def test_repeated_calls_are_answered_together(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at one by one, 4,000 calls took a Postgres 13 s for one key among them."""
    alone: list[Write] = []
    look = SubmitWrites._submit_alone

    async def counted(self: SubmitWrites, tx: Transaction, write: Write) -> None:
        alone.append(write)
        await look(self, tx, write)

    monkeypatch.setattr(SubmitWrites, "_submit_alone", counted)
    await store.submit_jobs([new_job(idempotency_key="k")])
    keys = ["k", "k", "new", "new", "other", None]
    calls = [[new_job(idempotency_key=key)] for key in keys]
    mixed = [new_job(idempotency_key="k"), new_job()]
    answers = await asyncio.gather(*map(store.submit_jobs, [*calls, mixed]))
    assert [[a.created for a in answer] for answer in answers] == [
        [False], [False], [True], [False], [True], [True], [False, True],
    ]  # fmt: skip
    assert [len(write.rows) for write in alone] == [2], "only the call that is partly new"


async def test_two_processes_and_one_key(postgres_place: Place, clock: FakeClock) -> None:
    one, two = await postgres_place.open(clock), await postgres_place.open(clock)
    calls = [
        store.submit_jobs([new_job(idempotency_key=f"k{i}"), new_job(idempotency_key="all")])
        for i in range(30)
        for store in (one, two)
    ]
    answers = await asyncio.gather(*calls)
    assert sum(a.created for answer in answers for a in answer) == 31
    assert len(await stored(one)) == 31
    assert len({answer[1].job_id for answer in answers}) == 1


async def test_two_processes_and_two_payloads(postgres_place: Place, clock: FakeClock) -> None:
    stores = [await postgres_place.open(clock) for _ in range(2)]
    calls = [
        store.submit_jobs([new_job(idempotency_key=f"k{i}", fingerprint=f"f{n}")])
        for i in range(20)
        for n, store in enumerate(stores)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(a, list) for a in answers) == 20
    assert sum(isinstance(a, IdempotencyConflict) for a in answers) == 20
    assert len(await stored(stores[0])) == 20
