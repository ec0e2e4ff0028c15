"""The checks of the demo: outputs are opened and compared, not believed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import av
import numpy as np
import onnxruntime


class Reference(Protocol):
    """What the service says of a file: longshore.v1.PayloadRef."""

    uri: str
    size_bytes: int
    sha256: bytes


class CheckFailed(Exception):
    """An output is not what it should be; the message says which and how."""


def local_path(uri: str) -> Path:
    """The path of a file:// address."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        raise CheckFailed(f"{uri} is no file of this machine")
    return Path(unquote(parts.path))


def check_file(name: str, reference: Reference) -> Path:
    """Size and SHA-256 are those that were reported."""
    path = local_path(reference.uri)
    if not path.is_file():
        raise CheckFailed(f"{name}: there is no file {path}")
    content = path.read_bytes()
    if len(content) != reference.size_bytes:
        raise CheckFailed(f"{name}: {len(content)} bytes, reported were {reference.size_bytes}")
    if hashlib.sha256(content).digest() != reference.sha256:
        raise CheckFailed(f"{name}: the SHA-256 is not the one reported")
    return path


def check_video(path: Path, *, height: int, codec: str, seconds: float) -> str:
    """Codec, height, even width, sound, and a duration within 0.2 s; the last frame decodes."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        duration = (container.duration or 0) / 1_000_000
        found = stream.codec_context.codec.canonical_name
        if (found, stream.height) != (codec, height) or stream.width % 2:
            shape = f"{stream.width}x{stream.height}"
            raise CheckFailed(f"{path.name}: {found} {shape}, wanted {codec} of height {height}")
        if abs(duration - seconds) > 0.2:
            raise CheckFailed(f"{path.name}: {duration:.2f} s, the source has {seconds:.2f} s")
        if not container.streams.audio:
            raise CheckFailed(f"{path.name}: the sound is missing")
        container.seek(round((duration - 0.5) * 1_000_000))
        if not sum(1 for _ in container.decode(stream)):
            raise CheckFailed(f"{path.name}: its last frames cannot be decoded")
        return f"{found} {stream.width}x{stream.height}, {duration:.2f} s"


def check_still(path: Path, *, height: int) -> str:
    """It decodes to one picture of that height."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0), None)
    if frame is None or frame.height != height:
        raise CheckFailed(f"{path.name}: no picture of height {height}")
    return f"{frame.width}x{frame.height}"


def check_predictions(path: Path, model: Path, images: Path) -> str:
    """The predictions are those of the model run right here, over all inputs at once."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    wanted: Any = session.run(None, {"image": np.load(images)["image"]})[0]
    with np.load(path) as arrays:
        given = arrays["probabilities"]
    if given.shape != wanted.shape:
        raise CheckFailed(f"{path.name}: shape {given.shape}, wanted {wanted.shape}")
    # A GPU adds in another order and in TF32.
    if not np.allclose(given, wanted, rtol=1e-2, atol=1e-4):
        worst = float(np.abs(given - wanted).max())
        raise CheckFailed(f"{path.name}: differs from the model by up to {worst:.2g}")
    return f"{given.shape[0]} x {given.shape[1]}, equal to the model run directly"


def check_transcode(
    files: Mapping[str, Path], result: Mapping[str, Any], asked: Mapping[str, Any], seconds: float
) -> dict[str, str]:
    """Each rendition and thumbnail that was asked for; returns what each one is."""
    found: dict[str, str] = {}
    for rendition in asked["renditions"]:
        name = f"{rendition['name']}.mp4"
        if name not in files:
            raise CheckFailed(f"the rendition {name} is missing; there are {sorted(files)}")
        found[name] = check_video(
            files[name], height=rendition["height"], codec="h264", seconds=seconds
        )
    count = asked["thumbnails"]["count"]
    if len(result["thumbnails"]) != count:
        raise CheckFailed(f"{len(result['thumbnails'])} thumbnails, wanted {count}")
    for name in result["thumbnails"]:
        found[name] = check_still(files[name], height=asked["thumbnails"]["height"])
    return found
