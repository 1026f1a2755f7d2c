"""The server as the tests drive it: a process on free loopback ports, and a deadline on every wait."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import tritonclient.grpc as triton
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase)
from tritonclient.grpc import service_pb2, service_pb2_grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("SCONCE_BINARY", ROOT / "build" / "release" / "sconce"))
# The same server in a process with simulated devices (tests/support/sim_server).
SIM_BINARY = pathlib.Path(os.environ.get(
    "SCONCE_SIM_BINARY", BINARY.parent / "tests" / "support" / "sim_server" / "sconce_sim"))
# Where the servers of a run compute unless a test says otherwise: "cpu", or "sim" for two devices.
DEVICE = os.environ.get("SCONCE_TEST_DEVICE", "cpu")
PATIENCE = 60


def wait_until(condition, what, patience=PATIENCE):
    """Polls until condition() is true and returns its value; fails after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {patience} s for {what}"
        time.sleep(0.01)


def holds_for(seconds, condition, what):
    """Fails if condition() becomes false within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(0.01)


class Sim:
    """The simulated devices of a server; tests/support/sim_server/control.h has the commands."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *words):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(self.path)
            connection.sendall(" ".join(map(str, words)).encode() + b"\n")
            answer = json.loads(connection.makefile("rb").readline())
        assert "error" not in answer, f"{words}: {answer}"
        return answer

    def devices(self):
        """The statistics of each device."""
        return self("statistics")["devices"]

    def live_bytes(self):
        """Of each device, and pinned."""
        statistics = self("statistics")
        return [device["live_bytes"] for device in statistics["devices"]] + [
            statistics["pinned_bytes"]]

    @contextlib.contextmanager
    def held(self, *devices):
        """Nothing queued on the devices begins meanwhile."""
        for device in devices:
            self("hold", device)
        try:
            yield
        finally:
            for device in devices:
                self("release", device)


class Server:
    """One server process. `finish` must be called; the `serve` fixture does."""

    # Those whose logs are worth showing when a test fails.
    running = []
    # Quick to notice a change, so that tests are quick; the defaults are for production.
    QUICK = ["--poll-interval", "0.05", "--settle-time", "0.1"]

    def __init__(self, repository, *flags, threads=1, device=None, binary=None, wait_ready=True,
                 quick=True, log_format="human", env=None):
        descriptor, path = tempfile.mkstemp(prefix="sconce-", suffix=".log")
        self.log_path = pathlib.Path(path)
        self.repository = pathlib.Path(repository)
        self._stopped = False
        self._channel = None
        self._admin = None
        device = device or DEVICE
        if binary is None:
            binary = SIM_BINARY if device.startswith("sim") else BINARY
        env = {**os.environ, **(env or {})}
        self._folder = tempfile.TemporaryDirectory(prefix="sconce-")
        self.sim = None
        if binary == SIM_BINARY:
            self.sim = Sim(os.path.join(self._folder.name, "sim"))
            env["SCONCE_SIM_CONTROL"] = self.sim.path
        self.command = [
            str(binary), "serve", "--model-repository", str(repository),
            "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
            "--device", device, "--threads", str(threads), "--log-format", log_format,
            *(self.QUICK if quick else []), *flags]
        with open(descriptor, "w") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=env)
        Server.running.append(self)
        try:
            self.grpc_address = self._address("grpc")
            self.http_address = self._address("http")
            if wait_ready:
                wait_until(self.is_ready, "the server to be ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.finish()}") from None

    # Log -----------------------------------------------------------------------------------------

    def log(self):
        return self.log_path.read_text(errors="replace")

    def log_tail(self, lines=60):
        return "\n".join(self.log().splitlines()[-lines:])

    def _address(self, protocol):
        def find():
            found = re.search(rf"{protocol}\D*?(127\.0\.0\.1:[1-9]\d*)", self.log(), re.IGNORECASE)
            assert found or self.process.poll() is None, (
                f"the server ended with status {self.process.returncode}:\n{self.log_tail()}")
            return found and found.group(1)

        return wait_until(find, f"the log to name the {protocol} port")

    # Clients -------------------------------------------------------------------------------------

    def client(self):
        return triton.InferenceServerClient(self.grpc_address)

    def admin(self, method, **fields):
        """The answer of a method of the admin service, whose messages the server describes itself."""
        if self._admin is None:
            database = ProtoReflectionDescriptorDatabase(self.channel)
            self._admin = descriptor_pool.DescriptorPool(database).FindServiceByName(
                "sconce.admin.v1.Admin")
        described = self._admin.methods_by_name[method]
        call = self.channel.unary_unary(
            f"/{self._admin.full_name}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(
                described.output_type).FromString)
        return call(message_factory.GetMessageClass(described.input_type)(**fields),
                    timeout=PATIENCE)

    def load(self, model, config=None, files=None):
        """RepositoryModelLoad; with weights of its own where `files`, {name: bytes}, has some."""
        message = service_pb2.RepositoryModelLoadRequest(model_name=model)
        if config is not None or files:
            message.parameters["config"].string_param = config or "{}"
        for name, data in (files or {}).items():
            message.parameters[f"file:{name}"].bytes_param = data
        self.stub.RepositoryModelLoad(message, timeout=PATIENCE)

    def unload(self, model):
        self.stub.RepositoryModelUnload(
            service_pb2.RepositoryModelUnloadRequest(model_name=model), timeout=PATIENCE)

    @property
    def channel(self):
        if self._channel is None:
            self._channel = grpc.insecure_channel(
                self.grpc_address, options=[("grpc.max_receive_message_length", -1)])
        return self._channel

    @property
    def stub(self):
        """The protocol's own messages, where a test needs what tritonclient does not send."""
        return service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    @property
    def health(self):
        return health_pb2_grpc.HealthStub(self.channel)

    def health_of(self, service=""):
        return self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status

    def get(self, path):
        """(HTTP status, body)."""
        try:
            with urllib.request.urlopen(f"http://{self.http_address}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name, **labels):
        """The value of one sample of /metrics; 0 where there is none."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                seen = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or ""))
                if labels.items() <= seen.items():
                    total += float(found[3])
        return total

    # State ---------------------------------------------------------------------------------------

    def is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError(
                f"the server ended with status {self.process.returncode}:\n{self.log_tail()}")
        return (self.get("/v2/health/ready")[0] == 200
                and self.health_of() == health_pb2.HealthCheckResponse.SERVING)

    def model_ready(self, model):
        try:
            return self.stub.ModelReady(
                service_pb2.ModelReadyRequest(name=model), timeout=10).ready
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE), error
            return False

    def wait_model(self, model):
        wait_until(lambda: self.model_ready(model), f"model {model} to be ready")

    def index(self):
        """RepositoryIndex by model name: the first entry of each, which tells what it is now."""
        reply = self.stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=10)
        return {entry.name: entry for entry in reversed(reply.models)}

    def reason(self, model):
        entry = self.index().get(model)
        return entry.reason if entry else ""

    def rss_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    # Inference -----------------------------------------------------------------------------------

    def infer(self, model, array, **options):
        with self.client() as client:
            return infer(client, model, array, **options)

    # End -----------------------------------------------------------------------------------------

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait_exit(self, patience=PATIENCE):
        self._stopped = True
        return self.process.wait(patience)

    def finish(self):
        """Ends the process with SIGTERM; what was wrong with how it ended, if anything."""
        with contextlib.suppress(Exception):
            if self._channel is not None:
                self._channel.close()
        problem = None
        try:
            if not self._stopped:
                status = self.process.poll()
                if status is not None:
                    problem = f"the server had ended with status {status}"
                else:
                    self.signal()
                    try:
                        status = self.process.wait(PATIENCE)
                        if status != 0:
                            problem = f"the server ended with status {status} after SIGTERM"
                    except subprocess.TimeoutExpired:
                        problem = f"the server did not end within {PATIENCE} s of SIGTERM"
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if problem:
                problem += ":\n" + self.log_tail()
            self.log_path.unlink(missing_ok=True)
            self._folder.cleanup()
            Server.running.remove(self)
        return problem


class Answer:
    """An output with what the server says about who gave it."""

    def __init__(self, result):
        self.reply = result.get_response()
        self.array = result.as_numpy(self.reply.outputs[0].name)
        self.version = int(self.reply.model_version)
        self.weights_id = self.reply.parameters["weights_id"].string_param
        self.id = self.reply.id


def infer(client, model, array, input_name="input", **options):
    """One ModelInfer of one FP32 input through tritonclient."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    tensor = triton.InferInput(input_name, list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    options.setdefault("client_timeout", PATIENCE)
    return Answer(client.infer(model, [tensor], **options))


def request(model, array, input_name="input", datatype="FP32", **fields):
    """A ModelInferRequest with raw contents, to be bent by a test."""
    message = service_pb2.ModelInferRequest(model_name=model, **fields)
    message.inputs.add(name=input_name, datatype=datatype, shape=list(array.shape))
    message.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
    return message


def run_sconce(*arguments, patience=20):
    """Runs the binary to its end."""
    return subprocess.run(
        [str(BINARY), *map(str, arguments)], capture_output=True, text=True, timeout=patience,
        stdin=subprocess.DEVNULL)


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.strip()]
