"""What every integration test stands on: the real server on a folder of its own, real clients."""

import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import checkpoints
from serving import DEVICE, Server


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "any_device: has nothing to do with where the server computes; run on the cpu alone")


def pytest_collection_modifyitems(config, items):
    if DEVICE == "cpu":
        return
    left_out = [item for item in items if item.get_closest_marker("any_device")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def repository(tmp_path):
    """An empty model repository."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(repository):
    """serve(*flags, ...) starts a server on `repository`. It is stopped at the end of the test,
    which fails if it does not end with status 0 then or has ended before."""
    started = []

    def start(*flags, **options):
        server = Server(repository, *flags, **options)
        started.append(server)
        return server

    yield start
    problems = [problem for problem in [server.finish() for server in started] if problem]
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def shared_repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "models"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def one_thread():
    """Answers are compared bit for bit with Python's torch: both use one thread."""
    checkpoints.use_one_thread()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Shows the end of each server's log with a failure."""
    report = yield
    if report.failed:
        for server in Server.running:
            report.sections.append((f"log of {server.repository}", server.log_tail()))
    return report
