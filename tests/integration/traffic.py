"""Requests that flow all through a test, and what may be claimed of their answers afterwards."""

import collections
import threading
import time

import numpy as np
from serving import infer, wait_until

Sample = collections.namedtuple("Sample", "when client rows version weights_id output")


class Traffic:
    """Clients, each on a connection of its own, that send batches of different sizes in a loop.

    A failed request fails the test: `stop` and the end of the `with` block raise for it.
    """

    def __init__(self, server, model, make_input, clients=4, rows=(1, 2, 3, 5)):
        self.server, self.model, self.make_input, self.rows = server, model, make_input, rows
        self._stop = threading.Event()
        self._samples = [[] for _ in range(clients)]
        self.failures = []
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(clients)
        ]

    def _run(self, number):
        with self.server.client() as client:
            turn = number
            while not self._stop.is_set():
                rows = self.rows[turn % len(self.rows)]
                turn += 1
                try:
                    answer = infer(client, self.model, self.make_input(rows))
                    self._samples[number].append(Sample(
                        time.monotonic(), number, rows, answer.version, answer.weights_id,
                        answer.array.copy()))
                except Exception as error:
                    self.failures.append(f"client {number}: {error}")
                    if len(self.failures) > 20:
                        return

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, value, trace):
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
        if kind is None:
            self.check_none_failed()

    def check_none_failed(self):
        assert not self.failures, f"{len(self.failures)} failed: {self.failures[:3]}"
        assert not any(thread.is_alive() for thread in self._threads) or not self._stop.is_set(), (
            "a request was never answered")

    @property
    def samples(self):
        return [sample for samples in self._samples for sample in list(samples)]

    def last(self):
        """The last answer of each client that has one."""
        return [samples[-1] for samples in self._samples if samples]

    def wait_for_output(self, value, patience=30):
        """Until an answer is `value` throughout: then the version that gives it serves."""
        wait_until(
            lambda: self.failures or any(np.all(s.output == value) for s in self.last()),
            f"an answer of {value}", patience)
        self.check_none_failed()

    def check_versions_only_rise(self):
        for samples in self._samples:
            versions = [sample.version for sample in samples]
            assert versions == sorted(versions), "a client saw an older version after a newer one"

    def check_constant_outputs(self):
        """For constant models: no row of another version in an answer, one value and one weights id
        per version. Returns {version: value}."""
        values, ids = {}, {}
        for sample in self.samples:
            assert sample.output.shape[0] == sample.rows
            value = sample.output.flat[0]
            assert np.all(sample.output == value), f"mixed answer: {sample}"
            assert values.setdefault(sample.version, value) == value, f"two outputs: {sample}"
            assert ids.setdefault(sample.version, sample.weights_id) == sample.weights_id
        return values
