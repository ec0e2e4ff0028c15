"""Which pool can run what, and how much of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import orjson

from longshore_store.needs import Needs, lacking, parse_needs
from longshore_store.topology_records import PoolRecord

GIB = 1024**3
_AMOUNTS = {
    "cpu": "cpu_millis",
    "memory": "memory_bytes",
    "gpu": "gpu_millis",
    "gpu_memory": "gpu_memory_bytes",
}


class Offer(NamedTuple):
    """A pool and what one of its workers offers. lacks: tasks that none of its workers has yet."""

    pool: PoolRecord
    shape: Needs
    lacks: frozenset[str] = frozenset()


def offers(pools: Iterable[PoolRecord]) -> tuple[Offer, ...]:
    """The pools, the smallest shape first: GPUs are kept for those who need them."""
    found = [
        Offer(pool, parse_needs(pool.shape_json), frozenset(orjson.loads(pool.lacks_json)))
        for pool in pools
    ]
    return tuple(sorted(found, key=_size))


def _size(offer: Offer) -> tuple[int, int, int, int, str]:
    s = offer.shape
    return s.gpu_millis, s.gpu_memory_bytes, s.cpu_millis, s.memory_bytes, offer.pool.name


def fitting(needs: Needs, offered: Iterable[Offer]) -> list[Offer]:
    """The pools that can run it, the smallest first."""
    return [offer for offer in offered if lacking(needs, offer.shape) is None]


def shortfalls(needs: Needs, offered: Iterable[Offer]) -> Iterator[tuple[str, str]]:
    """For each pool: the resource that lacks, and a sentence naming its largest offer.

    The pool that comes closest is the first: a refusal's message names that one.
    """
    short = [
        (resource, pool, shape)
        for pool, shape, _ in offered
        if (resource := lacking(needs, shape)) is not None
    ]
    short.sort(key=lambda one: _share(needs, one[2], one[0]), reverse=True)
    for resource, pool, shape in short:
        wanted, largest = amount(needs, resource), amount(shape, resource)
        text = (
            f"pool {pool.name!r} offers at most {largest} on one worker, not {wanted}: "
            "ask for less, or add a pool"
        )
        yield resource, text


def _share(needs: Needs, shape: Needs, resource: str) -> float:
    """How much of what is wanted a worker has, from 0 to 1; another accelerator is half of it."""
    if resource == "accelerator_types":
        return 0.5 if shape.accelerators else 0.0
    if resource in _AMOUNTS:
        have, want = (getattr(side, _AMOUNTS[resource]) for side in (shape, needs))
    else:
        have, want = (dict(side.custom).get(resource, 0) for side in (shape, needs))
    return float(have / want)


def amount(needs: Needs, resource: str) -> str:
    """How much of a resource, as people read it."""
    if resource == "cpu":
        return f"{needs.cpu_millis / 1000:g} cpu"
    if resource == "gpu":
        return f"{needs.gpu_millis / 1000:g} gpu"
    if resource == "memory":
        return f"{needs.memory_bytes / GIB:.4g} GiB memory"
    if resource == "gpu_memory":
        return f"{needs.gpu_memory_bytes / GIB:.4g} GiB gpu_memory per device"
    if resource == "accelerator_types":
        return f"accelerator_types {', '.join(needs.accelerators) or 'none'}"
    return f"{dict(needs.custom).get(resource, 0)} {resource}"


def slots(needs: Needs, shape: Needs) -> int:
    """How many such attempts one worker holds by cpu, memory, GPUs and custom resources."""
    custom = dict(shape.custom)
    pairs = [
        (shape.cpu_millis, needs.cpu_millis),
        (shape.memory_bytes, needs.memory_bytes),
        (shape.gpu_millis, needs.gpu_millis),
        *((custom.get(name, 0), count) for name, count in needs.custom),
    ]
    return min((have // want for have, want in pairs if want), default=1)
