"""CUDA shared memory as stock clients use it: the regions' handles are of simulated devices, since
there is no CUDA, and what is in the regions is written and read through the devices' control socket
(tests/support/sim_server/control.h)."""

import base64
import concurrent.futures

import checkpoints
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from serving import Server, request, wait_until
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

SIZES = (16, 32, 32, 5)


class Region:
    """Memory of `size` bytes that a client of the server shares with it."""

    def __init__(self, server, client, name, size, device=0):
        self.server, self.client, self.name, self.size = server, client, name, size
        self.handle = bytes.fromhex(server.sim("share", device, size)["handle"])
        self.device = device

    def register(self):
        # As tritonclient.utils.cuda_shared_memory.get_raw_handle gives it.
        self.client.register_cuda_shared_memory(
            self.name, base64.b64encode(self.handle), self.device, self.size)
        return self

    def write(self, array, offset=0):
        self.server.sim("write", self.handle.hex(), offset, array.tobytes().hex())
        return self

    def read(self, shape, offset=0):
        size = int(np.prod(shape)) * 4
        answer = self.server.sim("read", self.handle.hex(), offset, size)
        return np.frombuffer(bytes.fromhex(answer["bytes"]), np.float32).reshape(shape)

    def is_untouched(self, offset, end):
        """Whether nobody has written there: memory of simulated devices begins as NaN."""
        return np.isnan(self.read(((end - offset) // 4,), offset)).all()


@pytest.fixture(scope="module")
def net():
    return checkpoints.mlp(SIZES)


@pytest.fixture(scope="module")
def server(shared_repository, net):
    checkpoints.save(net, checkpoints.place(shared_repository, "mlp"))
    server = Server(shared_repository, device="sim:0,sim:1")
    yield server
    problem = server.finish()
    assert not problem, problem


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client
        client.unregister_cuda_shared_memory()


@pytest.fixture
def share(server, client):
    """share(name, size) makes a region and registers it."""
    return lambda name, size, device=0: Region(server, client, name, size, device).register()


def placed_input(region, rows, offset=0, size=None):
    tensor = triton.InferInput("input", [rows, SIZES[0]], "FP32")
    tensor.set_shared_memory(region, rows * SIZES[0] * 4 if size is None else size, offset)
    return tensor


def placed_output(region, rows, offset=0, size=None):
    output = triton.InferRequestedOutput("output")
    output.set_shared_memory(region, rows * SIZES[-1] * 4 if size is None else size, offset)
    return output


def raw_input(array):
    tensor = triton.InferInput("input", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return tensor


def refused(call, code):
    with pytest.raises(InferenceServerException) as caught:
        call()
    assert caught.value.status() == f"StatusCode.{code}", caught.value
    return caught.value.message()


def rows_of(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, SIZES[0])).astype(np.float32)


def close(got, net, array):
    np.testing.assert_allclose(got, checkpoints.expected(net, array), atol=1e-5)


# Regions -----------------------------------------------------------------------------------------


def test_the_extension_is_offered(client):
    assert "cuda_shared_memory" in client.get_server_metadata().extensions


def test_regions_are_registered_listed_and_unregistered(client, share):
    # As Triton's own examples begin.
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    share("a", 4096)
    share("b", 100, device=1)
    regions = client.get_cuda_shared_memory_status().regions
    assert sorted(regions) == ["a", "b"]
    assert (regions["b"].name, regions["b"].device_id, regions["b"].byte_size) == ("b", 1, 100)
    assert sorted(client.get_cuda_shared_memory_status("a").regions) == ["a"]
    client.unregister_cuda_shared_memory("a")
    client.unregister_cuda_shared_memory("a")
    assert sorted(client.get_cuda_shared_memory_status().regions) == ["b"]
    assert "'a'" in refused(lambda: client.get_cuda_shared_memory_status("a"), "NOT_FOUND")


def test_regions_that_cannot_be_are_refused(server, client, share):
    region = share("a", 64)
    assert "already" in refused(region.register, "ALREADY_EXISTS")
    region.name = "b\n"
    region.size = 1000
    message = refused(region.register, "INVALID_ARGUMENT")
    assert "b\\n" in message and "64" in message and "1000" in message
    region.size = 0
    refused(region.register, "INVALID_ARGUMENT")
    region.size = 64
    region.device = 7
    message = refused(region.register, "INVALID_ARGUMENT")
    assert "sim:0, sim:1" in message and "7" in message
    region.device = 1  # a device of the server, but not the memory's
    refused(region.register, "INVALID_ARGUMENT")
    region.device = 0
    region.handle = bytes(64)
    refused(region.register, "INVALID_ARGUMENT")
    region.handle = b"short"
    assert "64 bytes, got 5" in refused(region.register, "INVALID_ARGUMENT")
    assert sorted(client.get_cuda_shared_memory_status().regions) == ["a"]


# Requests ----------------------------------------------------------------------------------------


def test_tensors_go_and_come_without_the_wire(net, client, share):
    array = rows_of(3)
    region = share("r", 4096).write(array, 64)
    result = client.infer(
        "mlp", [placed_input("r", 3, 64)], outputs=[placed_output("r", 3, 1024)])
    close(region.read((3, SIZES[-1]), 1024), net, array)
    output = result.get_output("output")
    assert list(output.shape) == [3, SIZES[-1]]
    assert output.datatype == "FP32"
    assert output.parameters["shared_memory_region"].string_param == "r"
    assert output.parameters["shared_memory_byte_size"].int64_param == 3 * SIZES[-1] * 4
    assert output.parameters["shared_memory_offset"].int64_param == 1024
    assert not output.HasField("contents")
    assert list(result.get_response().raw_output_contents) == [b""]
    # Nothing beside it was touched.
    assert region.is_untouched(0, 64)
    assert region.is_untouched(64 + array.nbytes, 1024)
    assert region.is_untouched(1024 + 3 * SIZES[-1] * 4, 4096)


def test_only_the_input_or_only_the_output_in_a_region(net, client, share):
    array = rows_of(2, seed=1)
    region = share("r", 1024).write(array)
    close(client.infer("mlp", [placed_input("r", 2)]).as_numpy("output"), net, array)
    array = rows_of(2, seed=2)
    client.infer("mlp", [raw_input(array)], outputs=[placed_output("r", 2, 512)])
    close(region.read((2, SIZES[-1]), 512), net, array)


def test_more_room_than_an_output_needs_is_left_alone(net, client, share):
    array = rows_of(1)
    region = share("r", 1024).write(array)
    result = client.infer(
        "mlp", [placed_input("r", 1)], outputs=[placed_output("r", 1, 512, size=512)])
    close(region.read((1, SIZES[-1]), 512), net, array)
    output = result.get_output("output")
    assert output.parameters["shared_memory_byte_size"].int64_param == SIZES[-1] * 4
    assert region.is_untouched(512 + SIZES[-1] * 4, 1024)


def test_places_that_are_wrong_are_refused_and_disturb_nobody(net, server, client, share):
    array = rows_of(1)
    share("r", 256).write(array)
    input_bytes = SIZES[0] * 4

    def infer(*inputs, **options):
        return lambda: client.infer("mlp", list(inputs), **options)

    message = refused(infer(placed_input("none", 1)), "NOT_FOUND")
    assert "mlp/1: input 'input': there is no shared memory region 'none'" in message
    message = refused(infer(placed_input("r", 1, size=input_bytes - 4)), "INVALID_ARGUMENT")
    assert "64" in message and "60" in message and "'r'" in message
    refused(infer(placed_input("r", 1, offset=256 - input_bytes + 1)), "INVALID_ARGUMENT")
    refused(infer(placed_input("r", 1, offset=2**63 - 1)), "INVALID_ARGUMENT")
    refused(infer(placed_input("r", 1, offset=-1)), "INVALID_ARGUMENT")
    good = placed_input("r", 1)
    refused(infer(good, outputs=[placed_output("r", 1, size=19)]), "INVALID_ARGUMENT")
    refused(infer(good, outputs=[placed_output("r", 1, offset=250)]), "INVALID_ARGUMENT")
    refused(infer(good, outputs=[placed_output("none", 1)]), "NOT_FOUND")
    strings = triton.InferInput("input", [1, SIZES[0]], "BYTES")
    strings.set_shared_memory("r", input_bytes)
    assert "BYTES" in refused(infer(strings), "INVALID_ARGUMENT")
    both = request("mlp", array)
    both.inputs[0].parameters["shared_memory_region"].string_param = "r"
    both.inputs[0].parameters["shared_memory_byte_size"].int64_param = input_bytes
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.ModelInfer(both, timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    close(client.infer("mlp", [good]).as_numpy("output"), net, array)


def test_requests_of_both_kinds_share_a_batch(net, server, client, share):
    count = 24
    arrays = [rows_of(1 + turn % 3, seed=turn) for turn in range(count)]
    regions = [share(f"r{turn}", 1024, device=turn % 2).write(array)
               for turn, array in enumerate(arrays)]

    def ask(turn):
        array, region = arrays[turn], regions[turn]
        rows = len(array)
        inputs = [placed_input(region.name, rows) if turn % 2 else raw_input(array)]
        outputs = [placed_output(region.name, rows, 512)] if turn % 3 else None
        result = client.infer("mlp", inputs, outputs=outputs, client_timeout=60)
        return region.read((rows, SIZES[-1]), 512) if outputs else result.as_numpy("output")

    before = client.get_inference_statistics("mlp").model_stats[0].execution_count
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        with server.sim.held(0, 1):
            asked = [pool.submit(ask, turn) for turn in range(count)]
            wait_until(lambda: server.metric("sconce_requests_in_flight", model="mlp") == count,
                       "every request to be there")
        for turn, answer in enumerate(asked):
            close(answer.result(), net, arrays[turn])
    after = client.get_inference_statistics("mlp").model_stats[0].execution_count
    assert after - before < count


def test_a_region_that_is_unregistered_serves_the_request_that_uses_it(net, server, client, share):
    array = rows_of(2)
    region = share("r", 1024).write(array)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with server.sim.held(0, 1):
            answer = pool.submit(
                client.infer, "mlp", [placed_input("r", 2)], outputs=[placed_output("r", 2, 512)],
                client_timeout=60)
            wait_until(lambda: server.metric("sconce_requests_in_flight", model="mlp") == 1,
                       "the request to be there")
            client.unregister_cuda_shared_memory("r")
            assert not client.get_cuda_shared_memory_status().regions
            refused(lambda: client.infer("mlp", [placed_input("r", 2)]), "NOT_FOUND")
        answer.result()
    close(region.read((2, SIZES[-1]), 512), net, array)


def test_regions_outlive_a_swap_of_the_weights(serve, repository):
    place = checkpoints.place(repository, "m")
    checkpoints.save(checkpoints.constant(1, 4, 4), place)
    server = serve(device="sim:0,sim:1")
    with server.client() as client:
        region = Region(server, client, "r", 64).register().write(np.zeros(4, np.float32))
        tensor = triton.InferInput("input", [1, 4], "FP32")
        tensor.set_shared_memory("r", 16)
        output = triton.InferRequestedOutput("output")
        output.set_shared_memory("r", 16, 16)

        def answer():
            version = client.infer("m", [tensor], outputs=[output]).get_response().model_version
            return version, region.read((4,), 16).tolist()

        assert answer() == ("1", [1, 1, 1, 1])
        checkpoints.save(checkpoints.constant(2, 4, 4), place)
        wait_until(lambda: answer()[0] == "2", "the second version")
        assert answer() == ("2", [2, 2, 2, 2])


# Without a device --------------------------------------------------------------------------------


def test_a_server_without_a_device_says_so(serve, repository, net):
    checkpoints.save(net, checkpoints.place(repository, "mlp"))
    server = serve(device="cpu")
    with server.client() as client:
        assert "cuda_shared_memory" not in client.get_server_metadata().extensions
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        assert not client.get_cuda_shared_memory_status().regions
        handle = base64.b64encode(bytes(64))
        message = refused(
            lambda: client.register_cuda_shared_memory("r", handle, 0, 64), "FAILED_PRECONDITION")
        assert "no device" in message
        message = refused(
            lambda: client.infer("mlp", [placed_input("r", 1)]), "FAILED_PRECONDITION")
        assert "mlp/1: input 'input'" in message and "no device" in message
        # Memory of the host is not shared at all.
        message = refused(
            lambda: client.register_system_shared_memory("s", "/s", 64), "UNIMPLEMENTED")
        assert "SystemSharedMemoryRegister" in message
        array = rows_of(1)
        close(client.infer("mlp", [raw_input(array)]).as_numpy("output"), net, array)
    status = server.stub.CudaSharedMemoryStatus(
        service_pb2.CudaSharedMemoryStatusRequest(), timeout=10)
    assert not status.regions
