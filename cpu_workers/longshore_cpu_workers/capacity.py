"""The resources of a worker, and what running attempts have of them."""

from __future__ import annotations

from longshore_cpu_workers.binding import Binding, DeviceSet
from longshore_cpu_workers.wire import Needs


class Capacity:
    """Lends resources so that the sum of what is lent stays within the whole."""

    def __init__(self, whole: Needs, binding: Binding) -> None:
        self._whole = whole
        self._binding = binding
        self._custom = dict(whole.custom)
        self._cpu_millis = 0
        self._memory_bytes = 0
        self._used: dict[str, int] = {}
        self._possible: Needs | None = None

    def possible(self, needs: Needs) -> bool:
        """False where needs exceed the whole: they would wait for ever."""
        if needs == self._possible:  # jobs come in batches that need the same
            return True
        possible = (
            needs.cpu_millis <= self._whole.cpu_millis
            and needs.memory_bytes <= self._whole.memory_bytes
            and all(count <= self._custom.get(name, 0) for name, count in needs.custom)
            and self._binding.possible(needs)
        )
        self._possible = needs if possible else self._possible
        return possible

    def fault(self, devices: DeviceSet) -> None:
        """Devices failed an attempt: they may be set aside."""
        self._binding.fault(devices)
        self._possible = None

    def acquire(self, needs: Needs) -> DeviceSet | None:
        """Takes resources; returns the devices (often none), or None where there is no room."""
        if not self._fits(needs):
            return None
        devices = self._binding.acquire(needs)
        if devices is not None:
            self._add(needs, 1)
        return devices

    def release(self, devices: DeviceSet, needs: Needs) -> None:
        """Gives back what `acquire` took."""
        self._binding.release(devices, needs)
        self._add(needs, -1)

    def _fits(self, needs: Needs) -> bool:
        return (
            self._cpu_millis + needs.cpu_millis <= self._whole.cpu_millis
            and self._memory_bytes + needs.memory_bytes <= self._whole.memory_bytes
            and all(
                self._used.get(name, 0) + count <= self._custom.get(name, 0)
                for name, count in needs.custom
            )
        )

    def _add(self, needs: Needs, sign: int) -> None:
        self._cpu_millis += sign * needs.cpu_millis
        self._memory_bytes += sign * needs.memory_bytes
        for name, count in needs.custom:
            self._used[name] = self._used.get(name, 0) + sign * count
