"""What fails under a server: disks, folders, permissions, clocks, memory, and the process itself. The
last good version goes on without one failed request, the reason is told wherever an operator looks,
and what comes right again is served without anybody's doing."""

import contextlib
import errno
import json
import os
import signal
import time

import checkpoints
import numpy as np
import pytest
from checkpoints import constant, constant_mlp, place, replace, save
from file_faults import FileFaults
from serving import DEVICE, Server, holds_for, wait_until
from traffic import Traffic

ON_SIM = DEVICE.startswith("sim")
WIDTH = 512  # of a model whose weights are 3 MB
DAY = 24 * 3600


def zeros(rows):
    return np.zeros((rows, 4), np.float32)


def wide(rows):
    return np.ones((rows, WIDTH), np.float32)


@pytest.fixture
def faults(tmp_path):
    return FileFaults(tmp_path)


def wait_failure(server, words, model="m"):
    """The reason is in RepositoryIndex, the log and the metrics."""
    wait_until(lambda: words in server.reason(model), f"the reason to say: {words}")
    assert words in server.log()
    loads = server.metric("sconce_loads_total", model=model)
    published = server.metric("sconce_loads_total", model=model, outcome="published")
    assert loads > published, "the metrics know of no failure"
    assert server.is_ready()


def wait_recovered(server, model="m"):
    wait_until(lambda: server.reason(model) == "", "the reason to be taken back")
    assert server.is_ready()


# The disk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls, error, words", [
    ("preadv,pread", errno.EIO, "Input/output error"),
    ("preadv,pread", errno.ESTALE, "Stale file handle"),
    ("preadv,pread", errno.ENOMEM, "Cannot allocate memory"),
    ("open", errno.EIO, "Input/output error"),
    ("open", errno.EMFILE, "Too many open files"),
    ("open", errno.EACCES, "Permission denied"),
    ("fstat", errno.EIO, "Input/output error"),
])
def test_a_disk_that_fails_while_weights_are_read(serve, repository, faults, calls, error, words):
    """They come right without a change of the file: it is tried again."""
    path = save(constant(0), place(repository, "m"))
    server = serve(env=faults.environment)
    with Traffic(server, "m", zeros, clients=2) as traffic:
        with faults.rule(calls, "*/m/model.pth", "fail", error) as met:
            replace(path, constant(1))
            met.wait()
            wait_failure(server, words)
        traffic.wait_for_output(1)
        wait_recovered(server)
    assert set(traffic.check_constant_outputs().values()) == {0, 1}


@pytest.mark.parametrize("skip", [0, 1, 3, 6])
def test_a_disk_that_fails_once_in_the_middle(serve, repository, faults, skip):
    path = save(constant_mlp(0), place(repository, "m"))
    server = serve(env=faults.environment)
    with Traffic(server, "m", wide, clients=2) as traffic:
        with faults.rule("preadv,pread", "*/m/model.pth", "fail", errno.EIO, skip, 1) as met:
            replace(path, constant_mlp(1))
            met.wait()
            traffic.wait_for_output(1)
        wait_recovered(server)


def test_reads_that_give_less_than_was_asked_for(serve, repository, faults):
    """A read may always be short; what it gives is put together right."""
    path = save(checkpoints.mlp((16, 64, 5), seed=1), place(repository, "m"))
    net = checkpoints.mlp((16, 64, 5), seed=2)
    image = checkpoints.random_images(1, 16)
    server = serve(env=faults.environment)
    with faults.rule("preadv,pread", "*/m/model.pth", "short", 7) as met:
        replace(path, net)
        wait_until(lambda: server.infer("m", image).version == 2, "version 2")
        assert len(met()) > 100
    np.testing.assert_allclose(server.infer("m", image).array, checkpoints.expected(net, image),
                               atol=1e-6)
    assert server.reason("m") == ""


def test_a_file_that_shrinks_while_it_is_read(serve, repository, faults):
    path = save(constant_mlp(0), place(repository, "m"))
    server = serve(env=faults.environment)
    with Traffic(server, "m", wide, clients=2) as traffic:
        with faults.rule("preadv", "*/m/model.pth", "block", skip=2, count=1) as met:
            replace(path, constant_mlp(1))
            met.wait()
            os.truncate(path, path.stat().st_size // 3)
        wait_failure(server, "model.pth")
        assert set(traffic.check_constant_outputs().values()) == {0}
        replace(path, constant_mlp(2))
        traffic.wait_for_output(2)
        wait_recovered(server)
    assert set(traffic.check_constant_outputs().values()) == {0, 2}


def test_a_file_that_is_written_over_while_it_is_read(serve, repository, faults):
    """Its size stays: half of it would be of the one, half of the other."""
    path = save(constant_mlp(0), place(repository, "m"))
    fresh = save(constant_mlp(2), path.parent.parent.parent / "model.pth").read_bytes()
    server = serve(env=faults.environment)
    with Traffic(server, "m", wide, clients=2) as traffic:
        with faults.rule("preadv", "*/m/model.pth", "block", skip=2, count=1) as met:
            replace(path, constant_mlp(1))
            met.wait()
            with open(path, "r+b") as file:
                file.write(fresh)
                file.truncate()
        traffic.wait_for_output(2)
        wait_recovered(server)
    assert set(traffic.check_constant_outputs().values()) == {0, 2}


def test_a_disk_that_hangs_holds_up_nobody(serve, repository, faults):
    """Another model is swapped meanwhile, and requests of this one are answered."""
    path = save(constant(0), place(repository, "m"))
    other = save(constant(0), place(repository, "other"))
    server = serve(env=faults.environment)
    with Traffic(server, "m", zeros, clients=2) as traffic:
        with Traffic(server, "other", zeros, clients=2) as others:
            with faults.rule("preadv,pread", "*/m/model.pth", "block") as met:
                replace(path, constant(1))
                met.wait()
                for value in (1, 2, 3):
                    replace(other, constant(value))
                    others.wait_for_output(value)
                assert {sample.output.flat[0] for sample in traffic.last()} == {0}
            traffic.wait_for_output(1)


@pytest.mark.any_device
@pytest.mark.parametrize("call, error", [
    ("write", errno.ENOSPC), ("write", errno.EIO), ("fsync", errno.EIO),
    ("rename", errno.ENOSPC), ("open", errno.EROFS)])
def test_a_state_file_that_cannot_be_written(serve, repository, tmp_path, faults, call, error):
    """Swaps go on; what it said last stays whole, and it is written once that is possible again."""
    path = save(constant(0), place(repository, "m"))
    state = tmp_path / "state" / "state.json"
    state.parent.mkdir()
    server = serve("--state-file", str(state), env=faults.environment)
    saved = lambda: json.loads(state.read_text())["models"]["m"]["last_number"]
    wait_until(lambda: state.exists() and saved() == 1, "the state to be saved")
    with Traffic(server, "m", zeros, clients=2) as traffic:
        with faults.rule(call, "*/state.json*", "fail", error) as met:
            replace(path, constant(1))
            traffic.wait_for_output(1)
            met.wait()
            wait_until(lambda: os.strerror(error) in server.log(), "the log to say so")
            assert saved() == 1
            assert server.is_ready() and server.reason("m") == ""
        replace(path, constant(2))
        traffic.wait_for_output(2)
        wait_until(lambda: saved() == 3, "the state to be saved again")
    assert [entry.name for entry in state.parent.iterdir()] == ["state.json"]


# Numbered folders --------------------------------------------------------------------------------


def test_a_number_that_cannot_be_read_leaves_the_one_before(serve, repository, faults):
    """The highest is wanted, and not to be had: the one before it answers until it is."""
    save(constant(1), place(repository / "m", "1"))
    server = serve(env=faults.environment)
    with Traffic(server, "m", zeros, clients=2) as traffic:
        with faults.rule("preadv,pread", "*/m/2/model.pth", "fail", errno.EIO) as met:
            save(constant(2), place(repository / "m", "2"))
            met.wait()
            wait_failure(server, "Input/output error")
        traffic.wait_for_output(2)
        wait_recovered(server)
        # A third one is copied in slowly, and an empty one is no reason to stop.
        (repository / "m" / "4").mkdir()
        data = save(constant(3), repository.parent / "model.pth").read_bytes()
        path = place(repository / "m", "3")
        path.write_bytes(data[:500])
        time.sleep(0.4)
        path.write_bytes(data)
        traffic.wait_for_output(3)
    assert traffic.check_constant_outputs() == {1: 1, 2: 2, 3: 3}
    traffic.check_versions_only_rise()


# Folders and permissions -------------------------------------------------------------------------


def test_the_repository_vanishes_and_comes_back(serve, repository, tmp_path):
    path = save(constant(0), place(repository, "m"))
    server = serve()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        os.rename(repository, tmp_path / "away")
        wait_until(lambda: "No such file" in server.log(), "the log to say so")
        holds_for(0.5, server.is_ready, "it is ready all the time")
        replace(tmp_path / "away" / "m" / "model.pth", constant(1))
        os.rename(tmp_path / "away", repository)
        traffic.wait_for_output(1)
        replace(path, constant(2))
        traffic.wait_for_output(2)
    traffic.check_versions_only_rise()


def test_a_models_folder_is_away_for_a_moment(serve, repository, tmp_path):
    """As when a folder is exchanged by two renames: shorter than the settling time."""
    save(constant(0), place(repository, "m"))
    server = serve("--poll-interval", "0.05", "--settle-time", "2", quick=False)
    with Traffic(server, "m", zeros, clients=2) as traffic:
        for value in (1, 2):
            fresh = save(constant(value), place(tmp_path / f"fresh{value}", "m")).parent
            os.rename(repository / "m", tmp_path / f"old{value}")
            time.sleep(0.2)
            os.rename(fresh, repository / "m")
            traffic.wait_for_output(value)


@pytest.mark.parametrize("calls, pattern", [
    ("opendir", "*/models/m"),
    ("stat", "*/models/m/model.pth"),
    ("open,fstat", "*/models/m/model.pth"),
    ("opendir", "*/models"),
])
def test_permissions_are_lost_and_restored(serve, repository, faults, calls, pattern):
    path = save(constant(0), place(repository, "m"))
    server = serve(env=faults.environment)
    with Traffic(server, "m", zeros, clients=2) as traffic:
        with faults.rule(calls, pattern, "fail", errno.EACCES) as met:
            replace(path, constant(1))
            met.wait()
            wait_until(lambda: "Permission denied" in server.log(), "the log to say so")
            if not pattern.endswith("models"):
                wait_until(lambda: "Permission denied" in server.reason("m"), "the reason")
            holds_for(0.3, server.is_ready, "it is ready all the time")
        traffic.wait_for_output(1)
        wait_recovered(server)
    assert set(traffic.check_constant_outputs().values()) == {0, 1}


@pytest.mark.any_device
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_to_read(serve, repository):
    path = save(constant(0), place(repository, "m"))
    server = serve()
    replace(path, constant(1))
    path.chmod(0)
    wait_failure(server, "Permission denied")
    path.chmod(0o600)
    wait_until(lambda: server.infer("m", zeros(1)).array.flat[0] == 1, "version 2")


# Clocks ------------------------------------------------------------------------------------------


@pytest.mark.any_device
@pytest.mark.parametrize("shift", [10 * 365 * DAY, -20 * 365 * DAY, 2 * 3600, -2 * 3600])
def test_the_clock_jumps(serve, repository, faults, shift):
    """Files are then from the past or the future; the next push is served as soon as ever."""
    path = save(constant(0), place(repository, "m"))
    server = serve(env=faults.environment)
    with Traffic(server, "m", zeros, clients=2) as traffic:
        with faults.rule("clock", "*", "shift", shift):
            for value in (1, 2):
                start = time.monotonic()
                replace(path, constant(value))
                traffic.wait_for_output(value)
                assert time.monotonic() - start < 10
        replace(path, constant(3))
        traffic.wait_for_output(3)
    traffic.check_versions_only_rise()
    assert server.reason("m") == ""


# Memory ------------------------------------------------------------------------------------------


@pytest.mark.skipif(ON_SIM, reason="the memory of the simulated devices has a test of its own")
def test_no_memory_for_the_weights(serve, repository, faults):
    path = save(constant_mlp(0), place(repository, "m"))
    server = serve(env=faults.environment)
    with Traffic(server, "m", wide, clients=2) as traffic:
        with faults.rule("allocate", 900_000, "fail", errno.ENOMEM) as met:
            replace(path, constant_mlp(1))
            met.wait()
            wait_failure(server, "memory")
        traffic.wait_for_output(1)
        wait_recovered(server)


@pytest.mark.skipif(ON_SIM, reason="the memory of the simulated devices has a test of its own")
def test_no_memory_in_warm_up(serve, repository, faults):
    """Weights of 80 bytes, batches of 1 MiB."""
    path = save(constant(0), place(repository, "m"))
    path.with_name("config.pbtxt").write_text("max_batch_size: 65536")
    server = serve(env=faults.environment)
    with Traffic(server, "m", zeros, clients=2) as traffic:
        with faults.rule("allocate", 900_000, "fail", errno.ENOMEM) as met:
            replace(path, constant(1))
            met.wait()
            wait_failure(server, "memory")
        traffic.wait_for_output(1)
        wait_recovered(server)


@pytest.mark.skipif(not ON_SIM, reason="simulated devices only")
def test_no_memory_on_a_device(serve, repository):
    path = save(constant_mlp(0), place(repository, "m"))
    server = serve()
    with Traffic(server, "m", wide, clients=2) as traffic:
        # Beside what is in use there is room for a batch, not for other weights.
        for device, used in enumerate(server.sim.devices()):
            server.sim("limit", device, used["live_bytes"] + 2_000_000)
        replace(path, constant_mlp(1))
        wait_failure(server, "memory")
        for device in (0, 1):
            server.sim("limit", device, 1 << 30)
        traffic.wait_for_output(1)
        wait_recovered(server)


@pytest.mark.skipif(not ON_SIM, reason="simulated devices only")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_allocation_fails_in_the_middle_of_a_load(serve, repository, count):
    """No request is under way that it could hit; the next attempt has all it needs."""
    path = save(constant(0), place(repository, "m"))
    server = serve()
    server.sim("fail-allocation", 0, count)
    replace(path, constant(1))
    wait_until(lambda: "version 2 serves" in server.log(), "version 2 to serve")
    assert server.infer("m", zeros(1)).array.flat[0] == 1
    wait_recovered(server)
    assert "out of memory" in server.log(), "no allocation failed"


# The end of the process --------------------------------------------------------------------------


@pytest.fixture
def serve_again(repository, tmp_path):
    """serve_again(**options) starts a server with a state file; one that died is no failure here."""
    started = []

    def start(*flags, **options):
        state = tmp_path / "state.json"
        server = Server(repository, "--state-file", str(state), *flags, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.finish()


def saved_number(tmp_path):
    with contextlib.suppress(FileNotFoundError):
        return json.loads((tmp_path / "state.json").read_text())["models"]["m"]["last_number"]
    return 0


KILLS = {
    # The first look at the new file, and later ones.
    "seen": ("stat", "*/m/model.pth", 0),
    "settling": ("stat", "*/m/model.pth", 2),
    "opened": ("open", "*/m/model.pth", 0),
    "structure begun": ("pread", "*/m/model.pth", 0),
    "structure checked": ("pread", "*/m/model.pth", 20),
    "half read": ("preadv", "*/m/model.pth", 2),
    "read": ("fstat", "*/m/model.pth", 1),
    "in warm-up": ("allocate", 900_000, 0),
    "state opened": ("open", "*/state.json.tmp", 0),
    "state written": ("write", "*/state.json.tmp", 0),
    "state synced": ("fsync", "*/state.json.tmp", 0),
    "state renamed": ("rename", "*/state.json", 0),
    "folder synced": ("fsync", "*", 1),
}


@pytest.mark.any_device
@pytest.mark.parametrize("step", KILLS)
def test_killed_at_a_step_and_started_again(serve_again, repository, tmp_path, faults, step):
    """What the new process serves is the file that is there, with the number that comes next."""
    calls, pattern, skip = KILLS[step]
    make, row = constant_mlp, wide(1)
    path = place(repository, "m")
    if calls == "allocate":  # weights of 80 bytes, batches of 1 MiB
        make, row = constant, zeros(1)
        path.with_name("config.pbtxt").write_text("max_batch_size: 65536")
    save(make(0), path)
    server = serve_again(env=faults.environment)
    wait_until(lambda: saved_number(tmp_path) == 1, "the state to be saved")
    with faults.rule(calls, pattern, "kill", skip=skip, count=1) as met:
        replace(path, make(1))
        assert server.wait_exit() == -signal.SIGKILL
        assert len(met()) == 1
    server = serve_again()
    answer = server.infer("m", row)
    assert (answer.version, answer.array.flat[0]) == (2, 1)
    wait_until(lambda: saved_number(tmp_path) == 2, "the state to be saved")
    assert not (tmp_path / "state.json.tmp").exists()
    replace(path, make(2))
    wait_until(lambda: server.infer("m", row).array.flat[0] == 2, "the next push")
    assert server.infer("m", row).version == 3


@pytest.mark.any_device
def test_killed_while_it_serves(serve_again, repository, tmp_path):
    """The same weights have the same number again."""
    path = save(constant(0), place(repository, "m"))
    server = serve_again()
    for value in (1, 2):
        replace(path, constant(value))
        wait_until(lambda: server.infer("m", zeros(1)).array.flat[0] == value, "the swap")
    wait_until(lambda: saved_number(tmp_path) == 3, "the state to be saved")
    before = server.infer("m", zeros(1))
    for _ in range(2):
        server.signal(signal.SIGKILL)
        server.wait_exit()
        server = serve_again()
        answer = server.infer("m", zeros(1))
        assert (answer.version, answer.weights_id) == (before.version, before.weights_id)


@pytest.mark.any_device
@pytest.mark.parametrize("swap, words", [
    ("promotion: MANUAL", "version 2 is held until it is promoted"),
    ("canary { share: 0.01 seconds: 600 }", "version 2 answers a share of the batches"),
])
def test_killed_while_a_version_waits(serve_again, repository, tmp_path, swap, words):
    """Its file is the only one there is. What was on trial serves, as nothing else can; what was to
    be promoted by hand is still waited for."""
    path = save(constant(0), place(repository, "m"))
    path.with_name("config.pbtxt").write_text(f"swap {{ {swap} }}")
    server = serve_again()
    wait_until(lambda: saved_number(tmp_path) == 1, "the state to be saved")
    replace(path, constant(1))
    wait_until(lambda: words in server.log(), "version 2 to wait")
    server.signal(signal.SIGKILL)
    server.wait_exit()
    server = serve_again(wait_ready=False)
    if "MANUAL" in swap:
        wait_until(lambda: "is held until it is promoted" in server.log(), "a version to be held")
        assert not server.model_ready("m")
        server.admin("Promote", model="m")
    wait_until(server.is_ready, "the server to be ready")
    answer = server.infer("m", zeros(1))
    assert answer.version > 1 and answer.array.flat[0] == 1


@pytest.mark.any_device
def test_a_refused_file_is_known_after_a_restart(serve_again, repository, tmp_path):
    path = save(constant(0), place(repository, "m"))
    server = serve_again()
    replace(path, constant(float("nan")))
    wait_until(lambda: server.reason("m"), "the reason")
    refused = lambda: json.loads((tmp_path / "state.json").read_text())["models"]["m"]["refused"]
    wait_until(refused, "the state to be saved")
    server.signal(signal.SIGKILL)
    server.wait_exit()
    server = serve_again(wait_ready=False)
    wait_until(lambda: server.reason("m"), "the reason")
    assert "loading model.pth" not in server.log()
    replace(path, constant(1))
    wait_until(server.is_ready, "the repaired file to serve")
    answer = server.infer("m", zeros(1))
    assert (answer.version, answer.array.flat[0]) == (2, 1)


@pytest.mark.any_device
@pytest.mark.parametrize("text", ["", "{", '{"format": 2, "models": {}}', "\0" * 100])
def test_a_broken_state_file_is_left_alone(serve_again, repository, tmp_path, text):
    """The server serves, says so, and does not write over what it did not understand."""
    save(constant(0), place(repository, "m"))
    (tmp_path / "state.json").write_text(text)
    server = serve_again()
    assert server.infer("m", zeros(1)).version == 1
    assert "state.json" in server.log()
    assert (tmp_path / "state.json").read_text() == text
