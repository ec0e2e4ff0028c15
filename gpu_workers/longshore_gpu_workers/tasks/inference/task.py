"""The task `infer`: a model, a batch of inputs, one file of predictions."""

from __future__ import annotations

from longshore.sdk import Context, Resources, task
from longshore_gpu_workers.tasks.inference.params import InferParams, InferResult


# A whole device: the memory a model needs is its own, and a share enforces nothing. A job with
# a small model asks for gpu=0.25 or 0.5.
@task(resources=Resources(cpu=1, gpu=1, gpu_memory=2**30), max_attempts=4)
def infer(ctx: Context, params: InferParams) -> InferResult:
    """Runs the ONNX model in the input `model` over every row of the data.

    The data is the input `data` (npz, or JSON: name to rows) or the payload's own. On a real
    device CUDA computes, else the CPU; the result says which.

    Raises:
        PermanentError: INPUT_MISSING, NOT_A_MODEL, NOT_DATA, INPUT_MISMATCH, MODEL_FAILED,
            OUTPUT_NOT_BATCHED, OUTPUT_TOO_LARGE, OUTPUT_NOT_JSON, OUTPUT_NOT_NPZ.
        TaskError: OUT_OF_MEMORY, DEVICE_ERROR.
        JobCancelled: the job was cancelled; seen between batches.
    """
    # Here, because numpy and onnxruntime take half a second that only a runner of this task pays.
    from longshore_gpu_workers.tasks.inference.pipeline import run_inference  # noqa: PLC0415

    return run_inference(ctx, params)
