"""The accelerators of this machine, real ones through NVML or simulated ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from longshore_cpu_workers.wire import DeviceInfo

SIMULATED_BYTES = 16 << 30


def simulated_devices(count: int, memory_bytes: int = SIMULATED_BYTES) -> tuple[DeviceInfo, ...]:
    """Devices that exist in the books only: for demos and tests without a GPU."""
    return tuple(
        DeviceInfo(index, f"SIM-{index}", f"simulated {index}", memory_bytes, True)
        for index in range(count)
    )


def real_devices(given: Sequence[str] = ()) -> tuple[DeviceInfo, ...]:
    """The NVIDIA devices this process was given; none where there is no driver.

    Args:
        given: indices or UUIDs, such as Ray lends them; empty takes CUDA_VISIBLE_DEVICES,
            and all devices where that is unset. An empty CUDA_VISIBLE_DEVICES means none.
    """
    wanted = list(given) or _visible()
    listed = tuple(_listed())
    if wanted is None:
        return listed
    return tuple(device for device in listed if any(_is(device, name) for name in wanted))


def _visible() -> list[str] | None:
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if value is None else [name.strip() for name in value.split(",") if name.strip()]


def _is(device: DeviceInfo, name: str) -> bool:
    """CUDA accepts an index, or a UUID cut short."""
    return name == str(device.index) or (len(name) > 4 and device.uuid.startswith(name))


def _listed() -> Iterator[DeviceInfo]:
    """Asks NVML; it numbers devices by PCI bus, which CUDA_DEVICE_ORDER makes CUDA do too."""
    try:
        import pynvml  # noqa: PLC0415 - a CPU machine need not have it
    except ImportError:
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):  # a device that fell off the bus
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
                uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
                yield DeviceInfo(index, _text(uuid), _text(name), memory, False)
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
