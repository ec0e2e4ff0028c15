"""Which devices an attempt gets; the worker knows nothing more of devices than this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from longshore_cpu_workers.wire import DeviceInfo, Needs

DeviceSet = tuple[int, ...]


class Binding(Protocol):
    """Lends the devices of one worker to its attempts."""

    def devices(self) -> tuple[DeviceInfo, ...]:
        """All devices of the worker."""

    def possible(self, needs: Needs) -> bool:
        """False where needs would not fit even if nothing else ran."""

    def acquire(self, needs: Needs) -> DeviceSet | None:
        """Takes devices for needs; None where there is no room now."""

    def release(self, devices: DeviceSet, needs: Needs) -> None:
        """Gives back what `acquire` took."""

    def names(self, devices: DeviceSet) -> tuple[str, ...]:
        """What reports and `ctx.devices` call them."""

    def env(self, devices: DeviceSet) -> Mapping[str, str]:
        """The variables a runner needs to see these devices and no other."""

    def warm(self) -> DeviceSet:
        """The devices that a runner started in advance should have."""

    def fault(self, devices: DeviceSet) -> None:
        """Counts a fault of each; one that had several is set aside and not lent any more."""

    def set_aside(self) -> DeviceSet:
        """The devices that are not lent any more."""


class NoDevices:
    """The binding of a worker without accelerators: its runners see none."""

    def devices(self) -> tuple[DeviceInfo, ...]:
        return ()

    def possible(self, needs: Needs) -> bool:
        return needs.gpu_millis == 0

    def acquire(self, needs: Needs) -> DeviceSet | None:
        return () if needs.gpu_millis == 0 else None

    def release(self, devices: DeviceSet, needs: Needs) -> None:
        """Nothing was taken."""

    def names(self, devices: DeviceSet) -> tuple[str, ...]:
        return ()

    def env(self, devices: DeviceSet) -> Mapping[str, str]:
        return {"CUDA_VISIBLE_DEVICES": ""}

    def warm(self) -> DeviceSet:
        return ()

    def fault(self, devices: DeviceSet) -> None:
        """There is none."""

    def set_aside(self) -> DeviceSet:
        return ()
