"""Tasks that cannot be loaded: one line that names the module, and never a list that is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longshore_scheduler.catalogue import CatalogueError, read_catalogue

TASK = """
import os
from longshore import Context, task
os.write(1, b"noise of a library")
print("noise of a module")
@task
def bare(ctx: Context, params: int) -> int:
    return params
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the modules lie; its name is no text."""
    made = tmp_path / os.fsdecode(b"mo dules #1 ?% \xc3\xa9 \xff")
    made.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(made))
    return made


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
        ("import os\nprint('hm', flush=True)\nos._exit(0)\n", "ended with status 0: a module ends"),
        ("raise RuntimeError('no settings')\n", "RuntimeError: no settings"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("def x(:\n", "SyntaxError"),
        (None, "No module named 'broken_tasks'"),
    ],
)
async def test_a_module_that_cannot_be_imported_is_named(
    folder: Path, code: str | None, said: str
) -> None:
    if code is not None:
        (folder / "broken_tasks.py").write_text(code)
    with pytest.raises(CatalogueError) as refused:
        await read_catalogue(["broken_tasks"])
    assert said in str(refused.value)
    assert "broken_tasks" in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_what_a_module_prints_is_not_taken_for_the_list(folder: Path) -> None:
    (folder / "good_tasks.py").write_text(TASK)
    found = await read_catalogue(["good_tasks"])
    assert "bare" in {task.name for task in found.tasks}
    assert folder / "good_tasks.py" in found.sources
