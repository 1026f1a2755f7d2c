"""The server while weights are swapped, seen from outside: its log, its metrics, its memory, and
the requests that it is sent."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import measuring
import swap_windows as windows

# The longest that one swap may take.
PATIENCE = 120


class Watched:
    """A server with its swaps: what it logs, its load steps, its memory."""

    def __init__(self, server):
        self.server = server
        self.log, self.unread = server.open_log(), ""

    def serves(self, model, version):
        """Waits until the log says so; when that was seen."""
        said = re.compile(rf"model '{model}': version {version} serves")
        failed = re.compile(rf"model '{model}': .*(refused|not served yet).*")
        deadline = time.monotonic() + PATIENCE
        while not (found := said.search(self.unread)):
            wrong = failed.search(self.unread)
            if wrong or time.monotonic() > deadline or self.server.process.poll() is not None:
                sys.exit(f"error: version {version} of '{model}' is not served: "
                         f"{wrong[0] if wrong else self.unread[-2000:]}")
            time.sleep(0.005)
            self.unread += self.log.read()
        seen = time.monotonic_ns()
        self.unread = self.unread[found.end():]
        return seen

    def steps(self, model):
        """Seconds spent in each step of this model's loads so far."""
        return {step: float(value) for step, value in re.findall(
            rf'^sconce_load_step_seconds_sum\{{model="{model}",step="(\w+)"\}} (\S+)$',
            self.server.get("/metrics"), re.M)}

    def status_bytes(self, field):
        text = pathlib.Path(f"/proc/{self.server.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M)[1]) * 1024

    def pss_bytes(self):
        text = pathlib.Path(f"/proc/{self.server.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss:\s+(\d+) kB", text, re.M)[1]) * 1024

    def forget_peak(self):
        """VmHWM counts from here on."""
        pathlib.Path(f"/proc/{self.server.pid}/clear_refs").write_text("5")


class Load:
    """Open-loop requests to one model, until it is stopped."""

    def __init__(self, programs, server, model, rate, folder):
        self.model, self.rate = model, rate
        self.path = pathlib.Path(folder) / f"{model.name}.records"
        self.process = subprocess.Popen(
            [programs.load, "--json", "--address", server.address, "--model", model.name, "--rate",
             str(rate), "--warmup", "0.5", "--duration", "86400", "--timeout", "60", "--pin",
             str(measuring.LOAD_CPU), "--record", self.path],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def stop(self):
        """The records of what was sent."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=PATIENCE)
        if self.process.returncode != 0:
            sys.exit(f"error: sconce_load: {err.strip()}")
        records = windows.read(self.path)
        report = json.loads(out)
        if len(records) != report["requests"]:
            sys.exit(f"error: {report['requests']} requests, {len(records)} records")
        self.failures = report["failures"]
        return records

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
