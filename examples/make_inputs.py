"""Makes what the demo and the tests feed to the tasks: a video, a small ONNX model, its inputs.

python -m examples.make_inputs [FOLDER]     # demo-data/inputs where left out
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

CLASSES = 10
SIDE = 16


def make_video(
    path: Path,
    *,
    seconds: float = 20.0,
    size: str = "1920x1080",
    rate: int = 30,
    sound: bool = True,
    codecs: tuple[str, ...] = ("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"),
) -> Path:
    """Renders a moving test picture with a sine tone, by ffmpeg's own sources."""
    sources = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}"]
    if sound:
        sources += ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y"),
        *(*sources, "-t", str(seconds), "-pix_fmt", "yuv420p", *codecs, f"file:{path}"),
    ]
    subprocess.run(command, check=True)
    return path


def small_model() -> ModelProto:
    """A convolutional classifier with fixed weights.

    Input `image`: float32 [N, 1, 16, 16]. Output `probabilities`: float32 [N, 10], rows sum to 1.
    """
    random = np.random.default_rng(7)
    weights = {
        "kernel": random.normal(0, 0.5, (8, 1, 3, 3)),
        "bias": random.normal(0, 0.1, (8,)),
        "dense": random.normal(0, 0.05, (8 * (SIDE // 2) ** 2, CLASSES)),
        "offset": random.normal(0, 0.1, (CLASSES,)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["edges"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["edges"], ["active"]),
        helper.make_node("MaxPool", ["active"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "offset"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(
        nodes,
        "small_classifier",
        [image],
        [output],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    return helper.make_model(
        graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)], producer_name="longshore"
    )


def make_model(path: Path) -> Path:
    """Writes `small_model`."""
    path.write_bytes(small_model().SerializeToString())
    return path


def make_images(path: Path, count: int = 1000) -> Path:
    """Writes an npz with `image`: float32 [count, 1, 16, 16], values 0 to 1, always the same."""
    images = np.random.default_rng(11).random((count, 1, SIDE, SIDE), dtype=np.float32)
    np.savez(path, image=images)
    return path


def make_all(folder: Path) -> tuple[Path, Path, Path]:
    """Makes the video, the model and its 1,000 inputs in a folder; what is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    video, model, images = (folder / name for name in ("video.mp4", "model.onnx", "images.npz"))
    if not video.exists():
        # Under another name first, so that an interrupted run leaves no half of a video behind.
        make_video(folder / "video.partial.mp4").replace(video)
    return video, make_model(model), make_images(images)


if __name__ == "__main__":
    for made in make_all(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-data/inputs")):
        print(f"{made}  {made.stat().st_size:,} bytes")
