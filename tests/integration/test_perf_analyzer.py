"""perf_analyzer, the load generator Triton's users have, runs against the server as it is."""

import csv
import os
import subprocess
import threading

import checkpoints
import pytest
from checkpoints import constant, place, replace, save
from serving import wait_until

PERF_ANALYZER = os.environ.get("SCONCE_PERF_ANALYZER", "")

pytestmark = pytest.mark.skipif(
    not PERF_ANALYZER, reason="SCONCE_PERF_ANALYZER is not set: no perf_analyzer for this machine")


def perf_analyzer(server, model, *flags):
    return subprocess.Popen(
        [PERF_ANALYZER, "-m", model, "-i", "grpc", "-u", server.grpc_address,
         "--measurement-interval", "500", "--stability-percentage", "500", "--percentile", "99",
         "--max-trials", "10", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def test_concurrency(serve, repository, tmp_path):
    save(checkpoints.mlp((16, 32, 5)), place(repository, "m"))
    report = tmp_path / "report.csv"
    output = finish(perf_analyzer(
        serve(), "m", "--concurrency-range", "1:4:3", "-f", str(report)))
    assert "throughput" in output
    rows = list(csv.DictReader(report.open()))
    assert {row["Concurrency"] for row in rows} == {"1", "4"}
    assert all(float(row["Inferences/Second"]) > 0 for row in rows)


def test_asynchronous_with_batches(serve, repository):
    save(checkpoints.mlp((16, 32, 5)), place(repository, "m"))
    finish(perf_analyzer(serve(), "m", "-a", "-b", "4", "--concurrency-range", "8"))


def test_request_rate(serve, repository):
    save(checkpoints.mlp((16, 32, 5)), place(repository, "m"))
    finish(perf_analyzer(serve(), "m", "--request-rate-range", "200"))


def test_swaps_in_the_middle(serve, repository):
    """Statistics go on across swaps, and no request fails."""
    path = save(constant(0), place(repository, "m"))
    server = serve()
    process = perf_analyzer(server, "m", "--concurrency-range", "4", "--measurement-interval", "1500")
    output = []
    reader = threading.Thread(target=lambda: output.append(process.communicate(timeout=120)[0]))
    reader.start()
    wait_until(
        lambda: server.metric("sconce_requests_total", model="m", code="OK") > 100, "requests")
    swaps = 0
    while process.poll() is None and swaps < 200:
        swaps += 1
        replace(path, constant(swaps))
        wait_until(
            lambda: process.poll() is not None or server.index()["m"].version == str(swaps + 1),
            "the swap")
    reader.join(120)
    assert process.returncode == 0, output[0]
    assert swaps >= 2
    assert server.metric("sconce_requests_total", model="m") == server.metric(
        "sconce_requests_total", model="m", code="OK")
