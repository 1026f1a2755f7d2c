"""That the GPU benchmark runs and that what it writes is what it says: on the CPU and on a simulated
device, with networks so small that its figures mean nothing."""

import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytest
from serving import BINARY, ROOT

sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from find_gpus import find_gpus

GPUS, _ = find_gpus()
BUILD = pathlib.Path(os.environ.get("SCONCE_BUILD_DIR", BINARY.parent))
BENCH = BUILD / "bench" / "sconce_gpu_bench"
ON_SIM = BUILD / "tests" / "gpu" / "gpu_bench_on_sim"


def run(*arguments, program=BENCH):
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True,
                          timeout=200, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module", params=["cpu", "sim:0"])
def written(request, tmp_path_factory):
    """(JSON, Markdown) of one quick run."""
    folder = tmp_path_factory.mktemp("bench")
    program = BENCH if request.param == "cpu" else ON_SIM
    done = run("--device", request.param, "--quick", "--pairs", 2, "--seconds", 0.05, "--precisions",
               "fp32", "--json", folder / "gpu.json", "--markdown", folder / "gpu.md",
               program=program)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "gpu.json").read_text()), (folder / "gpu.md").read_text()


def test_every_scenario_of_every_workload_is_measured(written):
    found, _ = written
    names = [comparison["name"] for comparison in found["comparisons"]]
    for workload in ("resnet50", "bert"):
        for graphs in ("graphs", "no graphs"):
            assert f"offline {workload} fp32, {graphs}" in names
        assert any(name.startswith("p99 below") and workload in name for name in names)
        assert any(workload in swaps["name"] for swaps in found["swaps"])
    assert any(name.startswith("load, ") for name in names)
    assert len(names) == 7 and len(found["swaps"]) == 2


def test_ratios_and_verdicts_are_those_of_the_windows(written):
    for comparison in written[0]["comparisons"]:
        a, b = ([window["per_second"] for window in comparison[side]["windows"]] for side in "ab")
        assert len(a) == len(b) + 1 == 3
        assert min(a + b) > 0
        ratios = [2 * of_b / (before + after) for of_b, before, after in zip(b, a, a[1:])]
        same = [after / before for before, after in zip(a, a[1:])]
        assert comparison["ratio"]["median"] == pytest.approx(statistics.median(ratios))
        assert comparison["a_against_itself"]["median"] == pytest.approx(statistics.median(same))
        failed = sum(window["failed"] for side in "ab" for window in comparison[side]["windows"])
        met = comparison["ratio"]["median"] >= comparison["aim"] and not failed
        if "bound_ms" in comparison:
            p99 = [window["p99_ms"] for window in comparison["b"]["windows"]]
            assert comparison["p99_ms"]["median"] == pytest.approx(statistics.median(p99))
            met = met and comparison["p99_ms"]["median"] <= comparison["bound_ms"]
        assert comparison["met"] == met
    aims = {comparison["name"].split()[0]: comparison["aim"]
            for comparison in written[0]["comparisons"]}
    assert aims == {"offline": 0.97, "p99": 0.9, "load,": 0.9}


def test_swaps_fail_no_request(written):
    for swaps in written[0]["swaps"]:
        assert swaps["swaps"] == 2 and swaps["failed"] == 0
        assert swaps["within"]["requests"] > 0 and swaps["outside"]["requests"] > 0
        for side in ("within", "outside"):
            latencies = swaps[side]
            assert 0 < latencies["p50_ms"] <= latencies["p99_ms"] <= latencies["max_ms"]


def test_the_table_says_what_the_json_says(written):
    found, table = written
    assert found["settings"]["quick"] and "its figures mean nothing" in table
    assert found["machine"]["processor"] in table and found["machine"]["command"] in table
    for comparison in found["comparisons"]:
        row = next(line for line in table.splitlines()
                   if line.startswith(f"| {comparison['name']} |"))
        assert f"**{comparison['ratio']['median']:.3f}**" in row
        verdict = "met" if comparison["met"] else "missed"
        assert f"{comparison['aim']:.2f}: {verdict}" in row


@pytest.mark.skipif(bool(GPUS), reason="there is a GPU: scripts/bench gpu runs the benchmark on it")
def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 77
    assert done.stdout.startswith("no GPU: skipped: ")
