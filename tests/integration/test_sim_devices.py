"""Serving from several devices, simulated ones (tests/support/sim_server): placement, memory, faults.
What happens to a device is told to it by the test, over a socket."""

import re
import shutil

import checkpoints
import grpc
import numpy as np
import pytest
from checkpoints import constant, constant_mlp, place, replace, save
from grpc_health.v1 import health_pb2
from serving import BINARY, SIM_BINARY, request, run_sconce, wait_until
from traffic import Traffic

MEGABYTE = 1 << 20


@pytest.fixture
def serve_sim(serve):
    """serve_sim(*flags, memory=[bytes of each device, ...]) starts a server on simulated devices."""

    def start(*flags, device="sim", memory=(), graphs=True, **options):
        env = {"SCONCE_SIM_MEMORY": ",".join(map(str, memory)),
               "SCONCE_SIM_GRAPHS": "1" if graphs else "0"}
        return serve(*flags, device=device, binary=SIM_BINARY, env=env, **options)

    return start


def zeros(rows):
    return np.zeros((rows, 4), np.float32)


def configure(repository, text, model="m"):
    place(repository, model, "config.pbtxt").write_text(text)


def wide(value, inputs=16384):
    """A row is 64 KB, a batch of 64 rows 4 MB, all the weights 256 KB."""
    return constant(value, inputs)


def send(server, rows, inputs=4, model="m"):
    return server.stub.ModelInfer.future(
        request(model, np.zeros((rows, inputs), np.float32)), timeout=60)


def output(reply):
    return np.frombuffer(reply.raw_output_contents[0], np.float32)


def work(server):
    """What was queued on each device since it was there."""
    return [device["kernels"] + device["copies"] for device in server.sim.devices()]


def launch_one_on_each(server, inputs=4):
    """Requests of one row until every device has one to compute, all devices held; the calls."""
    before, calls = work(server), []
    for _ in before:
        calls.append(send(server, 1, inputs))
        wait_until(
            lambda: sum(now > then for now, then in zip(work(server), before)) == len(calls),
            "the request to be taken by a device that has nothing to do")
    return calls


def failure(call):
    """(code, message) of a call that must fail."""
    error = call.exception(timeout=60)
    assert error is not None
    return error.code(), error.details()


# The binary --------------------------------------------------------------------------------------


def test_the_servers_own_binary_knows_no_simulated_device(repository):
    assert b"simdevice" in SIM_BINARY.read_bytes()
    for file in (BINARY, *BINARY.parent.glob("libsconce*.so")):
        assert b"simdevice" not in file.read_bytes(), file
    done = run_sconce("serve", "--model-repository", repository, "--device", "sim:0")
    assert done.returncode > 0 and "sim:0" in done.stderr


# Placement ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["sim", "sim:0,sim:1", "auto"])
def test_replicas_on_both_devices_answer(serve_sim, repository, device):
    save(constant(1), place(repository, "m"))
    server = serve_sim(device=device)
    with server.sim.held(0, 1):
        calls = launch_one_on_each(server)
        assert not any(call.done() for call in calls)
    assert [output(call.result()).tolist() for call in calls] == [[1] * 4] * 2


def test_a_device_that_is_not_given_is_not_touched(serve_sim, repository):
    save(constant(1), place(repository, "m"))
    server = serve_sim(device="sim:1")
    assert server.infer("m", zeros(3)).array[0, 0] == 1
    untouched, used = server.sim.devices()
    assert untouched["allocations"] == 0 and work(server)[0] == 0
    assert used["live_bytes"] > 0


def test_the_device_of_an_instance_group(serve_sim, repository):
    save(constant(1), place(repository, "m"))
    configure(repository, "instance_group { kind: KIND_GPU gpus: 1 }")
    server = serve_sim()
    assert server.infer("m", zeros(3)).array[0, 0] == 1
    assert work(server)[0] == 0 and server.sim.devices()[0]["live_bytes"] == 0


def test_instances_on_one_device_share_their_weights(serve_sim, repository):
    width = 1024
    weights = 3 * 4 * width * width
    save(constant_mlp(1, width), place(repository, "m"))
    configure(repository, "max_batch_size: 1 instance_group { count: 3 kind: KIND_GPU gpus: 1 }")
    server = serve_sim()
    untouched, used = server.sim.devices()
    assert untouched["live_bytes"] == 0
    assert weights < used["live_bytes"] < 2 * weights
    answer = server.infer("m", np.ones((1, width)))
    assert answer.array[0, 0] == 1


def test_an_instance_on_the_cpu_beside_the_devices(serve_sim, repository):
    save(constant(1), place(repository, "m"))
    configure(repository, "instance_group { kind: KIND_CPU }")
    server = serve_sim()
    assert server.infer("m", zeros(2)).array[0, 0] == 1
    assert work(server) == [0, 0]


def test_a_device_that_is_not_there_is_named(serve_sim, repository):
    save(constant(1), place(repository, "m"))
    configure(repository, "instance_group { kind: KIND_GPU gpus: 7 }")
    server = serve_sim(wait_ready=False)
    reason = wait_until(lambda: server.reason("m"), "the reason")
    assert "7" in reason and "sim:0" in reason and "sim:1" in reason


# Memory ------------------------------------------------------------------------------------------


def test_auto_leaves_out_a_device_without_memory(serve_sim, repository):
    width = 1024
    save(constant_mlp(1, width), place(repository, "m"))
    server = serve_sim(memory=[0, 4 * MEGABYTE])
    answer = server.infer("m", np.ones((2, width)))
    assert np.all(answer.array == 1)
    assert server.sim.devices()[1]["live_bytes"] == 0
    (line,) = [line for line in server.log().splitlines() if "version 1 serves" in line]
    assert "sim:1" in line, line


def test_a_model_that_fits_nowhere_says_how_much_is_missing(serve_sim, repository):
    width = 1024
    path = save(constant_mlp(1, width), place(repository, "m"))
    server = serve_sim(memory=[MEGABYTE, MEGABYTE], wait_ready=False)
    reason = wait_until(lambda: server.reason("m"), "the reason")
    assert "sim:0" in reason and "memory" in reason
    assert server.sim.live_bytes()[:2] == [0, 0]
    # Memory that comes free is taken without the file being touched.
    for device in (0, 1):
        server.sim("limit", device, 1 << 30)
    server.wait_model("m")
    assert np.all(server.infer("m", np.ones((2, width))).array == 1)


def test_devices_of_different_sizes_take_batches_of_different_sizes(serve_sim, repository):
    save(wide(1), place(repository, "m"))
    server = serve_sim(memory=[0, 3 * MEGABYTE])
    found = re.search(r"sim:1 has memory for batches of (\d+) rows, not of (\d+)", server.log())
    assert found, server.log()
    most = int(found[1])
    assert 1 <= most < 64
    with server.sim.held(0, 1):
        before = work(server)
        # The small device could take it, were it large enough: it has nothing to do.
        calls = [send(server, 64, 16384) for _ in range(2)]
        calls.append(send(server, 1, 16384))
        wait_until(lambda: all(now > then for now, then in zip(work(server), before)),
                   "both devices to have work")
    for call, rows in zip(calls, (64, 64, 1)):
        assert output(call.result()).tolist() == [1] * 4 * rows


def test_a_request_that_no_device_has_memory_for_is_refused(serve_sim, repository):
    save(wide(1), place(repository, "m"))
    server = serve_sim(memory=[3 * MEGABYTE, 3 * MEGABYTE])
    code, message = failure(send(server, 64, 16384))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "rows" in message and "sim:" in message
    assert output(send(server, 1, 16384).result()).tolist() == [1] * 4


def test_out_of_memory_fails_the_requests_that_do_not_fit_alone(serve_sim, repository):
    save(wide(1), place(repository, "m"))
    server = serve_sim(device="sim:0", graphs=False)
    live = server.sim.devices()[0]["live_bytes"]
    # As if another process had taken it since.
    server.sim("limit", 0, live + MEGABYTE)
    with server.sim.held(0):
        calls = [(rows, send(server, rows, 16384)) for rows in (1, 1, 60, 1, 2, 1, 62, 1)]
        wait_until(
            lambda: server.metric("sconce_requests_in_flight", model="m") == len(calls),
            "the requests to arrive")
    for rows, call in calls:
        if rows < 60:
            assert output(call.result()).tolist() == [1] * 4 * rows
        else:
            code, message = failure(call)
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED, message
            assert "m/1" in message and "sim:0" in message
    assert server.metric("sconce_out_of_memory_batches_total", model="m") > 0
    assert server.is_ready()


def test_metrics_tell_what_a_model_takes_of_each_device(serve_sim, repository):
    net = constant_mlp(1, 512)
    weights = sum(4 * tensor.numel() for tensor in net.state_dict().values())
    save(net, place(repository, "m"))
    server = serve_sim()
    server.infer("m", np.ones((3, 512)))
    for device, live in zip(("sim:0", "sim:1"), server.sim.live_bytes()):
        def metric(kind):
            return server.metric("sconce_model_memory_bytes", model="m", device=device, kind=kind)

        assert weights <= metric("weights") < 1.01 * weights
        assert 0 < metric("graphs") <= live - metric("weights")
        assert metric("staging") > 0
        used = server.metric("sconce_device_memory_bytes", device=device, state="used")
        assert used == live
    with server.client() as client:
        client.unload_model("m")
    assert server.metric("sconce_model_memory_bytes", model="m") == 0


def test_an_unloaded_model_gives_everything_back(serve_sim, repository):
    server = serve_sim()
    width = 512

    def load_and_unload(name):
        save(constant_mlp(1, width), place(repository, name))
        server.wait_model(name)
        for rows in (1, 5, 64):
            assert np.all(server.infer(name, np.ones((rows, width))).array == 1)
        assert min(server.sim.live_bytes()) > 0
        shutil.rmtree(repository / name)
        wait_until(lambda: server.sim.live_bytes()[:2] == [0, 0], "the devices to be empty")
        return server.sim.live_bytes()

    first = load_and_unload("first")
    emptied = [device["emptied_caches"] for device in server.sim.devices()]
    wait_until(lambda: load_and_unload("second") == first, "pinned memory to be as before")
    wait_until(
        lambda: all(device["emptied_caches"] > before
                    for device, before in zip(server.sim.devices(), emptied)),
        "the allocators' caches to be given back")


def test_a_device_reads_weights_by_itself_where_that_is_asked_for(serve_sim, repository):
    width = 512
    save(constant_mlp(1, width), place(repository, "m"))
    server = serve_sim("--gpu-direct-storage")
    assert np.all(server.infer("m", np.ones((1, width))).array == 1)
    assert re.search(r"; sim:0 read [1-9][0-9.]* MB from the files by itself;", server.log())


# Swaps -------------------------------------------------------------------------------------------


def test_swaps_with_devices_that_stand_still_for_a_moment(serve_sim, repository):
    path = save(constant(0), place(repository, "m"))
    server = serve_sim()
    with Traffic(server, "m", zeros) as traffic:
        traffic.wait_for_output(0)
        for swap in range(1, 9):
            with server.sim.held(*([0, 1] if swap % 2 else [swap // 2 % 2])):
                replace(path, constant(swap))
                wait_until(lambda: server.log().count("loading model.pth") == swap + 1,
                           "the load to begin")
            traffic.wait_for_output(swap)
    assert sorted(traffic.check_constant_outputs().values()) == list(range(9))
    traffic.check_versions_only_rise()


def test_swaps_leave_no_byte_on_a_device(serve_sim, repository):
    width = 256
    path = save(constant_mlp(0, width), place(repository, "m"))
    path.with_name("config.pbtxt").write_text("swap { retain_versions: 0 }\n")
    server = serve_sim()
    ones = lambda rows: np.ones((rows, width), np.float32)

    def settled(swap):
        """Live bytes with version `swap` alone, nothing in flight."""
        server.infer("m", ones(1))
        wait_until(lambda: server.metric("sconce_requests_in_flight", model="m") == 0, "quiet")
        return server.sim.live_bytes()[:2]

    with Traffic(server, "m", ones) as traffic:
        traffic.wait_for_output(0)
    before = settled(0)
    with Traffic(server, "m", ones) as traffic:
        for swap in range(1, 21):
            replace(path, constant_mlp(swap, width))
            traffic.wait_for_output(swap)
    wait_until(lambda: settled(20) == before, "the devices to hold one version again")
    assert sorted(traffic.check_constant_outputs().values()) == list(range(21))


# Faults ------------------------------------------------------------------------------------------


def lose(server, device):
    """Breaks the device at what it is next asked to do, and waits until the server knows."""
    server.sim("fail-kernel", device, 1)
    wait_until(lambda: server.metric("sconce_device_lost", device=f"sim:{device}") == 1,
               f"sim:{device} to be lost")


def test_a_device_that_breaks_is_left_out_and_no_request_fails(serve_sim, repository):
    save(constant(1), place(repository, "m"))
    server = serve_sim()
    assert server.metric("sconce_device_lost", device="sim:0") == 0
    with Traffic(server, "m", zeros) as traffic:
        traffic.wait_for_output(1)
        lose(server, 1)
        lost_at = len(traffic.samples)
        wait_until(lambda: len(traffic.samples) > lost_at + 50, "the other device to go on")
        assert server.is_ready() and server.model_ready("m")
    traffic.check_none_failed()
    assert server.metric("sconce_device_lost", device="sim:0") == 0
    assert "sim:1 is lost" in server.log()
    # The version that serves is on the other device alone, and so is what comes.
    replace(repository / "m" / "model.pth", constant(2))
    wait_until(lambda: server.infer("m", zeros(1)).array[0, 0] == 2, "the swap")


def test_without_devices_the_model_and_the_server_are_unready_with_the_reason(
    serve_sim, repository
):
    save(constant(1), place(repository, "m"))
    server = serve_sim()
    with Traffic(server, "m", zeros) as traffic:
        lose(server, 0)
    traffic.check_none_failed()
    server.sim("fail-kernel", 1, 1)
    code, message = failure(send(server, 1))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "illegal memory access" in message
    wait_until(lambda: not server.is_ready(), "the server to be unready")
    assert not server.model_ready("m")
    assert server.index()["m"].state == "UNAVAILABLE"
    # At once, and when the reloader has noticed.
    for noticed in ("the device is lost", "no device that it was on works any more"):
        wait_until(lambda: noticed in server.reason("m"), f"the reason '{noticed}'")
        assert re.search("sim:1.*illegal memory access", server.reason("m"))
    assert server.health_of() == health_pb2.HealthCheckResponse.NOT_SERVING
    assert server.health_of("m") == health_pb2.HealthCheckResponse.NOT_SERVING
    assert "illegal memory access" in server.get("/v2/health/ready")[1]
    code, message = failure(send(server, 1))
    assert code == grpc.StatusCode.UNAVAILABLE and "illegal memory access" in message
    assert server.get("/v2/health/live")[0] == 200


def test_the_process_ends_if_asked_once_no_device_is_left(serve_sim, repository):
    save(constant(1), place(repository, "m"))
    server = serve_sim("--exit-on-device-fault")
    with Traffic(server, "m", zeros) as traffic:
        lose(server, 0)
    traffic.check_none_failed()
    assert server.process.poll() is None
    server.sim("fail-kernel", 1, 1)
    assert failure(send(server, 1))[0] == grpc.StatusCode.UNAVAILABLE
    assert server.wait_exit() == 3


def test_a_fault_in_a_load_leaves_the_old_version_on_the_other_device(serve_sim, repository):
    path = save(constant(1), place(repository, "m"))
    server = serve_sim()
    server.sim("fail-kernel", 1, 2)
    replace(path, constant(2))
    wait_until(lambda: server.metric("sconce_device_lost", device="sim:1") == 1, "the fault")
    wait_until(lambda: server.infer("m", zeros(1)).array[0, 0] == 2,
               "the new version on the device that is left")
    assert server.is_ready()


def test_a_batch_that_does_not_return_is_reported(serve_sim, repository):
    save(constant(1), place(repository, "m"))
    server = serve_sim(device="sim:0")
    with server.sim.held(0):
        call = send(server, 3)
        wait_until(lambda: server.metric("sconce_overdue_batches", model="m") == 1, "the watchdog")
        assert re.search(r"m/1: a batch of 3 rows has not returned from sim:0", server.log())
        assert not call.done()
    assert output(call.result()).tolist() == [1] * 12
    wait_until(lambda: server.metric("sconce_overdue_batches", model="m") == 0, "the all-clear")
