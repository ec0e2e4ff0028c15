"""The GPU tasks that come with Longshore: `infer`.

Importing this costs milliseconds; numpy and onnxruntime are loaded when a job needs them. Where
they are not installed the import fails, so that a worker does not offer what it cannot run.
"""

from importlib.util import find_spec

from longshore_gpu_workers.tasks.inference.task import infer

__all__ = ["infer"]

if not (find_spec("numpy") and find_spec("onnxruntime")):
    raise ImportError("the task infer needs numpy and onnxruntime: pip install 'longshore[gpu]'")
