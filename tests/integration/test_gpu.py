"""The server on a real GPU: skipped, with the reason, where there is none. What does not need one is
tested on simulated devices (test_sim_devices.py, test_shared_memory.py)."""

import sys
import time

import checkpoints
import numpy as np
import pytest
import tritonclient.grpc as triton
from checkpoints import constant_mlp, place, replace, save
from serving import ROOT
from traffic import Traffic

sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from find_gpus import find_gpus

GPUS, NO_GPU = find_gpus()
# CTest knows a skipped test by these words.
pytestmark = pytest.mark.skipif(not GPUS, reason=f"no GPU: skipped: {NO_GPU}")

MEGABYTE = 1 << 20


def relative_error(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("precision, tolerance", [
    ("FP32", 1e-4), ("TF32", 2e-2), ("FP16", 3e-2), ("BF16", 1e-1)])
def test_a_network_answers_as_on_the_cpu(serve, repository, precision, tolerance):
    net = checkpoints.resnet18()
    path = save(net, place(repository, "resnet18"))
    # Small, so that a start is quick.
    path.with_name("config.pbtxt").write_text(
        f"precision: {precision} max_batch_size: 8\n"
        'input { name: "input" data_type: TYPE_FP32 dims: [3, 64, 64] }\n')
    server = serve(device="cuda")
    for rows in (1, 3, 8):
        images = checkpoints.random_images(rows, 3, 64, 64, seed=rows)
        answer = server.infer("resnet18", images)
        assert relative_error(answer.array, checkpoints.expected(net, images)) < tolerance


def test_every_gpu_has_a_replica_and_says_what_memory_is_used(serve, repository):
    save(checkpoints.mlp(), place(repository, "m"))
    server = serve(device="cuda")
    for number in range(len(GPUS)):
        used = server.metric("sconce_device_memory_bytes", device=f"cuda:{number}", state="used")
        total = server.metric("sconce_device_memory_bytes", device=f"cuda:{number}", state="total")
        assert 0 < used <= total
    images = checkpoints.random_images(4, 16)
    with Traffic(server, "m", lambda rows: images[:rows], rows=(1, 2, 4), clients=8) as traffic:
        time.sleep(1)
    assert len(traffic.samples) > 8


def test_swaps_under_load(serve, repository):
    """Nothing fails, nothing is mixed, versions only rise, and memory stays where it was."""
    width, swaps = 512, 30
    path = save(constant_mlp(0, width), place(repository, "m"))
    server = serve(device="cuda")

    def used():
        return sum(server.metric("sconce_device_memory_bytes", device=f"cuda:{number}",
                                 state="used") for number in range(len(GPUS)))

    warm = None
    with Traffic(server, "m", lambda rows: np.ones((rows, width), np.float32)) as traffic:
        for swap in range(1, swaps + 1):
            replace(path, constant_mlp(swap, width))
            traffic.wait_for_output(swap)
            if swap == 10:
                warm = used()
        grown = used() - warm
    values = traffic.check_constant_outputs()
    traffic.check_versions_only_rise()
    assert sorted(values.values()) == list(range(swaps + 1))
    # A version has 3 MB of weights, its graphs more: had the last 20 stayed, it would be 60 MB.
    assert grown < 40 * MEGABYTE * len(GPUS), f"{grown / MEGABYTE:.0f} MB more"


def test_a_swap_to_a_file_that_fails_leaves_the_old_version(serve, repository):
    path = save(constant_mlp(1), place(repository, "m"))
    server = serve(device="cuda")
    rows = np.ones((2, 512), np.float32)
    before = server.infer("m", rows)
    path.write_bytes(path.read_bytes()[:1000])
    deadline = time.monotonic() + 30
    while not server.reason("m"):
        assert time.monotonic() < deadline, "the file was not refused"
        time.sleep(0.05)
    after = server.infer("m", rows)
    assert after.version == before.version
    np.testing.assert_array_equal(after.array, before.array)


def test_tensors_go_through_cuda_shared_memory(serve, repository):
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    import tritonclient.utils.cuda_shared_memory as shared_memory

    net = checkpoints.mlp()
    save(net, place(repository, "m"))
    server = serve(device="cuda:0")
    images = checkpoints.random_images(4, 16)
    expected = checkpoints.expected(net, images)
    inputs = shared_memory.create_shared_memory_region("inputs", images.nbytes, 0)
    outputs = shared_memory.create_shared_memory_region("outputs", expected.nbytes, 0)
    try:
        with server.client() as client:
            for name, region, size in (("inputs", inputs, images.nbytes),
                                       ("outputs", outputs, expected.nbytes)):
                client.register_cuda_shared_memory(
                    name, shared_memory.get_raw_handle(region), 0, size)
            assert len(client.get_cuda_shared_memory_status().regions) == 2
            shared_memory.set_shared_memory_region(inputs, [images])
            sent = triton.InferInput("input", list(images.shape), "FP32")
            sent.set_shared_memory("inputs", images.nbytes)
            asked = triton.InferRequestedOutput("output")
            asked.set_shared_memory("outputs", expected.nbytes)
            for _ in range(5):
                client.infer("m", [sent], outputs=[asked], client_timeout=30)
                got = shared_memory.get_contents_as_numpy(
                    outputs, np.float32, list(expected.shape))
                assert relative_error(got, expected) < 1e-4
            client.unregister_cuda_shared_memory()
            assert not client.get_cuda_shared_memory_status().regions
    finally:
        shared_memory.destroy_shared_memory_region(inputs)
        shared_memory.destroy_shared_memory_region(outputs)
