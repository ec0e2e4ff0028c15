"""One distributed deployment for the tests that break it; each leaves it as whole as it was."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio
from pytest_asyncio import is_async_test

from longshore import AsyncClient
from longshore_embedded.dev_cluster import DevCluster, DevClusterOptions
from tests.faults.cluster.deployment import Deployment

CONFIG = """
tasks = ["tests.soak.tasks", "tests.e2e.e2e_tasks", "changing"]
[scheduler]
lease = 10
abandon = 45
term = 8
maximum_crashes = 50
[pools.cpu]
cpu = 2
minimum_workers = 2
maximum_workers = 4
maximum_runners = 8
"""

# The module of tasks that a test of deploys changes.
CHANGING = """
from longshore import Context, Resources, task

@task(resources=Resources(cpu=0.1))
def version(ctx: Context, params: dict[str, int]) -> str:
    return "v1"
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for these tests: the cluster lives on it."""
    for item in items:
        if Path(__file__).parent in item.path.parents and is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


_reports: pytest.StashKey[list[pytest.TestReport]] = pytest.StashKey()
_deployments: list[Deployment] = []
"""The one that runs, if one does: the report of a failed test quotes its logs."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what every member said last, and the fixture learns of the failure."""
    report = yield
    item.stash.setdefault(_reports, []).append(report)
    if report.failed:
        for deployment in _deployments:
            report.sections.extend(deployment.last_words())
    return report


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def whole() -> AsyncIterator[Deployment]:
    """Its folder is short: sockets lie in it, and another user must reach it."""
    with tempfile.TemporaryDirectory(prefix="ls-faults-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "ledger").mkdir()
        (folder / "faults.toml").write_text(CONFIG)
        code = folder / "code"
        code.mkdir()
        (code / "changing.py").write_text(CHANGING)
        path = f"{Path(__file__).parents[3]}:{code}"
        options = DevClusterOptions(
            folder / "cluster", config=folder / "faults.toml", env={"PYTHONPATH": path}
        )
        async with DevCluster(options) as cluster, AsyncClient(cluster.target) as client:
            deployment = Deployment(cluster, client, folder)
            _deployments.append(deployment)
            yield deployment
            _deployments.remove(deployment)


@pytest_asyncio.fixture(loop_scope="session")
async def deployment(
    whole: Deployment, request: pytest.FixtureRequest
) -> AsyncIterator[Deployment]:
    """Every part is up before the test. Afterwards the books are closed; the jobs of a failed test
    are ended, so that they do not hold the pool while the next one waits for it."""
    async with asyncio.timeout(120):
        await whole.until_whole()
    whole.begin()
    yield whole
    if any(report.failed for report in request.node.stash.get(_reports, [])):
        async with asyncio.timeout(120):
            await whole.end_jobs()
        return
    async with asyncio.timeout(120):
        await whole.close_the_books()
