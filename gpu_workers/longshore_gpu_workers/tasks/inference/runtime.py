"""onnxruntime: opening a session on the best device there is, and naming its failures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import onnxruntime

from longshore.sdk import Context, PermanentError, TaskError
from longshore_cpu_workers.phrases import Trouble, trouble_in
from longshore_gpu_workers.tasks.inference.binding import Declared, numpy_name
from longshore_gpu_workers.tasks.inference.onnx_files import not_a_model

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


def is_simulated(devices: tuple[str, ...]) -> bool:
    """True where the attempt has devices and each is a stand-in."""
    return bool(devices) and all("simulated" in device.lower() for device in devices)


def providers_for(devices: tuple[str, ...], available: list[str]) -> list[Any]:
    """What to hand to onnxruntime: CUDA first where this attempt has a real device.

    The runner shows a process only the devices of its attempt, so the first one is ours.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1")
    if devices and visible and not is_simulated(devices) and CUDA in available:
        # Devices are shared: take what is needed, not the next power of two.
        options = {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}
        return [(CUDA, options), CPU]
    return [CPU]


class Session:
    """An open model.

    Attributes:
        provider: what computes it: `CUDA` or `CPU`.
        inputs: what it wants.
        outputs: the names of what it gives.
    """

    def __init__(self, content: bytes, ctx: Context, threads: int) -> None:
        """Opens a model from bytes, so that it has no folder to look into.

        Raises:
            PermanentError: NOT_A_MODEL.
            TaskError: OUT_OF_MEMORY, or DEVICE_ERROR.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, threads)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # A spinning thread would take the core of another job.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = providers_for(ctx.devices, onnxruntime.get_available_providers())
        if len(providers) > 1 and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA's libraries may come as wheels, outside any path
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=providers)
        except Exception as error:  # its errors share no other base
            raise _loading_failure(error) from error
        self.provider: str = self._session.get_providers()[0]
        if ctx.devices and not is_simulated(ctx.devices) and self.provider == CPU:
            ctx.log.warning("CUDA is not usable here; %s stays idle", ", ".join(ctx.devices))
        self.inputs = [
            Declared(node.name, tuple(node.shape), numpy_name(node.type))
            for node in self._session.get_inputs()
        ]
        self.outputs: list[str] = [node.name for node in self._session.get_outputs()]

    def run(self, outputs: list[str], feed: Mapping[str, Any]) -> list[Any]:
        """Computes one batch.

        Raises:
            PermanentError: MODEL_FAILED, it fails on these inputs.
            TaskError: OUT_OF_MEMORY, or DEVICE_ERROR.
        """
        try:
            result: list[Any] = self._session.run(outputs, feed)
        except Exception as error:
            raise _running_failure(error) from error
        return result


def _loading_failure(error: Exception) -> TaskError:
    return _resource_failure(str(error)) or not_a_model(f"onnxruntime says: {error}")


def _running_failure(error: Exception) -> TaskError:
    return _resource_failure(str(error)) or PermanentError(
        f"the model failed on these inputs: {error}",
        reason="MODEL_FAILED",
        code="INVALID_ARGUMENT",
        metadata={"input": "model"},
    )


def _resource_failure(text: str) -> TaskError | None:
    """The error, in the runtime's own words, where the machine and not the job is to blame."""
    match trouble_in(text):
        case Trouble.HOST_MEMORY | Trouble.DEVICE_MEMORY:
            return TaskError(text, reason="OUT_OF_MEMORY", code="RESOURCE_EXHAUSTED")
        case Trouble.DEVICE | Trouble.CONTEXT:
            return TaskError(text, reason="DEVICE_ERROR", code="UNAVAILABLE")
    return None
