"""What a volume does under a watcher: every way in which files change there is seen, once by inotify
alone, which makes it sooner, and once by looking alone, which loses nothing."""

import contextlib
import os
import shutil
import subprocess
import time

import numpy as np
import pytest
from checkpoints import constant, place, replace, save
from file_faults import FileFaults
from serving import BINARY, DEVICE, SIM_BINARY, wait_until
from traffic import Traffic

pytestmark = pytest.mark.any_device

DAY = 24 * 3600


def zeros(rows):
    return np.zeros((rows, 4), np.float32)


@pytest.fixture
def faults(tmp_path):
    return FileFaults(tmp_path)


@pytest.fixture(params=["inotify", "polling"])
def serve_watched(request, serve, faults):
    """A server that is told of changes by inotify alone, or that looks and is told of nothing."""

    def start(**options):
        if request.param == "inotify":
            return serve("--poll-interval", "600", "--settle-time", "0.1", quick=False, **options)
        rules.enter_context(faults.rule("inotify_init", "*", "fail", 24))
        server = serve(env=faults.environment, **options)
        assert "without inotify: Too many open files" in server.log()
        return server

    with contextlib.ExitStack() as rules:
        yield start


# How a file is replaced --------------------------------------------------------------------------


def renamed(path, net):
    replace(path, net)


def copied(path, net):
    """As `cp` does it: the file is cut off first, and written in place."""
    fresh = save(net, path.with_name(".fresh.pth"))
    shutil.copyfile(fresh, path)


def copied_slowly(path, net):
    """With pauses, closed after each: seen half-written, and longer than the settling time."""
    data = save(net, path.with_name(".fresh.pth")).read_bytes()
    path.write_bytes(b"")
    for start in range(0, len(data), len(data) // 3):
        time.sleep(0.25)
        with open(path, "ab") as file:
            file.write(data[start:start + len(data) // 3])


def written_in_place(path, net):
    """Not cut off: the size stays, the bytes change."""
    data = save(net, path.with_name(".fresh.pth")).read_bytes()
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def removed_first(path, net):
    path.unlink()
    time.sleep(0.2)
    save(net, path)


@pytest.mark.parametrize(
    "change", [renamed, copied, copied_slowly, written_in_place, removed_first],
    ids=lambda change: change.__name__)
def test_a_file_that_is_replaced(serve_watched, repository, change):
    path = save(constant(0), place(repository, "m"))
    server = serve_watched()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        for value in (1, 2, 3):
            change(path, constant(value))
            traffic.wait_for_output(value)
    traffic.check_versions_only_rise()
    assert sorted(traffic.check_constant_outputs().values()) == [0, 1, 2, 3]


def test_times_of_long_ago_and_yet_to_come(serve_watched, repository):
    """A copy that keeps the times of the original, and clocks that are wrong."""
    path = save(constant(0), place(repository, "m"))
    server = serve_watched()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        for value, when in ((1, 1), (2, time.time() + 10 * 365 * DAY), (3, -DAY), (4, 1)):
            fresh = save(constant(value), path.with_name(".fresh.pth"))
            os.utime(fresh, (when, when))
            os.replace(fresh, path)
            traffic.wait_for_output(value)
    traffic.check_versions_only_rise()


def test_equal_size_and_time_in_another_file(serve_watched, repository, tmp_path):
    """Only the inode tells."""
    path = save(constant(0), place(repository, "m"))
    os.utime(path, (1e9, 1e9))
    server = serve_watched()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        for value in (1, 2):
            size = path.stat().st_size
            fresh = save(constant(value), place(tmp_path, f"fresh{value}"))
            os.utime(fresh, (1e9, 1e9))
            assert fresh.stat().st_size == size
            os.replace(fresh, path)
            traffic.wait_for_output(value)


# Kubernetes' volumes -----------------------------------------------------------------------------


class AtomicWriter:
    """Writes a volume in the steps of kubelet's AtomicWriter."""

    def __init__(self, volume):
        self.volume, self.count = volume, 0
        volume.mkdir(parents=True, exist_ok=True)

    def write(self, links_first=False, **nets):
        """One payload, a file of weights for each name."""
        self.count += 1
        before = self.volume / "..data"
        old = before.resolve() if before.is_symlink() else None
        folder = self.volume / f"..2026_01_01_00_00_00.{self.count:09}"
        folder.mkdir(mode=0o755)
        for name, net in nets.items():
            save(net, folder / f"{name}.pth")
        if links_first:
            self._link(nets)
            time.sleep(0.3)
        beside = self.volume / "..data_tmp"
        beside.symlink_to(folder.name)
        os.replace(beside, before)
        self._link(nets)
        for link in self.volume.glob("[!.]*"):
            if link.is_symlink() and link.stem not in nets:
                link.unlink()
        if old is not None:
            shutil.rmtree(old)

    def _link(self, names):
        for name in names:
            link = self.volume / f"{name}.pth"
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}.pth")


def test_a_config_map_is_flipped(serve_watched, repository):
    """Each flip takes the watched folder of the one before away: the next must be seen, too."""
    volume = AtomicWriter(repository / "m")
    volume.write(model=constant(0))
    server = serve_watched()
    with Traffic(server, "m", zeros) as traffic:
        for value in range(1, 6):
            volume.write(model=constant(value))
            traffic.wait_for_output(value)
    traffic.check_versions_only_rise()
    assert sorted(traffic.check_constant_outputs().values()) == list(range(6))


def test_a_config_maps_links_may_be_there_before_what_they_lead_to(serve_watched, repository):
    volume = AtomicWriter(repository / "m")
    server = serve_watched(wait_ready=False)
    volume.write(model=constant(1), links_first=True)
    server.wait_model("m")
    wait_until(server.is_ready, "the server to be ready")
    with Traffic(server, "m", zeros, clients=2) as traffic:
        # The name changes with the flip: for a moment there are two links, one leading nowhere.
        volume.write(other=constant(2), links_first=True)
        traffic.wait_for_output(2)


def test_a_config_map_that_is_the_whole_repository(serve_watched, repository, tmp_path):
    """A projected volume: the models' folders themselves are links through `..data`."""
    for number in (1, 2):
        for model in ("a", "b"):
            save(constant(number), place(repository / f"..{number}", model))
    (repository / "..data").symlink_to("..1")
    for model in ("a", "b"):
        (repository / model).symlink_to(f"..data/{model}")
    server = serve_watched()
    with Traffic(server, "a", zeros, clients=2) as a, Traffic(server, "b", zeros, clients=2) as b:
        (repository / "..data_tmp").symlink_to("..2")
        os.replace(repository / "..data_tmp", repository / "..data")
        shutil.rmtree(repository / "..1")
        a.wait_for_output(2)
        b.wait_for_output(2)
    assert set(server.index()) == {"a", "b"}


# Links -------------------------------------------------------------------------------------------


def replace_link(link, target):
    beside = link.with_name(".link")
    beside.symlink_to(target)
    os.replace(beside, link)


@pytest.mark.parametrize("of", ["file", "folder"])
def test_a_link_is_replaced(serve_watched, repository, tmp_path, of):
    files = [save(constant(value), place(tmp_path / "releases", str(value))) for value in range(4)]
    targets = files if of == "file" else [path.parent for path in files]
    link = place(repository, "m") if of == "file" else repository / "m"
    link.symlink_to(targets[0])
    server = serve_watched()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        for value in (1, 2, 3):
            replace_link(link, targets[value])
            traffic.wait_for_output(value)
    traffic.check_versions_only_rise()


def test_a_link_in_the_middle_of_a_chain_is_replaced(serve, repository, tmp_path):
    """m -> current -> releases/N: nothing lies there that inotify would watch; looking finds it."""
    targets = [save(constant(value), place(tmp_path / "releases", str(value))).parent
               for value in range(3)]
    current = tmp_path / "current"
    current.symlink_to(targets[0])
    (repository / "m").symlink_to(current)
    server = serve()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        for value in (1, 2):
            replace_link(current, targets[value])
            traffic.wait_for_output(value)
    traffic.check_versions_only_rise()


def test_a_file_behind_a_link_is_replaced_where_it_lies(serve_watched, repository, tmp_path):
    target = save(constant(0), place(tmp_path, "elsewhere"))
    place(repository, "m").symlink_to(target)
    server = serve_watched()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        replace(target, constant(1))
        traffic.wait_for_output(1)
        copied(target, constant(2))
        traffic.wait_for_output(2)


# Folders that come late --------------------------------------------------------------------------


def test_a_model_appears_after_the_start(serve_watched, repository, tmp_path):
    server = serve_watched()
    save(constant(1), place(tmp_path, "m"))
    os.rename(tmp_path / "m", repository / "m")
    server.wait_model("m")
    assert server.infer("m", zeros(1)).array.flat[0] == 1


def test_weights_come_long_after_their_folder(serve_watched, repository):
    (repository / "m").mkdir()
    server = serve_watched(wait_ready=False)
    wait_until(lambda: "no weights file yet" in server.reason("m"), "the reason")
    assert not server.model_ready("m")
    save(constant(1), repository / "m" / "model.pth")
    wait_until(server.is_ready, "the server to be ready")


def test_a_link_whose_folder_is_mounted_late(serve, repository, tmp_path):
    """As a model car of KServe: a link into another process's root, which is there later."""
    save(constant(1), place(tmp_path / "car", "m"))
    late = tmp_path / "late"
    (repository / "m").symlink_to(late)
    server = serve(wait_ready=False)
    wait_until(lambda: server.reason("m"), "a reason")
    assert not server.model_ready("m")
    with subprocess.Popen(["sleep", "600"]) as car:
        try:
            late.symlink_to(f"/proc/{car.pid}/root{tmp_path}/car/m")
            wait_until(server.is_ready, "the server to be ready")
            with Traffic(server, "m", zeros, clients=2) as traffic:
                traffic.wait_for_output(1)
                replace(tmp_path / "car" / "m" / "model.pth", constant(2))
                traffic.wait_for_output(2)
                # The other container restarts: its root is gone, and comes back elsewhere.
                car.kill()
                car.wait()
                wait_until(lambda: server.reason("m"), "the reason")
                assert server.is_ready()
                save(constant(3), tmp_path / "car" / "m" / "model.pth")
                late.unlink()
                late.symlink_to(f"/proc/self/root{tmp_path}/car/m")
                traffic.wait_for_output(3)
            traffic.check_versions_only_rise()
        finally:
            car.kill()


# Mounts ------------------------------------------------------------------------------------------


@pytest.fixture
def serve_mounted(serve, tmp_path):
    """A server that sees `source` at `target` by a mount of its own, as a subPath is mounted."""

    def start(source, target):
        for how in (["unshare", "-m"], ["unshare", "-rm"]):
            probe = subprocess.run(
                [*how, "mount", "--bind", str(source), str(target)], capture_output=True, text=True)
            if probe.returncode == 0:
                break
        else:
            pytest.skip(f"no mount of one's own is allowed here: {probe.stderr.strip()}")
        binary = SIM_BINARY if DEVICE.startswith("sim") else BINARY
        script = tmp_path / "mounted"
        script.write_text(
            f"#!/bin/sh\nexec {' '.join(how)} sh -c 'mount --bind \"$0\" \"$1\" && shift && exec "
            f"{binary} \"$@\"' '{source}' '{target}' \"$@\"\n")
        script.chmod(0o755)
        return serve(binary=script)

    return start


def test_entries_in_a_mounted_folder_are_replaced(serve_mounted, repository, tmp_path):
    """A folder of a volume by subPath, as KServe mounts pvc://: what changes inside it is seen."""
    path = save(constant(0), place(tmp_path / "volume" / "models", "m"))
    (repository / "m").mkdir()
    server = serve_mounted(path.parent, repository / "m")
    with Traffic(server, "m", zeros, clients=2) as traffic:
        replace(path, constant(1))
        traffic.wait_for_output(1)
        copied(path, constant(2))
        traffic.wait_for_output(2)
    traffic.check_versions_only_rise()


def test_a_file_that_is_mounted_alone_is_its_inode(serve_mounted, repository, tmp_path):
    """A file by subPath: what is renamed over it in the volume never arrives, as in Kubernetes; what
    is written into it does. Neither disturbs what serves."""
    path = save(constant(0), place(tmp_path, "volume"))
    target = place(repository, "m")
    target.touch()
    server = serve_mounted(path, target)
    with Traffic(server, "m", zeros, clients=2) as traffic:
        copied(path, constant(1))
        traffic.wait_for_output(1)
        # Seen by the server is another model by now, so that it has looked since.
        replace(path, constant(2))
        save(constant(5), place(repository, "other"))
        server.wait_model("other")
        assert server.infer("m", zeros(1)).array.flat[0] == 1
        assert server.reason("m") == ""
    assert set(traffic.check_constant_outputs().values()) == {0, 1}


# Without inotify ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call, error, words", [
    ("inotify_init", 24, "Too many open files"),  # EMFILE: fs.inotify.max_user_instances
    ("inotify_init", 38, "Function not implemented"),
    ("inotify_add_watch", 28, "the limit fs.inotify.max_user_watches is reached"),
    ("inotify_add_watch", 12, "Cannot allocate memory"),
])
def test_a_limit_of_inotify_costs_time_alone(serve, repository, faults, call, error, words):
    path = save(constant(0), place(repository, "m"))
    with faults.rule(call, "*", "fail", error) as met:
        server = serve(env=faults.environment)
        met.wait()
        assert f"polled every 0.05 s without inotify: {words}" in server.log()
        with Traffic(server, "m", zeros, clients=2) as traffic:
            for value in (1, 2):
                replace(path, constant(value))
                traffic.wait_for_output(value)
        assert server.log().count("without inotify") == 1


def test_the_limit_is_reached_while_it_runs(serve, repository, faults):
    """Those watches that are there are given up, too: half of them would be no rule to rely on."""
    path = save(constant(0), place(repository, "m"))
    server = serve(env=faults.environment)
    with Traffic(server, "m", zeros, clients=2) as traffic:
        with faults.rule("inotify_add_watch", "*/other", "fail", 28) as met:
            save(constant(1), place(repository, "other"))
            met.wait()
            server.wait_model("other")
        wait_until(lambda: "max_user_watches is reached" in server.log(), "the warning")
        replace(path, constant(1))
        traffic.wait_for_output(1)


def test_a_folder_that_cannot_be_watched_is_looked_at(serve, repository, faults):
    """A file system that refuses it, one among others that do not."""
    path = save(constant(0), place(repository, "m"))
    with faults.rule("inotify_add_watch", "*/m", "fail", 22) as met:
        server = serve(env=faults.environment)
        met.wait()
        with Traffic(server, "m", zeros, clients=2) as traffic:
            replace(path, constant(1))
            traffic.wait_for_output(1)
        assert "without inotify" not in server.log()


def test_a_watch_on_what_is_gone_is_no_trouble(serve_watched, repository, tmp_path):
    """IN_DELETE_SELF and IN_MOVE_SELF of watched folders, and others under the same name."""
    path = save(constant(0), place(repository, "m"))
    server = serve_watched()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        for value in (1, 2, 3):
            fresh = save(constant(value), place(tmp_path / f"fresh{value}", "m")).parent
            os.rename(repository / "m", tmp_path / f"old{value}")
            os.rename(fresh, repository / "m")
            traffic.wait_for_output(value)
            copied(path, constant(value + 10))
            traffic.wait_for_output(value + 10)
    traffic.check_versions_only_rise()
