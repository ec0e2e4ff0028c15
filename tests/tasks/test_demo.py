"""The demo's own checks: they pass for good outputs, and fail for each that is not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from examples import demo_service
from examples.demo import INFER, TRANSCODE
from examples.demo_checks import CheckFailed, check_file, check_predictions, check_transcode
from examples.demo_service import Service, ServiceFailed
from examples.make_inputs import make_images, make_model, make_video
from longshore_cpu_workers.tasks import transcode
from longshore_gpu_workers.tasks import infer
from tests.tasks.conftest import MakeContext, Offspring, Run, runs


@pytest.fixture(scope="module")
def transcoded(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Path], dict[str, Any]]:
    """The files and the result of the demo's transcode, over two seconds of 720p."""
    folder = tmp_path_factory.mktemp("demo")
    job = Run(folder, {"video": make_video(folder / "v.mp4", seconds=2, size="1280x720")}, ())
    result = transcode(job.ctx, transcode.params.validate_python(TRANSCODE))
    return {a.name: a.path for a in job.ctx.artifacts.collect()}, result.model_dump()


def test_a_good_transcode_passes(transcoded: tuple[dict[str, Path], dict[str, Any]]) -> None:
    found = check_transcode(*transcoded, TRANSCODE, 2.0)
    assert found["480p.mp4"] == "h264 854x480, 2.00 s"
    assert found["thumb-005.jpg"] == "320x180"


def test_a_bad_transcode_fails(transcoded: tuple[dict[str, Path], dict[str, Any]]) -> None:
    files, result = transcoded
    with pytest.raises(CheckFailed, match=r"the source has 2\.30 s"):
        check_transcode(files, result, TRANSCODE, 2.3)
    with pytest.raises(CheckFailed, match="wanted h264 of height 480"):
        check_transcode({**files, "480p.mp4": files["720p.mp4"]}, result, TRANSCODE, 2.0)
    with pytest.raises(CheckFailed, match="4 thumbnails, wanted 5"):
        check_transcode(files, {"thumbnails": result["thumbnails"][1:]}, TRANSCODE, 2.0)


def test_predictions_are_compared(make_run: MakeContext, tmp_path: Path) -> None:
    model, images = make_model(tmp_path / "m.onnx"), make_images(tmp_path / "i.npz")
    job = make_run(model=model, data=images)
    infer(job.ctx, infer.params.validate_python(INFER))
    path = job.folder / "predictions.npz"
    assert check_predictions(path, model, images).startswith("1000 x 10")
    with np.load(path) as arrays:
        wrong = arrays["probabilities"][::-1]
    np.savez(path, probabilities=wrong)
    with pytest.raises(CheckFailed, match="differs from the model"):
        check_predictions(path, model, images)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"size_bytes": 4}, "reported were 4"), ({"sha256": bytes(32)}, "SHA-256"), ({}, "")],
)
def test_size_and_hash_are_compared(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "with space"
    path.write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").digest()
    facts = {"uri": path.as_uri(), "size_bytes": 3, "sha256": digest}
    reference = SimpleNamespace(**(facts | change))
    if not said:
        assert check_file("f", reference) == path
        return
    with pytest.raises(CheckFailed, match=said):
        check_file("f", reference)


@pytest.fixture
def stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offspring: Offspring
) -> Iterator[Any]:
    """Starts a Service that runs other code than Longshore's."""

    def start(code: str) -> Service:
        monkeypatch.setattr(demo_service, "_START", code)
        return Service(tmp_path / "data", tmp_path / "log", 0)

    yield start
    assert offspring() == []


def test_a_process_left_behind_is_found_and_ended(stand_in: Any, tmp_path: Path) -> None:
    orphan = tmp_path / "orphan"
    service = stand_in(
        "import pathlib, signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        f"pathlib.Path({str(orphan)!r}).write_text(str(child.pid))\n"
        "signal.pause()"
    )
    _wait_for(lambda: orphan.exists() and orphan.read_text() != "")
    left = psutil.Process(int(orphan.read_text()))
    with pytest.raises(ServiceFailed, match="left 1 processes behind"):
        service.stop(patience=0.2)
    _wait_for(lambda: not runs(left))


async def test_a_service_that_dies_at_start_is_reported(stand_in: Any) -> None:
    service = stand_in("import sys; sys.exit('no such port')")
    with pytest.raises(ServiceFailed, match=r"ended with 1; its last words:\n  no such port"):
        await service.ready({"transcode"})
    with pytest.raises(ServiceFailed, match="ended with 1 after SIGTERM"):
        service.stop(patience=0.2)


def test_a_terminated_demo_takes_its_service_along(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = (
        "import pathlib, sys; from examples import demo, demo_service\n"
        "demo_service._START = 'import signal; signal.pause()'\n"
        "demo.make_all = lambda folder: ()\n"
        "wait = demo_service.Service.ready\n"
        "def ready(service, tasks):\n"
        f"    pathlib.Path({str(started)!r}).write_text(str(service._process.pid))\n"
        "    return wait(service, tasks)\n"
        "demo_service.Service.ready = ready\n"
        "sys.exit(demo.main())"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(demo_service.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env) as demo:
        _wait_for(lambda: started.exists() and started.read_text() != "")
        demo.terminate()
        assert demo.wait(60) > 0  # it ended by itself
    assert not psutil.pid_exists(int(started.read_text()))


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
