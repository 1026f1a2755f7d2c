"""How the process starts, ends, and speaks to the person at the terminal."""

import pathlib
import re
import signal
import socket
import time

import checkpoints
import grpc
import numpy as np
import pytest
from checkpoints import constant, place, save
from serving import DEVICE, json_lines, request, run_sconce, wait_until

# End ---------------------------------------------------------------------------------------------


def start_long_work(server, calls=2):
    """Requests that take the server seconds each, one after the other; returns when it has all."""
    # Of a simulated device each step takes several times as long.
    steps = checkpoints.LONGEST // 4 if DEVICE == "sim" else checkpoints.LONGEST
    long = request("recurrent", checkpoints.sequence(steps))
    work = [server.stub.ModelInfer.future(long) for _ in range(calls)]
    wait_until(
        lambda: server.metric("sconce_requests_in_flight", model="recurrent") == calls,
        "the requests to arrive",
    )
    return work


@pytest.fixture
def recurrent(repository):
    path = save(checkpoints.recurrent(), place(repository, "recurrent"))
    on_one = "instance_group { kind: KIND_GPU gpus: 0 }" if DEVICE == "sim" else ""
    path.with_name("config.pbtxt").write_text(checkpoints.RECURRENT + on_one)


def test_sigterm_finishes_what_is_in_flight(serve, recurrent):
    server = serve()
    work = start_long_work(server)
    server.signal()
    for call in work:
        assert call.result(timeout=60).model_name == "recurrent"
    assert server.wait_exit() == 0
    assert "Traceback" not in server.log()


def test_sigint_ends_it_too(serve, repository):
    save(constant(1), place(repository, "m"))
    server = serve()
    server.signal(signal.SIGINT)
    assert server.wait_exit() == 0


def test_sigterm_makes_the_server_unready_at_once(serve, recurrent):
    server = serve()
    work = start_long_work(server)
    server.signal()

    def unready():
        try:
            return server.get("/v2/health/ready")[0] != 200
        except OSError:
            return True

    wait_until(unready, "the server to be unready", patience=5)
    assert not all(call.done() for call in work), "it was still finishing requests"
    for call in work:
        call.result(timeout=60)
    assert server.wait_exit() == 0


def test_a_second_signal_ends_at_once(serve, recurrent):
    server = serve()
    work = start_long_work(server, calls=30)
    server.signal()
    time.sleep(0.2)  # two signals in one instant are one
    began = time.monotonic()
    server.signal()
    server.wait_exit(10)
    assert time.monotonic() - began < 3
    assert any(call.exception(timeout=10) for call in work)


def test_grace_is_bounded(serve, recurrent):
    server = serve("--shutdown-grace", "0.5")
    work = start_long_work(server, calls=30)
    began = time.monotonic()
    server.signal()
    server.wait_exit(30)
    # A batch that has begun is not torn; the queue is.
    assert time.monotonic() - began < 15
    codes = {call.exception(timeout=10).code() for call in work if call.exception(timeout=10)}
    assert codes and codes <= {
        grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_it_ends_while_a_file_is_loading(serve, repository):
    save(constant(1), place(repository, "m"))
    server = serve("--shutdown-grace", "3")
    for number in range(4):
        save(checkpoints.resnet18(1000), place(repository, f"late{number}"))
    wait_until(lambda: len(server.index()) > 1, "the new models to be seen")
    server.signal()
    assert server.wait_exit() == 0


# Flags -------------------------------------------------------------------------------------------

FLAGS = [
    "--model-repository", "--grpc-address", "--http-address", "--device", "--threads",
    "--poll-interval", "--settle-time", "--shutdown-grace", "--log-format", "--log-level",
]


@pytest.mark.any_device
def test_help_explains_every_flag():
    done = run_sconce("serve", "--help")
    assert done.returncode == 0
    for flag in FLAGS:
        assert re.search(rf"^\s+{flag}\b.*\w", done.stdout, re.MULTILINE), flag
    assert "0.0.0.0:8001" in done.stdout and "0.0.0.0:8000" in done.stdout


@pytest.mark.any_device
def test_version():
    assert re.fullmatch(r"sconce \d+\.\d+\.\d+\n", run_sconce("--version").stdout)


def refusal(*arguments):
    """The one line with which the command line is refused."""
    done = run_sconce(*arguments)
    assert done.returncode not in (0, None) and done.returncode > 0, done
    lines = [line for line in done.stderr.splitlines() if "--help" not in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.any_device
@pytest.mark.parametrize(
    "flags,words",
    [
        (["--grpc-address", "localhost"], ["--grpc-address", "localhost"]),
        (["--grpc-address", "127.0.0.1:70000"], ["--grpc-address", "70000"]),
        (["--http-address", "127.0.0.1:http"], ["--http-address", "http"]),
        (["--device", "tpu"], ["tpu"]),
        (["--device", "cuda:99"], ["cuda:99"]),
        (["--device", "cuda:x"], ["cuda:x"]),
        (["--threads", "-1"], ["--threads", "-1"]),
        (["--threads", "many"], ["--threads", "many"]),
        (["--poll-interval", "0"], ["--poll-interval", "0"]),
        (["--settle-time", "-1"], ["--settle-time", "-1"]),
        (["--shutdown-grace", "soon"], ["--shutdown-grace", "soon"]),
        (["--log-format", "xml"], ["--log-format", "xml"]),
        (["--log-level", "loud"], ["--log-level", "loud"]),
        (["--turbo"], ["--turbo"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_bad_flag_is_refused_in_one_line(repository, flags, words):
    given = {"--grpc-address": "127.0.0.1:0", "--http-address": "127.0.0.1:0"}
    given.update(zip(flags[::2], flags[1::2]) if len(flags) > 1 else {})
    arguments = [part for pair in given.items() for part in pair]
    line = refusal("serve", "--model-repository", repository, *arguments,
                   *(flags if len(flags) == 1 else []))
    for word in words:
        assert word in line


@pytest.mark.any_device
def test_no_repository_is_refused(tmp_path):
    assert "--model-repository" in refusal("serve")
    missing = tmp_path / "not-there"
    assert str(missing) in refusal("serve", "--model-repository", missing)
    file = tmp_path / "file"
    file.write_text("")
    assert str(file) in refusal("serve", "--model-repository", file)


@pytest.mark.any_device
def test_no_command_is_refused():
    assert run_sconce().returncode > 0
    assert "serve" in run_sconce().stderr + run_sconce("--help").stdout


@pytest.mark.any_device
@pytest.mark.parametrize("flag", ["--grpc-address", "--http-address"])
def test_a_port_in_use_is_named(repository, flag):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        other = {"--grpc-address": "--http-address", "--http-address": "--grpc-address"}[flag]
        done = run_sconce(
            "serve", "--model-repository", repository, "--device", "cpu", flag, address, other,
            "127.0.0.1:0")
    assert done.returncode > 0
    assert address in done.stderr.splitlines()[-1] + done.stdout


@pytest.mark.any_device
def test_device_cpu_needs_no_gpu(serve, repository):
    save(constant(1), place(repository, "m"))
    server = serve(device="auto")
    assert server.infer("m", np.zeros((1, 4))).array[0, 0] == 1


# Logs --------------------------------------------------------------------------------------------


@pytest.mark.any_device
def test_json_logs_are_json_all_through(serve, repository):
    path = save(constant(1), place(repository, "m"))
    server = serve(log_format="json")
    checkpoints.replace(path, constant(2))
    wait_until(lambda: server.infer("m", np.zeros((1, 4))).array[0, 0] == 2, "the swap")
    path.write_bytes(b'\xff\xfe "quotes" \x1b[31m and \\ backslashes')
    wait_until(lambda: server.reason("m"), "the reason")
    server.signal()
    assert server.wait_exit() == 0
    lines = json_lines(server.log())
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line["time"]) for line in lines)
    text = server.log()
    assert "model.pth" in text
    assert "\x1b" not in text


def test_the_log_tells_of_the_swap(serve, repository):
    path = save(constant(1), place(repository, "m"))
    server = serve()
    first = server.infer("m", np.zeros((1, 4)))
    checkpoints.replace(path, constant(2))
    wait_until(lambda: server.infer("m", np.zeros((1, 4))).version == 2, "the swap")
    second = server.infer("m", np.zeros((1, 4)))
    # A swap is published before it is logged.
    wait_until(lambda: second.weights_id in server.log(), "the log line")
    assert first.weights_id in server.log()


def test_the_log_tells_what_was_made_of_the_file(serve, repository):
    state = {f"module.{name}": tensor for name, tensor in checkpoints.mlp().state_dict().items()}
    save({"epoch": 3, "model_state_dict": state}, place(repository, "m"))
    server = serve()
    wait_until(lambda: "version 1 serves" in server.log(), "the log line")
    for words in ("model_state_dict", "'module.' stripped", "relu is assumed"):
        assert words in server.log()


# Isolation ---------------------------------------------------------------------------------------


@pytest.mark.any_device
def test_loader_threads_have_the_lowest_priority(serve, repository):
    """SCHED_IDLE, or as nice as can be: reading a file must not slow requests."""
    path = save(checkpoints.resnet18(1000), place(repository, "m"))
    server = serve()

    def scheduling():
        """{thread: (policy, nice)}; policy 5 is SCHED_IDLE."""
        found = {}
        for task in pathlib.Path(f"/proc/{server.process.pid}/task").iterdir():
            try:
                text = (task / "stat").read_text()
            except OSError:
                continue
            name = text[text.index("(") + 1 : text.rindex(")")]
            fields = text[text.rindex(")") + 2 :].split()
            found[name] = (int(fields[38]), int(fields[16]))
        return found

    checkpoints.replace(path, checkpoints.resnet18(1000, seed=1))
    wait_until(
        lambda: any(policy == 5 or nice >= 19 for policy, nice in scheduling().values()),
        "a thread of the lowest priority")


@pytest.mark.any_device
def test_watched_files_are_not_mapped(serve, repository):
    path = save(checkpoints.resnet18(10), place(repository, "m"))
    server = serve()
    maps = pathlib.Path(f"/proc/{server.process.pid}/maps").read_text()
    assert str(path.parent) not in maps
