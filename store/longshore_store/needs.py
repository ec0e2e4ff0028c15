"""Resources in their canonical form: one JSON text per distinct need, so equal needs are equal
strings and are parsed once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

LONGEST_REMEMBERED = 1024


class Needs(NamedTuple):
    """What a job takes, or what a worker offers. Thousandths, bytes, counts.

    accelerators are accepted types, best first (a job), or the types offered (a worker).
    """

    cpu_millis: int = 0
    memory_bytes: int = 0
    gpu_millis: int = 0
    gpu_memory_bytes: int = 0
    accelerators: tuple[str, ...] = ()
    model: str = ""
    custom: tuple[tuple[str, int], ...] = ()


def needs_json(
    *,
    cpu_millis: int,
    memory_bytes: int = 0,
    gpu_millis: int = 0,
    gpu_memory_bytes: int = 0,
    accelerators: Sequence[str] = (),
    model: str = "",
    custom: Mapping[str, int] | None = None,
) -> str:
    """The canonical text: sorted names, zeros left out."""
    values = {
        "accelerators": list(accelerators),
        "cpu_millis": cpu_millis,
        "custom": dict(sorted((custom or {}).items())),
        "gpu_memory_bytes": gpu_memory_bytes,
        "gpu_millis": gpu_millis,
        "memory_bytes": memory_bytes,
        "model": model,
    }
    return json.dumps({k: v for k, v in values.items() if v}, separators=(",", ":"))


def parse_needs(text: str) -> Needs:
    """The other way round. What was parsed lately is remembered, unless it is long."""
    return _parse(text) if len(text) <= LONGEST_REMEMBERED else _parse.__wrapped__(text)


@lru_cache(maxsize=4096)
def _parse(text: str) -> Needs:
    values = json.loads(text)
    return Needs(
        cpu_millis=values.get("cpu_millis", 0),
        memory_bytes=values.get("memory_bytes", 0),
        gpu_millis=values.get("gpu_millis", 0),
        gpu_memory_bytes=values.get("gpu_memory_bytes", 0),
        accelerators=tuple(values.get("accelerators", ())),
        model=values.get("model", ""),
        custom=tuple(sorted(values.get("custom", {}).items())),
    )


def lacking(need: Needs, offer: Needs) -> str | None:
    """The first resource of `need` that `offer` cannot give, or None where it fits.

    GPU memory is compared per device; accelerator types match if one of them is offered.
    """
    if need.cpu_millis > offer.cpu_millis:
        return "cpu"
    if need.memory_bytes > offer.memory_bytes:
        return "memory"
    if need.gpu_millis > offer.gpu_millis:
        return "gpu"
    if need.gpu_memory_bytes > offer.gpu_memory_bytes:
        return "gpu_memory"
    if (
        need.gpu_millis
        and need.accelerators
        and not set(need.accelerators) & set(offer.accelerators)
    ):
        return "accelerator_types"
    offered = dict(offer.custom)
    return next((name for name, n in need.custom if n > offered.get(name, 0)), None)
