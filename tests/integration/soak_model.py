"""The simple model that the randomised test (soak.py) compares the server with: what a model may
answer at each moment, and whether an answer is one of those.

An outcome is the value of the weights that answered (a number), MIXED, or the name of a status.
"""

import bisect
import collections
import threading
import time

import checkpoints
import numpy as np
import torch
from torch import nn

MIXED = "MIXED"
NOT_SERVED = frozenset({"NOT_FOUND", "UNAVAILABLE"})

# `asked`: the version asked for, or 0. `number`, `weights_id`: what the answer says of itself.
Answer = collections.namedtuple(
    "Answer", "model asked rows sent received outcome number weights_id detail")


def fill(net, seed):
    """Weights from a generator of their own: torch's is shared by all threads."""
    generator = torch.Generator().manual_seed(int(seed))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(-0.4, 0.4, generator=generator)
    return net


class Constant:
    """A small network whose every output is the value. `trunk` chooses the weights below the head,
    which matter to nobody: two values on one trunk differ in the head alone."""

    WIDTH = 32
    inputs = WIDTH

    def net(self, value, trunk=0):
        layers = [nn.Linear(self.WIDTH, self.WIDTH), nn.ReLU(),
                  nn.Linear(self.WIDTH, self.WIDTH), nn.ReLU()]
        return nn.Sequential(
            *fill(nn.Sequential(*layers), trunk), checkpoints.constant(value, self.WIDTH))

    def batch(self, rows):
        return np.ones((rows, self.inputs), np.float32)

    def value_of(self, rows, array):
        value = array.flat[0]
        return float(value) if np.all(array == value) else MIXED


class Apart(Constant):
    """The same without a tensor that another model has, too: what is shared is not written over."""

    WIDTH = 48
    inputs = WIDTH

    def net(self, value, trunk=0):
        return super().net(value, trunk + 1_000_000)


class Line(Constant):
    """One linear layer with the same property, which can be made to overflow where its input is
    not zero."""

    inputs = 4

    def net(self, value, trunk=0):
        return checkpoints.constant(value, self.inputs)

    def overflowing(self):
        net = checkpoints.constant(1, self.inputs)
        nn.init.constant_(net.weight, 3e38)
        return net


class Real:
    """Weights whose answers are computed by Python's torch; the value is the seed. Rows of two
    versions in one answer are told by no version's answers being the same."""

    SIZES = (8, 24, 4)
    inputs = SIZES[0]

    def __init__(self, sizes_of_batches):
        self._batches = {rows: checkpoints.random_images(rows, self.inputs, seed=rows)
                         for rows in sizes_of_batches}
        self._expected = {}

    def net(self, value, trunk=0):
        net = fill(checkpoints.mlp(self.SIZES), value)
        self._expected[float(value)] = {
            rows: checkpoints.expected(net, batch) for rows, batch in self._batches.items()}
        return net

    def batch(self, rows):
        return self._batches[rows]

    def value_of(self, rows, array):
        # The newest first: it is mostly one of the last two.
        for value, expected in reversed(list(self._expected.items())):
            if np.allclose(array, expected[rows], atol=1e-5):
                return value
        return MIXED


class Epoch:
    """What may be answered from some moment on."""

    def __init__(self, outcomes, numbers=None, others=NOT_SERVED):
        self.outcomes = frozenset(outcomes)  # to requests that ask for no version
        self.numbers = numbers or {}  # to those that ask for one: {number: outcomes}
        self.others = others  # to those that ask for another

    def of(self, asked):
        return self.numbers.get(asked, self.others) if asked else self.outcomes

    def until(self, after):
        """This one, while it becomes `after`."""
        numbers = {number: frozenset(self.of(number)) | after.of(number)
                   for number in {*self.numbers, *after.numbers}}
        return Epoch(self.outcomes | after.outcomes, numbers, self.others | after.others)

    def also(self, outcomes):
        return Epoch(self.outcomes | outcomes,
                     {number: frozenset(few) | outcomes for number, few in self.numbers.items()},
                     self.others | outcomes)


class History:
    """The epochs of one model. An answer is right if one of the epochs between its sending and its
    receiving allows it: so no older weights may answer a request that was sent after newer ones
    were seen to answer. Thread-safe."""

    def __init__(self, epoch):
        self._lock = threading.Lock()
        self._since, self._epochs = [0.0], [epoch]

    @property
    def now(self):
        return self._epochs[-1]

    def begin(self, epoch):
        with self._lock:
            self._since.append(time.monotonic())
            self._epochs.append(epoch)

    def allowed(self, answer):
        with self._lock:
            first = bisect.bisect_right(self._since, answer.sent) - 1
            last = bisect.bisect_right(self._since, answer.received)
            return frozenset().union(
                *(epoch.of(answer.asked) for epoch in self._epochs[first:last]))

    def forget_before(self, moment):
        with self._lock:
            first = max(bisect.bisect_right(self._since, moment) - 1, 0)
            del self._since[:first], self._epochs[:first]


class Identities:
    """What versions say of themselves: a number stands for one value all the time, and a weights id
    for one set of weights. REQUIRES: used by one thread at a time."""

    def __init__(self, numbers_are_reused):
        # Of numbered folders, in which files are replaced.
        self._numbers_are_reused = numbers_are_reused
        self._value_of_number, self._value_of_id = {}, {}

    def wrong(self, answer):
        """What is wrong with an answer that has a value; empty if nothing."""
        if answer.asked and answer.asked != answer.number:
            return f"version {answer.asked} was asked for, {answer.number} answered"
        told = self._value_of_id.setdefault(answer.weights_id, answer.outcome)
        if told != answer.outcome:
            return f"weights {answer.weights_id} answered {told} before"
        if not self._numbers_are_reused:
            told = self._value_of_number.setdefault(answer.number, answer.outcome)
            if told != answer.outcome:
                return f"version {answer.number} answered {told} before"
        return ""
