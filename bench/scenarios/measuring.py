"""What the scenarios share: processes pinned to processors, windows of load, and comparisons of two
things measured in turn.

On a shared machine seconds of one run mean little; the ratio of neighbours in one run does. So A
and B are measured in turn (A B A B ... A), each B against the mean of the As beside it, and each A
against the A before it: the second spread shows what the machine alone does to a ratio of one.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 60
# The first version of a network runs every batch size before it serves.
FIRST_LOADS = 300
PROCESSORS = sorted(os.sched_getaffinity(0))
# What is measured has one processor, what measures it another.
SERVER_CPU, LOAD_CPU = PROCESSORS[0], PROCESSORS[-1]


def arguments(description):
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "release",
                        help="build folder whose programs are measured")
    return parser


def positive(text):
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def add_pairs(parser, seconds):
    def several(text):
        value = int(text)
        if value < 2:
            raise argparse.ArgumentTypeError(f"expected 2 or more, got {text}")
        return value

    parser.add_argument("--pairs", type=several, default=12, help="windows of each kind")
    parser.add_argument("--seconds", type=positive, default=seconds, help="length of a window")


class Programs:
    def __init__(self, build):
        self.server = build / "sconce"
        self.load = build / "bench" / "sconce_load"
        self.echo = build / "bench" / "sconce_echo"
        self.bare_libtorch = build / "bench" / "sconce_bare_libtorch"
        self.one_tensor = build / "bench" / "sconce_one_tensor"
        self.read_bench = build / "bench" / "sconce_read_bench"
        for program in vars(self).values():
            if not os.access(program, os.X_OK):
                sys.exit(f"error: {program} is missing; run scripts/setup and then "
                         "'cmake --preset release && cmake --build --preset release'.")


def print_machine():
    cpu = platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
        cpu = found[1] if found else cpu
    print(f"{cpu}, {len(PROCESSORS)} processors; load average at the start "
          f"{os.getloadavg()[0]:.2f}; server on processor {SERVER_CPU}, load from {LOAD_CPU}")
    if SERVER_CPU == LOAD_CPU:
        print("warning: there is one processor; what measures disturbs what is measured")


@contextlib.contextmanager
def process(command, cpus, **options):
    """A process on the processors `cpus`, such as 0 or "0,1"; ended with SIGTERM."""
    started = subprocess.Popen(["taskset", "-c", str(cpus), *map(str, command)], **options)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def wait_for(condition, process_, what, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if process_.poll() is not None:
            sys.exit(f"error: {what}: the process ended with status {process_.returncode}")
        if time.monotonic() > deadline:
            sys.exit(f"error: waited {patience} s for {what}")
        time.sleep(0.02)
    return value


class Server:
    """A server that runs, as a benchmark talks to it."""

    def __init__(self, process_, log):
        self.process, self.pid, self._log = process_, process_.pid, pathlib.Path(log)
        self.address = wait_for(lambda: self._listens("gRPC"), process_, "the server's gRPC port")
        self.http = wait_for(lambda: self._listens("HTTP"), process_, "the server's HTTP port")
        wait_for(self._ready, process_, "the server to be ready", FIRST_LOADS)

    def open_log(self):
        """The log from its beginning, for reading as it grows."""
        return self._log.open(errors="replace")

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=PATIENCE) as reply:
            return reply.read().decode()

    def _listens(self, protocol):
        found = re.search(rf"{protocol} listening on (\S+)", self._log.read_text(errors="replace"))
        return found and found[1]

    def _ready(self):
        try:
            self.get("/v2/health/ready")
            return True
        except urllib.error.HTTPError:
            return False


@contextlib.contextmanager
def sconce(programs, repository, *flags, cpus=SERVER_CPU):
    """A Server that is ready, on the processors `cpus`, with one thread to compute."""
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        command = [programs.server, "serve", "--model-repository", repository, "--device", "cpu",
                   "--threads", "1", "--grpc-address", "127.0.0.1:0", "--http-address",
                   "127.0.0.1:0", *flags]
        with process(command, cpus, stdout=log, stderr=log) as started:
            try:
                yield Server(started, log.name)
            except SystemExit:
                print(pathlib.Path(log.name).read_text(), file=sys.stderr)
                raise


def load(programs, address, pid, model, *flags):
    """One run of the load generator as its JSON says it."""
    done = subprocess.run(
        [programs.load, "--json", "--address", address, "--model", model, "--pin", str(LOAD_CPU),
         "--server-pid", str(pid), *map(str, flags)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: sconce_load: {done.stderr.strip()}")
    result = json.loads(done.stdout)
    if result["failed"]:
        sys.exit(f"error: {result['failed']} requests failed: {result['failures']}")
    return result


def rates(result):
    """Rows per second, and per second of the server's processor time."""
    rows_per_request = result["rows_per_s"] / result["requests_per_s"]
    return {"second": result["rows_per_s"],
            "processor second": rows_per_request * 1e6 / result["server_us_per_request"]}


def in_turn(measure_a, measure_b, pairs):
    """Dicts of rates, as A B A B ... A gave them."""
    a, b = [measure_a()], []
    for _ in range(pairs):
        b.append(measure_b())
        a.append(measure_a())
    return a, b


def spread(values):
    """'median (middle half; smallest-largest)'."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return (f"{median:.3f} (middle half {low:.3f}-{high:.3f}, all {min(values):.3f}-"
            f"{max(values):.3f})")


def print_comparison(title, unit, name_a, name_b, a, b):
    print(f"\n{title}, {len(b)} pairs")
    for per in a[0]:
        rates_a, rates_b = [window[per] for window in a], [window[per] for window in b]
        ratios = [2 * of_b / (before + after)
                  for of_b, before, after in zip(rates_b, rates_a, rates_a[1:])]
        same = [after / before for before, after in zip(rates_a, rates_a[1:])]
        print(f"  {unit} per {per}: {name_b} {statistics.median(rates_b):.5g}, "
              f"{name_a} {statistics.median(rates_a):.5g}")
        print(f"    {name_b + ' / ' + name_a:<18} {spread(ratios)}")
        print(f"    {name_a + ' / ' + name_a:<18} {spread(same)}", flush=True)
