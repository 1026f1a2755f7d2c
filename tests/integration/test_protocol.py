"""The Open Inference Protocol, health, reflection and HTTP, asked for by stock clients."""

import contextlib
import re
import threading
import time

import checkpoints
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from serving import Server, infer, request, wait_until
from tritonclient.grpc import service_pb2

IMAGE = (3, 224, 224)


@pytest.fixture(scope="module")
def nets():
    return {
        "linear": checkpoints.linear(4, 3),
        "mlp": checkpoints.mlp((16, 32, 32, 5)),
        "recurrent": checkpoints.recurrent(),
        "resnet18": checkpoints.resnet18(10),
    }


@pytest.fixture(scope="module")
def server(shared_repository, nets):
    """One server for the tests that change nothing."""
    for name, net in nets.items():
        checkpoints.save(net, checkpoints.place(shared_repository, name))
    (shared_repository / "recurrent" / "config.pbtxt").write_text(checkpoints.RECURRENT)
    # Simulated devices take long to capture and to try the graphs of a network of that size.
    (shared_repository / "resnet18" / "config.pbtxt").write_text(
        "max_batch_size: 8 optimization { cuda { graphs: false } }\n")
    server = Server(shared_repository)
    yield server
    problem = server.finish()
    assert not problem, problem


@pytest.fixture(scope="module")
def client(server):
    with server.client() as client:
        yield client


def refused(call, code):
    """The message with which `call` is refused with `code`."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == code, caught.value
    return caught.value.details()


# Server and models -------------------------------------------------------------------------------


def test_server_is_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()


def test_server_metadata_names_what_is_served(client):
    metadata = client.get_server_metadata()
    assert metadata.name == "sconce"
    assert metadata.version
    assert "statistics" in metadata.extensions
    assert "model_repository" in metadata.extensions


def test_model_ready_by_name_and_version(client):
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "1")


def test_model_metadata_has_the_batch_dimension(client):
    metadata = client.get_model_metadata("resnet18")
    assert metadata.name == "resnet18"
    assert list(metadata.versions) == ["1"]
    (tensor,) = metadata.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("input", "FP32", [-1, *IMAGE])
    (tensor,) = metadata.outputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("output", "FP32", [-1, 10])


def test_model_metadata_says_which_weights(server, client):
    answer = server.infer("linear", np.zeros((1, 4)))
    properties = server.stub.ModelMetadata(
        service_pb2.ModelMetadataRequest(name="linear"), timeout=10
    )
    # tritonclient's messages predate `properties`; it is field 6 on the wire.
    assert answer.weights_id.encode() in properties.SerializeToString()


def test_model_config(client):
    config = client.get_model_config("resnet18").config
    assert config.name == "resnet18"
    assert config.max_batch_size > 1
    (tensor,) = config.input
    assert (tensor.name, list(tensor.dims)) == ("input", list(IMAGE))
    (tensor,) = config.output
    assert (tensor.name, list(tensor.dims)) == ("output", [10])


def test_repository_index_lists_every_model(server):
    index = server.index()
    assert sorted(index) == ["linear", "mlp", "recurrent", "resnet18"]
    assert {entry.state for entry in index.values()} == {"READY"}
    assert {entry.version for entry in index.values()} == {"1"}
    assert {entry.reason for entry in index.values()} == {""}


def test_statistics_rise_with_each_request(client):
    def statistics():
        (entry,) = client.get_inference_statistics("mlp").model_stats
        return entry

    before = statistics()
    infer(client, "mlp", np.zeros((3, 16)))
    infer(client, "mlp", np.zeros((1, 16)))
    after = statistics()
    assert after.version == "1"
    assert after.inference_count - before.inference_count == 4
    assert after.execution_count - before.execution_count == 2
    for phase in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        old, new = getattr(before.inference_stats, phase), getattr(after.inference_stats, phase)
        assert new.count - old.count == 2, phase
        assert new.ns > old.ns, phase
    assert after.last_inference > 0


def test_statistics_of_all_models(client):
    names = sorted(entry.name for entry in client.get_inference_statistics().model_stats)
    assert names == ["linear", "mlp", "recurrent", "resnet18"]


# Answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model,dims,batches",
    [("linear", (4,), (1, 2, 7, 64)), ("mlp", (16,), (1, 2, 7, 64)), ("resnet18", IMAGE, (1, 3))],
)
def test_answers_are_those_of_python_bit_for_bit(client, nets, model, dims, batches):
    for rows in batches:
        images = checkpoints.random_images(rows, *dims, seed=rows)
        answer = infer(client, model, images)
        np.testing.assert_array_equal(answer.array, checkpoints.expected(nets[model], images))


def test_typed_contents_are_answered_typed(server, nets):
    row = checkpoints.random_images(2, 4)
    message = service_pb2.ModelInferRequest(model_name="linear")
    tensor = message.inputs.add(name="input", datatype="FP32", shape=[2, 4])
    tensor.contents.fp32_contents.extend(row.ravel().tolist())
    reply = server.stub.ModelInfer(message, timeout=10)
    assert not reply.raw_output_contents
    got = np.array(reply.outputs[0].contents.fp32_contents, np.float32).reshape(2, 3)
    np.testing.assert_array_equal(got, checkpoints.expected(nets["linear"], row))


def test_every_answer_names_model_version_weights_and_request(client):
    answer = infer(client, "linear", np.zeros((1, 4)), request_id="the-42nd")
    assert answer.reply.model_name == "linear"
    assert answer.version == 1
    assert len(answer.weights_id) >= 16
    assert answer.id == "the-42nd"
    assert infer(client, "mlp", np.zeros((1, 16))).weights_id != answer.weights_id


def test_a_named_version_is_answered_by_it(client):
    assert infer(client, "linear", np.zeros((1, 4)), model_version="1").version == 1


def test_asked_for_outputs_are_returned(client):
    outputs = [triton.InferRequestedOutput("output")]
    assert infer(client, "linear", np.zeros((1, 4)), outputs=outputs).array.shape == (1, 3)


def test_clients_at_once_get_their_own_rows(server, nets):
    """Rows of one batch go back to whoever sent them."""
    problems = []

    def work(seed):
        with server.client() as client:
            for turn in range(50):
                rows = checkpoints.random_images(1 + turn % 5, 16, seed=seed * 1000 + turn)
                answer = infer(client, "mlp", rows)
                want = checkpoints.expected(nets["mlp"], rows)
                if not np.allclose(answer.array, want, atol=1e-5):
                    problems.append((seed, turn))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems


def test_requests_on_one_connection_at_once(server, nets):
    rows = [checkpoints.random_images(1, 16, seed=seed) for seed in range(100)]
    futures = [server.stub.ModelInfer.future(request("mlp", row), timeout=30) for row in rows]
    for row, future in zip(rows, futures):
        got = np.frombuffer(future.result().raw_output_contents[0], np.float32)
        np.testing.assert_allclose(got, checkpoints.expected(nets["mlp"], row)[0], atol=1e-5)


# Refusals ----------------------------------------------------------------------------------------


def bad(change):
    message = request("linear", np.zeros((1, 4), np.float32))
    change(message)
    return message


def set_shape(*shape):
    def change(message):
        del message.inputs[0].shape[:]
        message.inputs[0].shape.extend(shape)

    return change


def set_fields(**fields):
    def change(message):
        for name, value in fields.items():
            setattr(message.inputs[0], name, value)

    return change


def both_kinds_of_contents(message):
    message.inputs[0].contents.fp32_contents.extend([0] * 4)


def too_few_typed_values(message):
    del message.raw_input_contents[:]
    message.inputs[0].contents.fp32_contents.extend([0] * 3)


def second_input(message):
    message.inputs.add(name="mask", datatype="FP32", shape=[1, 4])
    message.raw_input_contents.append(bytes(16))


def no_input(message):
    del message.inputs[:]
    del message.raw_input_contents[:]


def rows_beyond_the_limit(message):
    set_shape(100000, 4)(message)
    message.raw_input_contents[0] = bytes(100000 * 16)


@pytest.mark.parametrize(
    "change,words",
    [
        (set_fields(name="image"), ["linear/1", "'image'", "'input'"]),
        (set_fields(datatype="FP64"), ["linear/1", "'input'", "FP32[-1,4]", "FP64[1,4]"]),
        (set_fields(datatype="FLOAT"), ["linear/1", "FP32[-1,4]", "FLOAT[1,4]"]),
        (set_shape(1, 5), ["linear/1", "'input'", "FP32[-1,4]", "FP32[1,5]"]),
        (set_shape(4), ["linear/1", "FP32[-1,4]", "FP32[4]"]),
        (set_shape(0, 4), ["linear/1", "FP32[0,4]"]),
        (set_shape(-1, 4), ["linear/1", "FP32[-1,4]"]),
        (set_shape(2**62, 4), ["linear/1"]),
        (set_shape(2, 4), ["linear/1", "'input'", "32 bytes", "16"]),
        (second_input, ["linear/1", "'mask'"]),
        (no_input, ["linear/1", "'input'"]),
        (lambda m: m.raw_input_contents.append(b""), ["linear/1", "raw_input_contents", "2"]),
        (lambda m: m.raw_input_contents.__setitem__(0, b""), ["linear/1", "16 bytes", "0"]),
        (both_kinds_of_contents, ["linear/1", "raw_input_contents", "'input'"]),
        (too_few_typed_values, ["linear/1", "4", "3"]),
        (rows_beyond_the_limit, ["linear/1", "100000"]),
        (lambda m: m.outputs.add(name="scores"), ["linear/1", "'scores'", "'output'"]),
        (lambda m: setattr(m, "model_version", "newest"), ["'newest'"]),
    ],
    ids=lambda value: None if callable(value) else " ".join(value),
)
def test_a_bad_request_is_told_what_was_expected(server, change, words):
    message = refused(
        lambda: server.stub.ModelInfer(bad(change), timeout=10), grpc.StatusCode.INVALID_ARGUMENT
    )
    for word in words:
        assert word in message


def test_unknown_model_and_version_are_not_found(server):
    array = np.zeros((1, 4), np.float32)
    message = refused(
        lambda: server.stub.ModelInfer(request("lunar", array), timeout=10),
        grpc.StatusCode.NOT_FOUND,
    )
    assert "'lunar'" in message
    message = refused(
        lambda: server.stub.ModelInfer(request("linear", array, model_version="7"), timeout=10),
        grpc.StatusCode.NOT_FOUND,
    )
    assert "linear" in message and "7" in message and "1" in message
    for call, kind in [
        (server.stub.ModelMetadata, service_pb2.ModelMetadataRequest),
        (server.stub.ModelConfig, service_pb2.ModelConfigRequest),
        (server.stub.ModelStatistics, service_pb2.ModelStatisticsRequest),
    ]:
        refused(lambda: call(kind(name="lunar"), timeout=10), grpc.StatusCode.NOT_FOUND)


def test_a_hostile_name_is_not_echoed_as_it_came(server):
    message = refused(
        lambda: server.stub.ModelInfer(
            request("a\x1b[31m\n" + "x" * 5000, np.zeros((1, 4), np.float32)), timeout=10
        ),
        grpc.StatusCode.NOT_FOUND,
    )
    assert "\x1b" not in message and "\n" not in message
    assert len(message) < 1000


def test_unsupported_calls_are_unimplemented(server):
    refused(
        lambda: server.stub.SystemSharedMemoryStatus(
            service_pb2.SystemSharedMemoryStatusRequest(), timeout=10
        ),
        grpc.StatusCode.UNIMPLEMENTED,
    )


def test_loading_what_is_not_there_is_not_found(server):
    refused(
        lambda: server.stub.RepositoryModelLoad(
            service_pb2.RepositoryModelLoadRequest(model_name="lunar"), timeout=10
        ),
        grpc.StatusCode.NOT_FOUND,
    )


def test_refusals_do_not_disturb_others(server, client, nets):
    """A request that fails does so alone, whatever it shares a moment with."""
    good = checkpoints.random_images(1, 4)
    calls = [
        server.stub.ModelInfer.future(
            bad(set_shape(1, 5)) if turn % 2 else request("linear", good), timeout=30
        )
        for turn in range(60)
    ]
    for turn, call in enumerate(calls):
        if turn % 2:
            assert call.exception().code() == grpc.StatusCode.INVALID_ARGUMENT
        else:
            got = np.frombuffer(call.result().raw_output_contents[0], np.float32)
            np.testing.assert_allclose(got, checkpoints.expected(nets["linear"], good)[0], atol=1e-6)


# Deadlines and cancellation ----------------------------------------------------------------------


def in_flight(server):
    return server.metric("sconce_requests_in_flight", model="recurrent")


@contextlib.contextmanager
def busy(server):
    """Keeps all executors of the model `recurrent` at work: simulated devices for as long as it
    takes, a processor for two seconds or more."""
    replicas, steps = (2, 1) if server.sim else (1, checkpoints.LONGEST)
    long = checkpoints.sequence(steps)
    with server.sim.held(0, 1) if server.sim else contextlib.nullcontext():
        work = []
        for i in range(replicas):
            work.append(server.stub.ModelInfer.future(request("recurrent", long)))
            wait_until(
                lambda: in_flight(server) == i + 1 or work[i].done(), "the request to arrive")
            assert not work[i].done(), work[i].exception()
        yield work
    for call in work:
        call.result(timeout=120)


def step():
    """A request that takes no time, where nothing is before it."""
    return request("recurrent", checkpoints.sequence(1))


def test_a_deadline_that_cannot_be_met_is_exceeded(server):
    with busy(server):
        refused(
            lambda: server.stub.ModelInfer(step(), timeout=0.2), grpc.StatusCode.DEADLINE_EXCEEDED
        )


def test_the_timeout_parameter_is_a_deadline(server):
    message = step()
    message.parameters["timeout"].int64_param = 1000  # microseconds
    with busy(server):
        text = refused(
            lambda: server.stub.ModelInfer(message, timeout=120), grpc.StatusCode.DEADLINE_EXCEEDED
        )
    assert "recurrent" in text


def test_cancelled_requests_leave_the_queue(server):
    def cancelled():
        return server.metric("sconce_requests_total", model="recurrent", code="CANCELLED")

    before = cancelled()
    with busy(server) as work:
        victims = [server.stub.ModelInfer.future(step()) for _ in range(4)]
        wait_until(lambda: in_flight(server) == len(work) + 4, "the requests to arrive")
        for victim in victims:
            victim.cancel()
        wait_until(lambda: in_flight(server) == len(work), "the cancelled ones to leave")
        assert cancelled() == before + 4
        assert not any(call.done() for call in work)


# Load and unload ---------------------------------------------------------------------------------


def test_unload_and_load(serve, repository):
    checkpoints.save(checkpoints.constant(1), checkpoints.place(repository, "one"))
    checkpoints.save(checkpoints.constant(2), checkpoints.place(repository, "two"))
    server = serve()
    with server.client() as client:
        client.unload_model("one")
        assert not server.model_ready("one")
        assert server.index()["one"].state == "UNAVAILABLE"
        with pytest.raises(triton.InferenceServerException) as caught:
            infer(client, "one", np.zeros((1, 4)))
        assert "UNAVAILABLE" in caught.value.status()
        assert infer(client, "two", np.zeros((1, 4))).array[0, 0] == 2
        assert client.is_server_ready()

        client.load_model("one")
        assert server.model_ready("one")
        answer = infer(client, "one", np.zeros((1, 4)))
        assert answer.array[0, 0] == 1
        assert answer.version > 1


def test_load_takes_the_file_as_it_is_now(serve, repository):
    path = checkpoints.save(checkpoints.constant(1), checkpoints.place(repository, "m"))
    server = serve("--settle-time", "4", quick=False)
    with server.client() as client:
        checkpoints.replace(path, checkpoints.constant(2))
        began = time.monotonic()
        client.load_model("m")
        assert infer(client, "m", np.zeros((1, 4))).array[0, 0] == 2
        # Sooner than it would have looked by itself.
        assert time.monotonic() - began < 3


def test_load_says_why_it_fails(serve, repository):
    path = checkpoints.save(checkpoints.constant(1), checkpoints.place(repository, "m"))
    server = serve()
    path.write_bytes(b"these are no weights")
    message = refused(
        lambda: server.stub.RepositoryModelLoad(
            service_pb2.RepositoryModelLoadRequest(model_name="m"), timeout=30
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert "model.pth" in message
    assert server.infer("m", np.zeros((1, 4))).array[0, 0] == 1


# Configuration -----------------------------------------------------------------------------------


def test_config_bounds_the_batch(serve, repository):
    path = checkpoints.save(checkpoints.constant(1), checkpoints.place(repository, "m"))
    path.with_name("config.pbtxt").write_text("max_batch_size: 2\n")
    server = serve()
    assert server.client().get_model_config("m").config.max_batch_size == 2
    server.infer("m", np.zeros((2, 4)))
    message = refused(
        lambda: server.stub.ModelInfer(request("m", np.zeros((3, 4), np.float32)), timeout=10),
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert "2" in message and "3" in message


def test_config_names_the_tensors(serve, repository):
    path = checkpoints.save(checkpoints.constant(1), checkpoints.place(repository, "m"))
    path.with_name("config.pbtxt").write_text(
        'input { name: "x" data_type: TYPE_FP32 dims: 4 }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: 4 }\n'
    )
    server = serve()
    answer = server.infer("m", np.zeros((1, 4)), input_name="x")
    assert answer.reply.outputs[0].name == "y"


def test_a_wrong_config_says_line_and_column(serve, repository):
    path = checkpoints.save(checkpoints.constant(1), checkpoints.place(repository, "m"))
    path.with_name("config.pbtxt").write_text("max_batch_size: 2\n  max_batchsize: 3\n")
    server = serve(wait_ready=False)
    wait_until(lambda: server.reason("m"), "the reason")
    assert re.search(r"config\.pbtxt:2:\d+: ", server.reason("m"))
    assert "max_batchsize" in server.reason("m")
    path.with_name("config.pbtxt").write_text("max_batch_size: 2\n")
    wait_until(server.is_ready, "the repaired configuration")


# Health ------------------------------------------------------------------------------------------

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_health_of_the_server_and_of_models(server):
    assert server.health_of() == SERVING
    assert server.health_of("linear") == SERVING
    refused(lambda: server.health_of("lunar"), grpc.StatusCode.NOT_FOUND)


def test_health_watch_tells_of_changes(serve, repository):
    checkpoints.save(checkpoints.constant(1), checkpoints.place(repository, "m"))
    server = serve()
    changes = server.health.Watch(health_pb2.HealthCheckRequest(service="m"), timeout=60)
    assert next(changes).status == SERVING
    with server.client() as client:
        client.unload_model("m")
        assert next(changes).status == NOT_SERVING
        client.load_model("m")
        assert next(changes).status == SERVING
    changes.cancel()

    later = server.health.Watch(health_pb2.HealthCheckRequest(service="later"), timeout=60)
    assert next(later).status == SERVICE_UNKNOWN
    checkpoints.save(checkpoints.constant(2), checkpoints.place(repository, "later"))
    seen = SERVICE_UNKNOWN
    while seen != SERVING:
        seen = next(later).status
    later.cancel()


# Reflection --------------------------------------------------------------------------------------


def test_reflection_describes_the_services(server):
    database = ProtoReflectionDescriptorDatabase(server.channel)
    services = set(database.get_services())
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    assert "ModelInfer" in service.methods_by_name
    assert "RepositoryIndex" in service.methods_by_name


# HTTP --------------------------------------------------------------------------------------------


def test_http_health(server):
    assert server.get("/v2/health/live")[0] == 200
    assert server.get("/v2/health/ready")[0] == 200
    assert server.get("/v2/health/other")[0] == 404


def test_metrics_are_well_formed(server):
    status, text = server.get("/metrics")
    assert status == 200
    kinds, names = {}, set()
    for line in text.splitlines():
        words = line.split(" ")
        if line.startswith("# TYPE "):
            assert words[2] not in kinds, "one TYPE for each name"
            kinds[words[2]] = words[3]
        elif line and not line.startswith("#"):
            name = line.split("{")[0].split(" ")[0]
            names.add(name)
            float(words[-1])
    assert names
    for name in names:
        family = name
        for suffix in ("_bucket", "_sum", "_count"):
            if name.endswith(suffix) and kinds.get(name.removesuffix(suffix)) == "histogram":
                family = name.removesuffix(suffix)
        assert family.startswith("sconce_")
        assert family in kinds, name
        assert (kinds[family] == "counter") == family.endswith("_total"), family


def test_metrics_count_requests_by_model_and_code(server, client):
    def requests(**labels):
        return server.metric("sconce_requests_total", **labels)

    fine = requests(model="linear", code="OK")
    wrong = requests(model="linear", code="INVALID_ARGUMENT")
    unknown = server.metric("sconce_unknown_model_requests_total")
    computed = server.metric("sconce_request_phase_seconds_count", model="linear", phase="compute")
    for _ in range(3):
        infer(client, "linear", np.zeros((1, 4)))
    for model in ("linear", "lunar"):
        with pytest.raises(triton.InferenceServerException):
            infer(client, model, np.zeros((1, 5)))
    wait_until(lambda: requests(model="linear", code="OK") == fine + 3, "the counter")
    wait_until(
        lambda: requests(model="linear", code="INVALID_ARGUMENT") == wrong + 1, "the counter"
    )
    wait_until(
        lambda: server.metric("sconce_unknown_model_requests_total") == unknown + 1, "the counter"
    )
    assert (
        server.metric("sconce_request_phase_seconds_count", model="linear", phase="compute")
        == computed + 3
    )
    # What a client sends never becomes a label.
    assert "lunar" not in server.get("/metrics")[1]


def test_metrics_say_which_version_serves(server, client):
    answer = infer(client, "linear", np.zeros((1, 4)))
    assert (
        server.metric(
            "sconce_serving_version_info", model="linear", version="1", weights_id=answer.weights_id
        )
        == 1
    )
    assert server.metric("sconce_loads_total", model="linear", outcome="published") == 1
    assert server.metric("sconce_device_memory_bytes", state="used") > 0


def test_gauges_rise_and_fall(server):
    with busy(server):
        waiting = server.stub.ModelInfer.future(step())
        wait_until(
            lambda: server.metric("sconce_queue_depth", model="recurrent") == 1,
            "the request to wait",
        )
    waiting.result(timeout=120)
    wait_until(lambda: in_flight(server) == 0, "nothing to be in flight")
    assert server.metric("sconce_queue_depth", model="recurrent") == 0
