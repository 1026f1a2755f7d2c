"""What users of other servers suffer when weights change, shown not to happen here. The table in
docs/hot-swap.md says which test belongs to which complaint."""

import os
import pathlib
import re
import shutil
import time

import checkpoints
import grpc
import numpy as np
import pytest
import torch
from checkpoints import constant, constant_mlp, place, replace, save
from serving import DEVICE, SIM_BINARY, Server, holds_for, request, wait_until
from torch import nn
from traffic import Traffic

MEGABYTE = 1 << 20
NOTICE = 0.5  # longer than Server.QUICK needs to notice a change and load it


def zeros(rows):
    return np.zeros((rows, 4), np.float32)


def ones(rows):
    return np.ones((rows, 4), np.float32)


def wide(width):
    return lambda rows: np.ones((rows, width), np.float32)


def value_of(server, model="m", width=4, **options):
    array = server.infer(model, np.zeros((1, width), np.float32), **options).array
    assert np.all(array == array.flat[0])
    return array.flat[0]


def wait_value(server, value, model="m", width=4):
    wait_until(lambda: value_of(server, model, width) == value, f"{model} to answer {value}", 30)


def stays(server, value, model="m", width=4, seconds=NOTICE):
    holds_for(seconds, lambda: value_of(server, model, width) == value,
              f"{model} answers something else than {value}")


def configure(repository, text, model="m"):
    place(repository, model, "config.pbtxt").write_text(text + "\n")


def loads(server, outcome, model="m"):
    return server.metric("sconce_loads_total", model=model, outcome=outcome)


def weight_bytes(server, source, model="m"):
    return server.metric("sconce_load_weight_bytes_total", model=model, source=source)


def refused(call):
    """(code, message) of a call that must fail."""
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return failure.value.code(), failure.value.details()


def states(server, model="m"):
    """{number: state} of the versions that the admin service tells of."""
    (status,) = server.admin("Status", model=model).models
    return {version.number: version.state for version in status.versions}


def backbone(value, width=512, depth=3, seed=0):
    """A constant network on a backbone that is the same for each value."""
    torch.manual_seed(seed)
    return constant_mlp(value, width, depth)


def bytes_of(net):
    return sum(4 * tensor.numel() for tensor in net.state_dict().values())


def golden(repository, inputs, outputs, model="m", name="sample.safetensors"):
    """A sample beside the model: a batch, and what it must be answered with."""
    path = place(repository, model) .parent / "golden" / name
    path.parent.mkdir(exist_ok=True)
    save({"input": torch.as_tensor(inputs), "output": torch.as_tensor(outputs)}, path)
    return path


def cpu_seconds(server):
    fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# While a file is loaded --------------------------------------------------------------------------


@pytest.mark.any_device
def test_requests_are_answered_while_another_model_loads(serve, repository):
    """A load of 64 MB takes the loader's time and not that of the others."""
    width = 2048
    save(constant(1), place(repository, "tiny"))
    configure(repository, "max_batch_size: 1", "big")
    big = save(constant_mlp(0, width, depth=4), place(repository, "big"))
    server = serve()
    windows = []
    with Traffic(server, "tiny", zeros, clients=2, rows=(1,)) as traffic:
        traffic.wait_for_output(1)
        for swap in range(1, 6):
            new = save(constant_mlp(swap, width, depth=4), big.with_name(".next.pth"))
            published = loads(server, "published", "big")
            quiet = time.monotonic()
            time.sleep(0.3)  # to be compared with, not to wait for anything
            began = time.monotonic()
            os.replace(new, big)
            wait_until(lambda: loads(server, "published", "big") > published, "the swap")
            windows.append((quiet, began, time.monotonic()))
    traffic.check_constant_outputs()
    moments = np.array([sample.when for sample in traffic.samples])

    def rate(spans):
        count = sum(((moments >= since) & (moments < until)).sum() for since, until in spans)
        return count / sum(until - since for since, until in spans)

    outside = rate([(quiet, began) for quiet, began, _ in windows])
    inside = rate([(began, ended) for _, began, ended in windows])
    assert inside > outside / 4, f"{inside:.0f} answers a second in a load, {outside:.0f} without"
    for _, began, ended in windows:
        answered = np.sort(moments[(moments >= began) & (moments < ended)])
        gaps = np.diff(np.concatenate([[began], answered, [ended]]))
        assert gaps.max() < 2, "nobody was answered for two seconds of a load"


def test_a_refused_file_is_not_read_again_until_it_changes(serve, repository):
    path = save(constant(1), place(repository, "m"))
    server = serve()
    path.write_bytes(b"these are no weights")
    wait_until(lambda: loads(server, "rejected") == 1, "the refusal")
    holds_for(1, lambda: loads(server, "rejected") == 1 and loads(server, "retrying") == 0,
              "the same file was tried again")
    path.write_bytes(b"these are no weights either")
    wait_until(lambda: loads(server, "rejected") == 2, "the refusal of the other file")


def test_readiness_does_not_flap_under_failed_pushes(serve, repository):
    path = save(constant(1), place(repository, "m"))
    server = serve()
    with server.client() as client:
        for push in range(6):
            rejected = loads(server, "rejected")
            if push % 2:
                path.write_bytes(b"no weights" * (push + 1))
            else:
                save(checkpoints.mlp((4, 8, 8, 4), seed=push), path)

            def refused_and_ready():
                assert server.is_ready() and client.is_model_ready("m")
                return loads(server, "rejected") > rejected

            wait_until(refused_and_ready, "the refusal")
    assert value_of(server) == 1


# Many swaps --------------------------------------------------------------------------------------

# A swap runs batches of every size; simulated devices take long for that.
SWAPS = 500 if DEVICE == "cpu" else 120
REQUESTS = 1500


class Swapped:
    """A server before and after many swaps, forced ones, since those wait for nothing."""

    def __init__(self, repository):
        path = save(backbone(0, 64, 2), place(repository, "m"))
        configure(repository, "max_batch_size: 4")
        self.server = server = Server(repository)
        batch = np.zeros((1, 64), np.float32)
        message = request("m", batch)

        def cost():
            """Processor time of the server for a request, when least else was going on."""
            found = []
            for _ in range(REQUESTS // 300):
                began = cpu_seconds(server)
                for _ in range(300):
                    server.stub.ModelInfer(message, timeout=30)
                found.append((cpu_seconds(server) - began) / 300)
            return min(found)

        def statistics():
            return server.client().get_inference_statistics("m").model_stats

        def swap(value):
            replace(path, backbone(value, 64, 2))
            server.load("m")
            assert server.infer("m", batch).array[0, 0] == value

        for value in range(1, 41):
            swap(value)
        self.cost_before, self.rss_before = cost(), server.rss_bytes()
        self.series_before = self.series()
        self.requests_before = server.metric("sconce_requests_total", model="m", code="OK")
        self.statistics_before = statistics()
        self.sim_before = server.sim and server.sim.live_bytes()
        for value in range(41, SWAPS + 1):
            swap(value)
        self.cost_after, self.rss_after = cost(), server.rss_bytes()
        self.series_after = self.series()
        self.requests_after = server.metric("sconce_requests_total", model="m", code="OK")
        self.statistics_after = statistics()
        self.sim_after = server.sim and server.sim.live_bytes()

    def series(self):
        """How many series there are, and how many name a version."""
        lines = [line for line in self.server.get("/metrics")[1].splitlines() if line[0] != "#"]
        return len(lines), sum('version="' in line for line in lines)


@pytest.fixture(scope="module")
def swapped(shared_repository):
    world = Swapped(shared_repository)
    yield world
    problem = world.server.finish()
    assert not problem, problem


# The threads of simulated devices take more of it than a request does, now more and now less.
@pytest.mark.any_device
def test_a_request_costs_no_more_after_many_swaps(swapped):
    assert swapped.cost_after < 2 * swapped.cost_before, (
        f"{1e6 * swapped.cost_before:.0f} us before, {1e6 * swapped.cost_after:.0f} us after")


def test_load_over_load_does_not_leak(swapped):
    grown = swapped.rss_after - swapped.rss_before
    assert grown < 16 * MEGABYTE, f"{grown / MEGABYTE:.1f} MB more after {SWAPS - 40} swaps"
    assert swapped.sim_after == swapped.sim_before


def test_series_are_bounded_after_many_swaps(swapped):
    assert swapped.series_after == swapped.series_before
    assert swapped.series_after[1] <= 3


def test_counters_and_statistics_go_on_across_swaps(swapped):
    between = SWAPS - 40 + REQUESTS
    assert swapped.requests_after == swapped.requests_before + between
    # The folder's watcher may come before a forced load.
    assert loads(swapped.server, "published") >= SWAPS + 1

    def inferences(statistics):
        return sum(entry.inference_count for entry in statistics)

    assert inferences(swapped.statistics_after) == inferences(swapped.statistics_before) + between
    assert len(swapped.statistics_after) == len(swapped.statistics_before)


# Memory ------------------------------------------------------------------------------------------


def test_unload_gives_memory_back(serve, repository):
    width = 2048  # 64 MB
    net = constant_mlp(1, width, depth=4)
    save(net, place(repository, "m"))
    configure(repository, "max_batch_size: 1")
    save(constant(1), place(repository, "other"))
    server = serve()
    with_it = server.rss_bytes(), server.sim and server.sim.live_bytes()
    server.unload("m")
    if server.sim is None:
        wait_until(lambda: server.rss_bytes() < with_it[0] - 0.8 * bytes_of(net),
                   "the memory of the process to shrink", 10)
    else:
        for device in range(2):
            wait_until(
                lambda: server.sim.live_bytes()[device] < with_it[1][device] - bytes_of(net) + 1,
                "the device's memory to be free", 10)
    assert value_of(server, "other") == 1


def test_a_changed_head_costs_its_own_bytes(serve, repository):
    width = 1024
    net = backbone(1, width)
    path = save(net, place(repository, "m"))
    server = serve()
    read = weight_bytes(server, "read")
    assert bytes_of(net) <= read < 1.001 * bytes_of(net)
    live = server.sim and server.sim.live_bytes()
    replace(path, backbone(2, width))
    wait_value(server, 2, width=width)
    # The head's weights are zeros as before; its bias is not.
    assert 16 <= weight_bytes(server, "read") - read <= 1024
    assert weight_bytes(server, "shared") >= bytes_of(net) - 1024
    if server.sim is not None:
        for before, after in zip(live[:2], server.sim.live_bytes()):
            assert after - before < bytes_of(net) / 2


def test_two_models_share_a_backbone(serve, repository):
    width = 1024
    save(backbone(1, width), place(repository, "a"))
    server = serve()
    live = server.sim and server.sim.live_bytes()
    save(backbone(2, width), place(repository, "b", "model.safetensors"))
    server.wait_model("b")
    size = bytes_of(backbone(0, width))
    assert weight_bytes(server, "shared", "b") > 0.99 * size
    assert weight_bytes(server, "read", "b") < 0.01 * size
    if server.sim is not None:
        for before, after in zip(live[:2], server.sim.live_bytes()):
            assert after - before < size / 2
    # What one of them does leaves the other alone.
    shutil.rmtree(repository / "a")
    wait_until(lambda: "a" not in server.index(), "the model to be gone")
    assert value_of(server, "b", width) == 2
    server.unload("b")
    if server.sim is not None:
        wait_until(lambda: max(server.sim.live_bytes()[:2]) < size / 2, "the memory to be free")


def test_a_load_that_does_not_fit_is_refused_before_it_is_read(serve, repository):
    """The message names the bytes that are needed and those that are free."""
    width = 1024
    net = backbone(1, width)
    path = save(net, place(repository, "m"))
    configure(repository, f"max_batch_size: 1 device_memory_cap_bytes: {bytes_of(net) * 3 // 2} "
                          "swap { retain_versions: 0 }")
    server = serve()
    # The version that is to come would need more than the cap allows beside what is there.
    read = weight_bytes(server, "read")
    replace(path, nn.Sequential(*list(backbone(2, width, depth=6, seed=1))))
    wait_until(lambda: loads(server, "no_memory") + loads(server, "rejected") > 0, "the refusal")
    reason = wait_until(lambda: server.reason("m"), "the reason")
    assert len(re.findall(r"\d{7,}", reason)) >= 2, reason
    assert weight_bytes(server, "read") == read
    assert value_of(server, width=width) == 1 and server.is_ready()


@pytest.fixture
def small_devices(serve):
    """small_devices(bytes, ...) starts a server on two simulated devices of so much memory."""

    def start(memory, *flags, **options):
        return serve(*flags, device="sim", binary=SIM_BINARY, env={
            "SCONCE_SIM_MEMORY": f"{memory},{memory}", "SCONCE_SIM_GRAPHS": "0"}, **options)

    return start


@pytest.mark.any_device
def test_a_swap_without_memory_waits_and_says_so(small_devices, repository):
    """4 MB of weights on devices of 6: two versions do not fit, one does."""
    width = 1024
    path = save(constant_mlp(1, width, depth=1), place(repository, "m"))
    configure(repository, "max_batch_size: 1")
    server = small_devices(6 * MEGABYTE)
    replace(path, constant_mlp(2, width, depth=1))
    wait_until(lambda: loads(server, "no_memory") > 0, "the refusal")
    reason = wait_until(lambda: server.reason("m"), "the reason")
    assert "sim:0" in reason and len(re.findall(r"\d[\d.]* (?:[kMG]?B|bytes)", reason)) >= 2, reason
    stays(server, 1, width=width)
    assert server.is_ready()
    for device in (0, 1):
        server.sim("limit", device, 64 * MEGABYTE)
    wait_value(server, 2, width=width)
    wait_until(lambda: not server.reason("m"), "the complaint to be taken back")


@pytest.mark.any_device
def test_what_does_not_fit_beside_is_written_in_place_where_that_is_allowed(
        small_devices, repository):
    width = 1024
    path = save(constant_mlp(1, width, depth=1), place(repository, "m"))
    configure(repository, "max_batch_size: 4 swap { mode: IN_PLACE_IF_NEEDED }")
    server = small_devices(6 * MEGABYTE)
    with Traffic(server, "m", wide(width), rows=(1, 2, 3)) as traffic:
        traffic.wait_for_output(1)
        for value in range(2, 6):
            replace(path, constant_mlp(value, width, depth=1))
            traffic.wait_for_output(value)
    assert sorted(traffic.check_constant_outputs().values()) == [1, 2, 3, 4, 5]
    assert loads(server, "no_memory") == 0
    assert max(device["peak_bytes"] for device in server.sim.devices()) <= 6 * MEGABYTE


@pytest.mark.any_device
def test_a_kept_version_is_let_go_where_a_load_needs_its_memory(small_devices, repository):
    """Two versions fit, three do not: then there is nothing to go back to, and that is said."""
    width = 1024
    path = save(constant_mlp(1, width, depth=1), place(repository, "m"))
    configure(repository, "max_batch_size: 1")
    server = small_devices(11 * MEGABYTE)
    for value in (2, 3):
        replace(path, constant_mlp(value, width, depth=1))
        wait_value(server, value, width=width)
    assert server.admin("Rollback", model="m").version == 2
    assert value_of(server, width=width) == 2
    # Another model takes what is left, and the version that is kept.
    save(constant_mlp(9, width, depth=1), place(repository, "other"))
    configure(repository, "max_batch_size: 1", "other")
    server.wait_model("other")
    assert value_of(server, "other", width) == 9 and value_of(server, width=width) == 2
    code, message = refused(lambda: server.admin("Rollback", model="m"))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "retained" in message
    assert value_of(server, width=width) == 2


# In place ----------------------------------------------------------------------------------------


def test_swaps_in_place_fail_no_request_and_mix_no_batch(serve, repository):
    """Over the weights that answer, between two batches; the replicas and their graphs stay."""
    width = 512
    path = save(constant_mlp(0, width), place(repository, "m"))
    configure(repository, "swap { mode: IN_PLACE }")
    server = serve()
    live = server.sim and server.sim.live_bytes()
    with Traffic(server, "m", wide(width)) as traffic:
        traffic.wait_for_output(0)
        for swap in range(1, 16):
            if swap % 3:
                replace(path, constant_mlp(swap, width))
            else:
                replace(path, backbone(swap, width))
            traffic.wait_for_output(swap)
    values = traffic.check_constant_outputs()
    traffic.check_versions_only_rise()
    assert values == {swap + 1: swap for swap in range(16)}
    if server.sim is not None:
        for before, after in zip(live[:2], server.sim.live_bytes()):
            assert abs(after - before) < MEGABYTE / 4


def test_real_weights_written_in_place_answer_as_python_does(serve, repository):
    nets = [checkpoints.mlp((16, 64, 5), seed=seed) for seed in range(6)]
    path = save(nets[0], place(repository, "m"))
    configure(repository, "swap { mode: IN_PLACE }")
    server = serve()
    inputs = {rows: checkpoints.random_images(rows, 16, seed=rows) for rows in (1, 2, 3, 5)}
    with Traffic(server, "m", inputs.__getitem__) as traffic:
        for number, net in enumerate(nets):
            if number:
                replace(path, net)
            wait_until(lambda: any(s.version == number + 1 for s in traffic.last()),
                       f"version {number + 1}")
    for sample in traffic.samples:
        np.testing.assert_allclose(
            sample.output, checkpoints.expected(nets[sample.version - 1], inputs[sample.rows]),
            atol=1e-5)


def test_a_swap_in_place_that_fails_its_proof_is_undone(serve, repository):
    path = save(constant(1), place(repository, "m"))
    golden(repository, zeros(2), np.full((2, 4), 1, np.float32))
    configure(repository, "swap { mode: IN_PLACE }")
    server = serve()
    with Traffic(server, "m", zeros) as traffic:
        traffic.wait_for_output(1)
        replace(path, constant(2))
        wait_until(lambda: loads(server, "rejected") > 0, "the refusal")
        assert "golden" in wait_until(lambda: server.reason("m"), "the reason")
        traffic.check_none_failed()
    assert value_of(server) == 1
    assert set(traffic.check_constant_outputs().values()) == {1}


# Proof -------------------------------------------------------------------------------------------


def test_weights_that_agree_with_their_golden_samples_serve(serve, repository):
    net = checkpoints.mlp((4, 8, 3), seed=1)
    batch = checkpoints.random_images(5, 4)
    path = save(net, place(repository, "m"))
    golden(repository, batch, checkpoints.expected(net, batch))
    server = serve()
    again = {name: tensor + 1e-7 for name, tensor in net.state_dict().items()}
    replace(path, again)
    wait_until(lambda: server.infer("m", batch).version == 2, "version 2")


def test_weights_that_miss_a_golden_sample_never_serve(serve, repository):
    path = save(constant(1), place(repository, "m"))
    golden(repository, zeros(3), np.full((3, 4), 1, np.float32), name="first.safetensors")
    golden(repository, zeros(1), np.full((1, 4), 1.05, np.float32), name="second.safetensors")
    configure(repository, "proof { golden { absolute: 0.1 } }")
    server = serve()
    replace(path, constant(1.2))
    wait_until(lambda: loads(server, "rejected") == 1, "the refusal")
    reason = server.reason("m")
    assert "golden" in reason and "first.safetensors" in reason and "1.2" in reason, reason
    stays(server, 1)
    replace(path, constant(1.04))
    wait_until(lambda: server.infer("m", zeros(1)).version == 2, "version 2")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("container", ["model.pth", "model.safetensors"])
def test_weights_that_are_not_finite_never_serve(serve, repository, container, number):
    path = save(constant(1), place(repository, "m", container))
    server = serve()
    spoilt = constant(2)
    with torch.no_grad():
        spoilt.weight[3, 2] = float(number)
    replace(path, spoilt)
    wait_until(lambda: loads(server, "rejected") == 1, "the refusal")
    assert "finite" in server.reason("m") and "weight" in server.reason("m"), server.reason("m")
    assert value_of(server) == 1
    configure(repository, "proof { allow_non_finite_weights: true }")
    wait_until(lambda: server.infer("m", zeros(1)).version == 2, "version 2")


def test_new_weights_must_agree_with_the_last_requests_where_that_is_asked(serve, repository):
    path = save(constant(1), place(repository, "m"))
    configure(repository, "proof { agreement { requests: 10 absolute: 0.01 } }")
    server = serve()
    for _ in range(12):
        value_of(server)
    replace(path, constant(1.5))
    wait_until(lambda: loads(server, "rejected") == 1, "the refusal")
    assert "1.5" in server.reason("m"), server.reason("m")
    assert value_of(server) == 1
    replace(path, constant(1.001))
    wait_until(lambda: server.infer("m", zeros(1)).version == 2, "version 2")


def test_every_step_of_a_load_is_named(serve, repository):
    save(constant(1), place(repository, "m"))
    golden(repository, zeros(1), np.ones((1, 4), np.float32))
    server = serve()
    for step in ("settling", "structure_checked", "admitted", "read", "loaded", "prepared",
                 "warmed", "checked", "published"):
        assert server.metric("sconce_load_step_seconds_count", model="m", step=step) == 1, step
    assert states(server) == {1: "published"}


# Promotion ---------------------------------------------------------------------------------------


def test_a_version_to_be_promoted_by_hand_waits_for_it(serve, repository):
    path = save(constant(1), place(repository, "m"))
    configure(repository, "swap { promotion: MANUAL }")
    server = serve()
    with Traffic(server, "m", zeros, clients=2) as traffic:
        replace(path, constant(2))
        wait_until(lambda: "held" in states(server).values(), "the version to be held")
        stays(server, 1)
        assert loads(server, "held") == 1 and server.index()["m"].state == "READY"
        assert server.admin("Promote", model="m").version == 2
        assert value_of(server) == 2
        assert states(server)[2] == "published" and states(server)[1] == "retained"
    assert traffic.check_constant_outputs() == {1: 1, 2: 2}
    traffic.check_versions_only_rise()
    code, _ = refused(lambda: server.admin("Promote", model="m"))
    assert code == grpc.StatusCode.FAILED_PRECONDITION


def test_a_canary_that_does_well_answers_everything_after_its_time(serve, repository):
    path = save(constant(1), place(repository, "m"))
    configure(repository,
              "swap { canary { share: 0.25 seconds: 1.5 max_latency_ratio: 1000 } }")
    server = serve()
    with Traffic(server, "m", zeros, rows=(1,)) as traffic:
        traffic.wait_for_output(1)
        replace(path, constant(2))
        traffic.wait_for_output(2)
        began = time.monotonic()
        wait_until(lambda: loads(server, "published") == 2, "the promotion")
        ended = time.monotonic()
        wait_until(lambda: all(s.when > ended + 0.3 for s in traffic.last()), "later answers")
    assert traffic.check_constant_outputs() == {1: 1, 2: 2}
    during = [s.version for s in traffic.samples if began < s.when < ended]
    assert 0.1 < during.count(2) / len(during) < 0.45, f"{during.count(2)} of {len(during)}"
    assert {s.version for s in traffic.samples if s.when > ended + 0.1} == {2}


def overflowing():
    net = constant(2)
    nn.init.constant_(net.weight, 3e38)
    return net


def test_a_canary_whose_outputs_are_not_finite_is_withdrawn(serve, repository):
    """Finite weights, and zeros are answered well: only real requests show it."""
    path = save(constant(1), place(repository, "m"))
    configure(repository, "swap { canary { share: 0.25 seconds: 60 max_latency_ratio: 1000 } }")
    server = serve()
    with Traffic(server, "m", ones, rows=(1,)) as traffic:
        traffic.wait_for_output(1)
        replace(path, overflowing())
        wait_until(lambda: loads(server, "withdrawn") == 1, "the withdrawal")
        ended = time.monotonic()
        assert "finite" in wait_until(lambda: server.reason("m"), "the reason")
        stays(server, 1)
        replace(path, constant(3))
        wait_until(lambda: any(s.output.flat[0] == 3 for s in traffic.samples), "the next canary")
        assert server.admin("Promote", model="m").version == 3
        assert value_of(server) == 3
    late = {s.output.flat[0] for s in traffic.samples if s.when > ended + 0.1}
    assert late <= {1, 3}


# Undo and control --------------------------------------------------------------------------------


def test_a_rollback_reads_nothing_and_lasts(serve, repository):
    width = 512
    path = save(constant_mlp(1, width), place(repository, "m"))
    server = serve()
    with Traffic(server, "m", wide(width)) as traffic:
        traffic.wait_for_output(1)
        replace(path, constant_mlp(2, width))
        traffic.wait_for_output(2)
        read = weight_bytes(server, "read")
        assert server.admin("Rollback", model="m").version == 1
        assert value_of(server, width=width) == 1
        stays(server, 1, width=width)
        assert weight_bytes(server, "read") == read
        # What the folder holds was rolled back; something else is loaded.
        replace(path, constant_mlp(3, width))
        traffic.wait_for_output(3)
    assert traffic.check_constant_outputs() == {1: 1, 2: 2, 3: 3}


def test_a_pinned_model_stays_what_it_is(serve, repository):
    path = save(constant(1), place(repository, "m"))
    server = serve()
    server.admin("Pin", model="m")
    replace(path, constant(2))
    stays(server, 1)
    server.admin("Unpin", model="m")
    wait_value(server, 2)


def test_versions_are_answered_by_number(serve, repository):
    for number in (1, 2, 3):
        save(constant(number), place(repository, f"m/{number}"))
    configure(repository, "version_policy { latest { num_versions: 2 } }")
    server = serve()

    def answers(*numbers):
        return [value_of(server, model_version=str(number) if number else "")
                for number in numbers]

    # The server is ready once the model can serve.
    wait_until(lambda: model_ready(server, "2"), "version 2")
    assert answers(0, 2, 3) == [3, 2, 3]
    assert server.infer("m", zeros(1)).version == 3
    code, message = refused(lambda: server.stub.ModelInfer(
        request("m", zeros(1), model_version="1"), timeout=10))
    assert code == grpc.StatusCode.NOT_FOUND and "1" in message
    configure(repository, "version_policy { all {} }")
    wait_until(lambda: model_ready(server, "1"), "version 1")
    assert answers(0, 1, 2, 3) == [3, 1, 2, 3]
    configure(repository, "version_policy { specific { versions: [1, 3] } }")
    wait_until(lambda: not model_ready(server, "2"), "version 2 to be withdrawn")
    assert answers(0, 1, 3) == [3, 1, 3]


def model_ready(server, version):
    return server.client().is_model_ready("m", version)


def test_a_jittered_change_waits_and_an_operator_does_not(serve, repository):
    """Of an hour's jitter less than a second is as good as impossible."""
    path = save(constant(1), place(repository, "m"))
    server = serve("--reload-jitter", "3600")
    replace(path, constant(2))
    stays(server, 1, seconds=1)
    server.load("m")
    assert value_of(server) == 2


def test_on_command_nothing_is_loaded_until_it_is_asked_for(serve, repository):
    path = save(constant(1), place(repository, "m"))
    save(constant(7), place(repository, "other"))
    server = serve("--control", "command")
    assert not server.model_ready("m")
    server.load("m")
    assert value_of(server) == 1 and not server.model_ready("other")
    replace(path, constant(2))
    stays(server, 1)
    server.load("m")
    assert value_of(server) == 2
    server.unload("m")
    assert not server.model_ready("m") and server.is_ready()


def test_fixed_is_what_there_was_at_the_start(serve, repository):
    path = save(constant(1), place(repository, "m"))
    server = serve("--control", "fixed")
    replace(path, constant(2))
    save(constant(7), place(repository, "late"))
    stays(server, 1)
    code, message = refused(lambda: server.load("m"))
    assert code == grpc.StatusCode.FAILED_PRECONDITION and "fixed" in message
    assert not server.model_ready("late")


def test_a_restart_goes_on_where_the_state_file_says(serve, repository, tmp_path):
    path = save(constant(1), place(repository, "m"))
    save(constant(5), place(repository, "pinned"))
    flags = ["--state-file", str(tmp_path / "state.json")]
    server = serve(*flags)
    replace(path, constant(2))
    wait_value(server, 2)
    server.admin("Pin", model="pinned")
    server.signal()
    assert server.wait_exit() == 0

    again = serve(*flags)
    assert again.infer("m", zeros(1)).version == 2
    assert value_of(again) == 2
    replace(repository / "pinned" / "model.pth", constant(6))
    replace(path, constant(3))
    wait_until(lambda: again.infer("m", zeros(1)).version == 3, "version 3")
    stays(again, 5, "pinned")


def test_counters_go_on_when_a_model_comes_back(serve, repository):
    path = save(constant(1), place(repository, "m"))
    save(constant(1), place(repository, "other"))
    server = serve()
    value_of(server)
    before = server.metric("sconce_requests_total", model="m", code="OK")
    assert before >= 1
    server.unload("m")
    server.load("m")
    value_of(server)
    shutil.rmtree(path.parent)
    wait_until(lambda: "m" not in server.index(), "the model to be gone")
    save(constant(2), place(repository, "m"))
    server.wait_model("m")
    answer = server.infer("m", zeros(1))
    assert answer.version > 2 and answer.array[0, 0] == 2
    assert server.metric("sconce_requests_total", model="m", code="OK") == before + 2
    assert loads(server, "published") == 3
