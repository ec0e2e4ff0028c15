"""The steps of `infer`. Imports numpy and onnxruntime; the task itself does not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from longshore.sdk import Context, PermanentError
from longshore_cpu_workers.tasks.inputs import require_input
from longshore_gpu_workers.tasks.inference.binding import Bound, bind
from longshore_gpu_workers.tasks.inference.data import not_data, read_data
from longshore_gpu_workers.tasks.inference.onnx_files import read_model
from longshore_gpu_workers.tasks.inference.params import ARTIFACTS, InferParams, InferResult
from longshore_gpu_workers.tasks.inference.predictions import Predictions
from longshore_gpu_workers.tasks.inference.runtime import Session, is_simulated


def run_inference(ctx: Context, params: InferParams) -> InferResult:
    """Load, bind, run, write; the errors are those of the task."""
    ctx.progress(0.0, "loading the model", phase="load")
    model = read_model(require_input(ctx, "model"))
    session = Session(model.content, ctx, params.threads)
    ctx.log.info("model %s runs on %s", model.sha256[:12], session.provider)
    data = _data(ctx, params)
    bound = bind(session.inputs, data, params.inputs, params.batch_size, params.shared)
    names = _outputs(session, params)
    predictions = Predictions(names, params.top_k)
    started = time.monotonic()
    batches = _run_batches(ctx, session, bound, names, predictions)
    seconds = time.monotonic() - started
    artifact = ARTIFACTS[params.format]
    outputs = predictions.write(ctx.artifacts.write(artifact), params.format)
    return InferResult(
        count=bound.rows,
        batches=batches,
        artifact=artifact,
        outputs=outputs,
        provider=session.provider,
        devices=list(ctx.devices),
        simulated=is_simulated(ctx.devices),
        seconds=round(seconds, 6),
        model_sha256=model.sha256[:12],
    )


def _data(ctx: Context, params: InferParams) -> dict[str, Any]:
    """The payload's data, or the input's; both at once would hide a mistake."""
    if params.data is None:
        return read_data(require_input(ctx, "data"))
    if "data" in ctx.inputs:
        raise not_data("the payload has data as well; give one of the two")
    return dict(params.data)


def _outputs(session: Session, params: InferParams) -> list[str]:
    unknown = [name for name in params.outputs if name not in session.outputs]
    if unknown:
        has = ", ".join(session.outputs)
        raise PermanentError(
            f"the model has no output {', '.join(unknown)}; it has {has}",
            reason="INPUT_MISMATCH",
            code="INVALID_ARGUMENT",
            metadata={"input": "model"},
            violations=[("outputs", f"{name!r} is none of {has}") for name in unknown],
        )
    return list(dict.fromkeys(params.outputs)) or session.outputs


def _run_batches(
    ctx: Context, session: Session, bound: Bound, names: list[str], predictions: Predictions
) -> int:
    """Runs every batch, reports after each, and returns how many there were."""
    started = time.monotonic()
    batches = done = 0
    for rows, feed in _batches(bound):
        fed = len(next(iter(feed.values())))
        predictions.add(session.run(names, {**feed, **bound.shared}), rows, fed)
        batches, done = batches + 1, done + rows
        rate = done / max(time.monotonic() - started, 1e-9)
        ctx.progress(
            completed=done,
            total=bound.rows,
            unit="inputs",
            phase="infer",
            metrics={"inputs_per_second": rate},
        )
    return batches


def _batches(bound: Bound) -> Iterator[tuple[int, dict[str, Any]]]:
    """Slices of each array and how many rows count; the last is padded where the model is fixed."""
    for start in range(0, bound.rows, bound.batch):
        rows = min(bound.batch, bound.rows - start)
        feed = {name: array[start : start + bound.batch] for name, array in bound.arrays.items()}
        yield rows, _padded(feed, bound.batch - rows) if bound.fixed else feed


def _padded(feed: dict[str, Any], missing: int) -> dict[str, Any]:
    """Repeats the last row: a model of a fixed first dimension takes no less."""
    if not missing:
        return feed
    return {
        name: np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
        for name, array in feed.items()
    }
