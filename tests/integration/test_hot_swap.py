"""Weights that change while requests flow: nothing fails, nothing is mixed, nothing partial serves."""

import os
import shutil
import threading
import time

import checkpoints
import numpy as np
import pytest
from checkpoints import constant, constant_mlp, place, replace, save
from serving import holds_for, wait_until
from traffic import Traffic

MEGABYTE = 1 << 20


def zeros(rows):
    return np.zeros((rows, 4), np.float32)


def value_of(server, model="m"):
    """What a constant model answers now."""
    array = server.infer(model, zeros(1)).array
    assert np.all(array == array.flat[0])
    return array.flat[0]


def wait_value(server, value, model="m", patience=30):
    wait_until(lambda: value_of(server, model) == value, f"{model} to answer {value}", patience)


def copy_over(path, net, tmp_path):
    """A plain copy over the served file, as `cp` does it."""
    shutil.copyfile(save(net, tmp_path / ("new" + path.suffix)), path)


# Under load --------------------------------------------------------------------------------------

SWAPS = 60


def test_sixty_swaps_under_load(serve, repository, tmp_path):
    """Every other time renamed into place, else copied over; memory stays where it was."""
    width = 512
    path = save(constant_mlp(0, width), place(repository, "m"))
    server = serve()
    unready = []

    def watch_readiness(stop):
        while not stop.wait(0.02):
            if server.get("/v2/health/ready")[0] != 200:
                unready.append(time.monotonic())

    stop = threading.Event()
    watcher = threading.Thread(target=watch_readiness, args=(stop,))
    watcher.start()
    try:
        with Traffic(server, "m", lambda rows: np.ones((rows, width), np.float32)) as traffic:
            warm = None
            for swap in range(1, SWAPS + 1):
                if swap % 2:
                    replace(path, constant_mlp(swap, width))
                else:
                    copy_over(path, constant_mlp(swap, width), tmp_path)
                traffic.wait_for_output(swap)
                if swap == 15:
                    warm = server.rss_bytes()
            grown = server.rss_bytes() - warm
    finally:
        stop.set()
        watcher.join()

    values = traffic.check_constant_outputs()
    traffic.check_versions_only_rise()
    assert sorted(values.values()) == list(range(SWAPS + 1))
    assert [values[version] for version in sorted(values)] == sorted(values.values())
    assert not unready
    # A version has 3 MB of weights: had the last 45 stayed, it would be 135 MB. The threads of
    # simulated devices take memory of the process, too; theirs is counted in test_sim_devices.py.
    assert grown < (24 if server.sim is None else 90) * MEGABYTE, f"{grown / MEGABYTE:.0f} MB more after {SWAPS - 15} swaps"
    assert server.metric("sconce_loads_total", model="m", outcome="published") == SWAPS + 1
    assert server.metric("sconce_requests_total", model="m", code="OK") == server.metric(
        "sconce_requests_total", model="m")


@pytest.mark.parametrize("batch_limit", [1, 64], ids=["fixed-batch", "mixed-batches"])
def test_answers_are_one_versions_output(serve, repository, batch_limit):
    """Real weights. Where the batch is fixed, exactly; else far closer than versions are apart."""
    nets = [checkpoints.mlp((16, 64, 5), seed=seed) for seed in range(8)]
    path = save(nets[0], place(repository, "m"))
    path.with_name("config.pbtxt").write_text(f"max_batch_size: {batch_limit}\n")
    server = serve()
    rows = [1] if batch_limit == 1 else [1, 2, 3, 5]
    inputs = {count: checkpoints.random_images(count, 16, seed=count) for count in rows}
    expected = [
        {count: checkpoints.expected(net, inputs[count]) for count in rows} for net in nets]
    with Traffic(server, "m", inputs.__getitem__, rows=rows) as traffic:
        for number, net in enumerate(nets):
            if number:
                replace(path, net)
            wait_until(
                lambda: any(sample.version == number + 1 for sample in traffic.last()),
                f"version {number + 1}")
    traffic.check_versions_only_rise()
    samples = traffic.samples
    assert {sample.version for sample in samples} == set(range(1, len(nets) + 1))
    for sample in samples:
        want = expected[sample.version - 1][sample.rows]
        if batch_limit == 1:
            np.testing.assert_array_equal(sample.output, want)
        else:
            np.testing.assert_allclose(sample.output, want, atol=1e-5)
    apart = min(
        np.abs(one[1] - other[1]).max() for one, other in zip(expected, expected[1:]))
    assert apart > 100 * 1e-5


def test_swaps_of_two_models_do_not_touch_each_other(serve, repository):
    paths = {name: save(constant(0), place(repository, name)) for name in ("a", "b")}
    server = serve()
    with Traffic(server, "a", zeros, clients=2) as a, Traffic(server, "b", zeros, clients=2) as b:
        for swap in range(1, 11):
            replace(paths["a"], constant(swap))
            replace(paths["b"], constant(-swap))
            a.wait_for_output(swap)
            b.wait_for_output(-swap)
    for traffic, sign in ((a, 1), (b, -1)):
        values = traffic.check_constant_outputs()
        assert sorted(values.items()) == [(k + 1, sign * k) for k in range(11)]
        traffic.check_versions_only_rise()


def test_safetensors_are_swapped_too(serve, repository, tmp_path):
    path = save(constant(1), place(repository, "m", "model.safetensors"))
    server = serve()
    with Traffic(server, "m", zeros) as traffic:
        traffic.wait_for_output(1)
        copy_over(path, constant(2), tmp_path)
        traffic.wait_for_output(2)
        replace(path, constant(3))
        traffic.wait_for_output(3)
    assert traffic.check_constant_outputs() == {1: 1, 2: 2, 3: 3}


def test_equal_weights_have_an_equal_id_in_any_container(serve, repository):
    net = checkpoints.linear(4, 4)
    path = save(net, place(repository, "m"))
    save(net, place(repository, "same", "weights.safetensors"))
    server = serve()
    first = server.infer("m", zeros(1))
    assert server.infer("same", zeros(1)).weights_id == first.weights_id

    replace(path, constant(2))
    wait_until(lambda: server.infer("m", zeros(1)).version == 2, "version 2")
    replace(path, net)
    wait_until(lambda: server.infer("m", zeros(1)).version == 3, "version 3")
    assert server.infer("m", zeros(1)).weights_id == first.weights_id


# Files that are not (yet) what they should be ----------------------------------------------------


def broken_files(good):
    """Bytes of files that must never serve, by what is wrong with them."""
    torn = bytearray(good)
    torn[:64] = bytes(64)
    return {
        "empty": b"",
        "garbage": np.random.default_rng(0).bytes(len(good)),
        "zeros": bytes(len(good)),
        "truncated": good[: len(good) // 2],
        "one byte short": good[:-1],
        "text": b"<html>504 Gateway Time-out</html>",
        "torn head": bytes(torn),
    }


@pytest.mark.parametrize("container", ["model.pth", "model.safetensors"])
def test_broken_files_never_serve(serve, repository, tmp_path, container):
    """Each keeps the last good version serving, says why, and is followed by a repair."""
    path = save(constant(0), place(repository, "m", container))
    good = path.read_bytes()
    server = serve()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        for number, (what, data) in enumerate(broken_files(good).items()):
            path.write_bytes(data)
            wait_until(lambda: server.reason("m"), f"the reason why '{what}' is refused")
            assert container in server.reason("m"), what
            assert server.index()["m"].state == "READY"
            assert server.model_ready("m") and server.is_ready()
            assert value_of(server) == number
            copy_over(path, constant(number + 1), tmp_path)
            traffic.wait_for_output(number + 1)
            wait_until(lambda: not server.reason("m"), "the complaint to be taken back")
    values = traffic.check_constant_outputs()
    traffic.check_versions_only_rise()
    assert sorted(values.values()) == list(range(len(broken_files(good)) + 1))


@pytest.mark.parametrize("container", ["model.pth", "model.safetensors"])
def test_a_slow_copy_serves_when_it_is_whole(serve, repository, tmp_path, container):
    """Pauses longer than the settling time: only the structure tells that it is not all there."""
    path = save(constant_mlp(1, 128), place(repository, "m", container))
    new = save(constant_mlp(2, 128), tmp_path / container).read_bytes()
    server = serve("--settle-time", "0.05", "--poll-interval", "0.05", quick=False)
    ones = lambda rows: np.ones((rows, 128), np.float32)
    with Traffic(server, "m", ones, clients=2) as traffic:
        traffic.wait_for_output(1)
        with open(path, "wb", buffering=0) as file:
            step = len(new) // 6 + 1
            for start in range(0, len(new), step):
                file.write(new[start : start + step])
                if start + step < len(new):
                    holds_for(
                        0.25, lambda: all(s.version == 1 for s in traffic.last()),
                        "a partial file was served")
        traffic.wait_for_output(2)
    assert traffic.check_constant_outputs() == {1: 1, 2: 2}


def test_a_copy_that_never_pauses_waits_for_its_end(serve, repository, tmp_path):
    """Written over in place, size unchanged: while it changes it is not read."""
    path = save(constant_mlp(1, 128), place(repository, "m"))
    new = save(constant_mlp(2, 128), tmp_path / "model.pth").read_bytes()
    assert len(new) == path.stat().st_size
    server = serve("--settle-time", "0.5", "--poll-interval", "0.05", quick=False)
    ones = lambda rows: np.ones((rows, 128), np.float32)
    with Traffic(server, "m", ones, clients=2) as traffic:
        traffic.wait_for_output(1)
        with open(path, "r+b", buffering=0) as file:
            for start in range(0, len(new), len(new) // 40 + 1):
                file.write(new[start : start + len(new) // 40 + 1])
                time.sleep(0.05)
        traffic.wait_for_output(2)
    # Nothing but the two whole files ever answered.
    assert traffic.check_constant_outputs() == {1: 1, 2: 2}


@pytest.mark.parametrize(
    "what,net,words",
    [
        ("more classes", lambda: constant(9, 4, 7), ["out_features=4", "out_features=7"]),
        ("another network", lambda: checkpoints.mlp((4, 8, 8, 4)), ["linear", "mlp"]),
        ("a key too many", lambda: {**constant(9).state_dict(), "extra.weight": zeros_tensor(3)},
         ["extra"]),
        ("a key too few", lambda: {"bias": zeros_tensor(4)}, ["weight"]),
        ("no tensors", lambda: {}, []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_that_do_not_fit_never_serve(serve, repository, what, net, words):
    path = save(constant(1), place(repository, "m"))
    server = serve()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        traffic.wait_for_output(1)
        replace(path, net())
        reason = wait_until(lambda: server.reason("m"), "the reason")
        for word in words:
            assert word in reason
        assert server.model_ready("m") and server.is_ready()
        replace(path, constant(2))
        traffic.wait_for_output(2)
    assert traffic.check_constant_outputs() == {1: 1, 2: 2}


def zeros_tensor(*shape):
    import torch

    return torch.zeros(*shape)


def test_a_model_that_never_was_good_does_not_make_the_server_unready_later(serve, repository):
    save(constant(1), place(repository, "m"))
    server = serve()
    place(repository, "bad").write_bytes(b"no weights at all")
    reason = wait_until(lambda: server.reason("bad"), "the reason")
    assert "model.pth" in reason
    assert server.is_ready()
    assert not server.model_ready("bad")
    assert value_of(server) == 1
    replace(repository / "bad" / "model.pth", constant(5))
    wait_until(lambda: server.model_ready("bad"), "the repaired model")
    assert value_of(server, "bad") == 5


def test_a_bad_model_at_the_start_keeps_the_server_unready_and_others_serving(serve, repository):
    save(constant(1), place(repository, "m"))
    place(repository, "bad").write_bytes(b"no weights at all")
    server = serve(wait_ready=False)
    server.wait_model("m")
    assert value_of(server) == 1
    wait_until(lambda: server.reason("bad"), "the reason")
    assert not server.is_ready()
    assert server.get("/v2/health/live")[0] == 200
    replace(repository / "bad" / "model.pth", constant(5))
    wait_until(server.is_ready, "the server to be ready after the repair")


def test_a_bad_model_does_not_delay_another(serve, repository):
    """One folder changes all the time and is never right; the other swaps as fast as alone."""
    path = save(constant(0), place(repository, "m"))
    bad = place(repository, "bad")
    bad.write_bytes(b"no weights at all")
    server = serve(wait_ready=False)
    server.wait_model("m")
    stop = threading.Event()

    def spoil():
        turn = 0
        while not stop.wait(0.15):
            turn += 1
            bad.write_bytes(b"still no weights" * turn)

    spoiler = threading.Thread(target=spoil)
    spoiler.start()
    try:
        with Traffic(server, "m", zeros, clients=2) as traffic:
            for swap in range(1, 11):
                began = time.monotonic()
                replace(path, constant(swap))
                traffic.wait_for_output(swap)
                assert time.monotonic() - began < 5
    finally:
        stop.set()
        spoiler.join()


def test_what_is_no_file_is_refused(serve, repository):
    path = save(constant(1), place(repository, "m"))
    server = serve()
    path.unlink()
    os.mkfifo(path)
    reason = wait_until(lambda: server.reason("m"), "the reason")
    assert "model.pth" in reason
    assert value_of(server) == 1
    path.unlink()
    save(constant(2), path)
    wait_value(server, 2)


def test_a_removed_file_leaves_the_model_serving(serve, repository):
    path = save(constant(1), place(repository, "m"))
    server = serve()
    path.unlink()
    wait_until(lambda: server.reason("m"), "the reason")
    assert value_of(server) == 1
    save(constant(2), path)
    wait_value(server, 2)


def test_two_weights_files_are_refused_until_one_goes(serve, repository):
    path = save(constant(1), place(repository, "m"))
    server = serve()
    save(constant(2), path.with_name("model.safetensors"))
    reason = wait_until(lambda: server.reason("m"), "the reason")
    assert "model.pth" in reason and "model.safetensors" in reason
    assert value_of(server) == 1
    path.unlink()
    wait_value(server, 2)


# Links -------------------------------------------------------------------------------------------


def write_config_map(volume, number, net):
    """What kubelet's AtomicWriter does: a new folder, then `..data` renamed over to it."""
    folder = volume / f"..2026_01_01_{number:03}"
    folder.mkdir()
    save(net, folder / "model.pth")
    link = volume / "..data_tmp"
    link.symlink_to(folder.name)
    os.replace(link, volume / "..data")
    for old in volume.glob("..2026_*"):
        if old != folder:
            shutil.rmtree(old)


def test_swap_as_a_config_map_does(serve, repository):
    volume = place(repository, "m").parent
    write_config_map(volume, 0, constant(0))
    (volume / "model.pth").symlink_to("..data/model.pth")
    server = serve()
    with Traffic(server, "m", zeros) as traffic:
        for swap in range(1, 11):
            write_config_map(volume, swap, constant(swap))
            traffic.wait_for_output(swap)
    assert sorted(traffic.check_constant_outputs().values()) == list(range(11))
    traffic.check_versions_only_rise()


def test_swap_of_a_link_to_the_folder(serve, repository, tmp_path):
    for number in (1, 2):
        save(constant(number), place(tmp_path / "releases", str(number)))
    (repository / "m").symlink_to(tmp_path / "releases" / "1")
    server = serve()
    assert value_of(server) == 1
    (tmp_path / "link").symlink_to(tmp_path / "releases" / "2")
    os.replace(tmp_path / "link", repository / "m")
    wait_value(server, 2)


# Models that come and go -------------------------------------------------------------------------


def test_models_are_added_and_removed_while_it_runs(serve, repository):
    save(constant(1), place(repository, "first"))
    server = serve()
    with Traffic(server, "first", zeros, clients=2) as traffic:
        traffic.wait_for_output(1)
        for number in range(5):
            name = f"extra{number}"
            save(constant(number), place(repository, name))
            server.wait_model(name)
            assert value_of(server, name) == number
        assert len(server.index()) == 6
        for number in range(5):
            shutil.rmtree(repository / f"extra{number}")
        wait_until(lambda: sorted(server.index()) == ["first"], "the removed models to be gone")
        assert server.is_ready()


def test_a_repository_may_be_empty_at_first(serve, repository):
    server = serve()
    save(constant(3), place(repository, "m"))
    server.wait_model("m")
    assert value_of(server) == 3


def test_a_link_to_a_file_elsewhere_is_followed(serve, repository, tmp_path):
    target = save(constant(1), place(tmp_path, "elsewhere"))
    place(repository, "m").symlink_to(target)
    server = serve()
    assert value_of(server) == 1
    replace(target, constant(2))
    wait_value(server, 2)
