"""Which devices an attempt gets on a worker that has several."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from longshore_cpu_workers.binding import DeviceSet
from longshore_cpu_workers.wire import DeviceInfo, Needs
from longshore_gpu_workers.devices import real_devices, simulated_devices

WHOLE = 1000
MAX_FAULTS = 2
"""So many device faults, and a device is set aside for the life of its worker."""

_log = logging.getLogger(__name__)


class NoDeviceError(RuntimeError):
    """A GPU worker was placed where it has no device."""


@dataclass(slots=True)
class _Use:
    """What is lent of one device. `info` is the device; `position` its place in the worker."""

    position: int
    info: DeviceInfo
    millis: int = 0
    memory_bytes: int = 0
    faults: int = 0

    @property
    def is_sound(self) -> bool:
        """False where it is set aside."""
        return self.faults < MAX_FAULTS

    def fits(self, millis: int, memory_bytes: int) -> bool:
        """True where it has room for so much more."""
        if not self.is_sound:
            return False
        room = self.info.memory_bytes - self.memory_bytes
        return self.millis + millis <= WHOLE and memory_bytes <= room


class DeviceBinding:
    """Lends devices: shares of one are packed onto the fullest that fits, wholes taken whole.

    Memory is admission by the books: needs of all attempts on a device stay within its memory.
    A device set names devices by their place in `devices()`.
    """

    def __init__(self, devices: Sequence[DeviceInfo]) -> None:
        self._uses = [_Use(position, info) for position, info in enumerate(devices)]

    def devices(self) -> tuple[DeviceInfo, ...]:
        return tuple(use.info._replace(set_aside=not use.is_sound) for use in self._uses)

    def possible(self, needs: Needs) -> bool:
        count, millis = _split(needs)
        if count == 0:
            return needs.gpu_millis == 0
        empty = [_Use(use.position, use.info, faults=use.faults) for use in self._uses]
        return sum(use.fits(millis, needs.gpu_memory_bytes) for use in empty) >= count

    def acquire(self, needs: Needs) -> DeviceSet | None:
        count, millis = _split(needs)
        fitting = [use for use in self._uses if use.fits(millis, needs.gpu_memory_bytes)]
        if len(fitting) < count or not self.possible(needs):
            return None
        # The fullest first, so that whole devices stay free for those who need them whole.
        chosen = sorted(fitting, key=lambda use: (-use.millis, use.position))[:count]
        for use in chosen:
            use.millis += millis
            use.memory_bytes += needs.gpu_memory_bytes
        return tuple(sorted(use.position for use in chosen))

    def release(self, devices: DeviceSet, needs: Needs) -> None:
        _, millis = _split(needs)
        for position in devices:
            self._uses[position].millis -= millis
            self._uses[position].memory_bytes -= needs.gpu_memory_bytes

    def names(self, devices: DeviceSet) -> tuple[str, ...]:
        return tuple(self._uses[position].info.name for position in devices)

    def env(self, devices: DeviceSet) -> Mapping[str, str]:
        """Real devices by UUID: an index means another device once others are hidden."""
        infos = [self._uses[position].info for position in devices]
        real = ",".join(info.uuid for info in infos if not info.simulated)
        simulated = ",".join(str(info.index) for info in infos if info.simulated)
        env = {"CUDA_VISIBLE_DEVICES": real, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        return {**env, "LONGSHORE_SIMULATED_DEVICES": simulated} if simulated else env

    def warm(self) -> DeviceSet:
        """The device that the next share will be packed onto."""
        if not self._uses:
            return ()
        sound = [use for use in self._uses if use.is_sound] or self._uses
        partly = [use for use in sound if use.millis < WHOLE] or sound
        return (max(partly, key=lambda use: (use.millis, -use.position)).position,)

    def fault(self, devices: DeviceSet) -> None:
        for position in devices:
            use = self._uses[position]
            use.faults += 1
            if use.faults == MAX_FAULTS:
                _log.error(
                    "device %d, %s (%s), is set aside after %d faults: it gets no more jobs until"
                    " the worker is replaced; look at it with nvidia-smi and dmesg",
                    use.info.index, use.info.uuid, use.info.name, use.faults,
                )  # fmt: skip

    def set_aside(self) -> DeviceSet:
        return tuple(use.position for use in self._uses if not use.is_sound)


def _split(needs: Needs) -> tuple[int, int]:
    """How many devices, and how much of each; (0, 0) for none, or for a share of several."""
    if needs.gpu_millis <= WHOLE:
        return (1 if needs.gpu_millis > 0 else 0), needs.gpu_millis
    count, rest = divmod(needs.gpu_millis, WHOLE)
    return (0, 0) if rest else (count, WHOLE)


def bind(given: Sequence[str], *, simulate: int = 0) -> DeviceBinding:
    """The binding of a GPU worker: what WorkerActor takes as `bind`.

    Args:
        given: ids of the devices that Ray lent to the actor; empty asks CUDA_VISIBLE_DEVICES.
        simulate: this many simulated devices instead of real ones; 0 for real ones.

    Raises:
        NoDeviceError: no real device is there.
    """
    devices = simulated_devices(simulate) if simulate else real_devices(given)
    if not devices:
        raise NoDeviceError(
            "this worker sees no NVIDIA device; check the driver, or use --simulate-gpus N"
        )
    return DeviceBinding(devices)
