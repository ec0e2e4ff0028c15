"""What is free on a worker, and whether more fits: plain arithmetic on immutable tuples."""

from __future__ import annotations

from typing import NamedTuple

from longshore_store.needs import Needs

Devices = tuple[tuple[int, int], ...]
"""(thousandths free, bytes free) of each accelerator."""

WHOLE = 1000


class Room(NamedTuple):
    """What is left of a worker; negative where an attempt outgrew its estimate."""

    cpu_millis: int
    memory_bytes: int
    runners: int
    devices: Devices = ()
    custom: tuple[tuple[str, int], ...] = ()


def empty_room(offer: Needs, maximum_runners: int) -> Room:
    """All of an idle worker."""
    device = (WHOLE, offer.gpu_memory_bytes)
    return Room(
        cpu_millis=offer.cpu_millis,
        memory_bytes=offer.memory_bytes,
        runners=maximum_runners,
        devices=(device,) * (offer.gpu_millis // WHOLE),
        custom=offer.custom,
    )


def close_device(room: Room, position: int, memory_bytes: int) -> Room:
    """The room without one device, which has so much memory; what it has lent may be given back."""
    devices = tuple(
        (free - WHOLE, left - memory_bytes) if index == position else (free, left)
        for index, (free, left) in enumerate(room.devices)
    )
    return room._replace(devices=devices)


def count_fitting(room: Room, needs: Needs) -> int:
    """How many attempts with these needs fit at once."""
    count = room.runners
    if needs.cpu_millis:
        count = min(count, room.cpu_millis // needs.cpu_millis)
    if needs.memory_bytes:
        count = min(count, room.memory_bytes // needs.memory_bytes)
    if needs.custom:
        free = dict(room.custom)
        count = min(count, *(free.get(name, 0) // n for name, n in needs.custom if n))
    if count > 0 and uses_device(needs):
        count = min(count, _count_on_devices(room.devices, needs))
    return max(count, 0)


def uses_device(needs: Needs) -> bool:
    """True where an attempt needs an accelerator."""
    return needs.gpu_millis > 0 or needs.gpu_memory_bytes > 0


def take(room: Room, needs: Needs) -> tuple[Room, tuple[int, ...]]:
    """The room without one attempt, and the devices chosen for it.

    The caller has asked count_fitting; devices are empty where none fits.
    """
    chosen = _choose_devices(room.devices, needs) if uses_device(needs) else ()
    return _shift(room, needs, chosen, -1), chosen


def give(room: Room, needs: Needs, chosen: tuple[int, ...]) -> Room:
    """The room with what `take` took given back."""
    return _shift(room, needs, chosen, 1)


def _shift(room: Room, needs: Needs, chosen: tuple[int, ...], sign: int) -> Room:
    devices, custom = room.devices, room.custom
    if chosen:
        devices = _shift_devices(devices, needs, chosen, sign)
    if needs.custom:
        moved = dict(needs.custom)
        custom = tuple((name, n + sign * moved.get(name, 0)) for name, n in custom)
    return Room(
        room.cpu_millis + sign * needs.cpu_millis,
        room.memory_bytes + sign * needs.memory_bytes,
        room.runners + sign,
        devices,
        custom,
    )


def _shift_devices(devices: Devices, needs: Needs, chosen: tuple[int, ...], sign: int) -> Devices:
    share = min(needs.gpu_millis, WHOLE) * sign
    memory = needs.gpu_memory_bytes * sign
    return tuple(
        (free + share, left + memory) if index in chosen else (free, left)
        for index, (free, left) in enumerate(devices)
    )


def _count_on_devices(devices: Devices, needs: Needs) -> int:
    if needs.gpu_millis > WHOLE:
        return len(_whole_devices(devices, needs)) // (needs.gpu_millis // WHOLE)
    return sum(_shares(device, needs) for device in devices)


def _shares(device: tuple[int, int], needs: Needs) -> int:
    free, left = device
    by_share = free // needs.gpu_millis if needs.gpu_millis else free // 1
    by_memory = left // needs.gpu_memory_bytes if needs.gpu_memory_bytes else by_share
    return max(min(by_share, by_memory), 0)


def _whole_devices(devices: Devices, needs: Needs) -> list[int]:
    return [
        index
        for index, (free, left) in enumerate(devices)
        if free >= WHOLE and left >= needs.gpu_memory_bytes
    ]


def _choose_devices(devices: Devices, needs: Needs) -> tuple[int, ...]:
    """Best fit: the device that is left with least, so that whole ones stay whole."""
    if needs.gpu_millis > WHOLE:
        return tuple(_whole_devices(devices, needs)[: needs.gpu_millis // WHOLE])
    fitting = [(d, index) for index, d in enumerate(devices) if _shares(d, needs)]
    return (min(fitting)[1],) if fitting else ()
