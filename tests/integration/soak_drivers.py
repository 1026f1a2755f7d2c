"""What the randomised test (soak.py) does to each model, step by step, and what must come of it.

A driver has one model. It knows what the model's folder holds and what answers; each operation says
beforehand what may be answered while it is under way, and what must be answered afterwards. Which
operations are possible follows from the operations before alone, so a seed gives the same sequence
again. Used by one thread at a time.
"""

import os
import random
import shutil
import time

import checkpoints
import numpy as np
import torch
from serving import wait_until
from soak_model import NOT_SERVED, Apart, Constant, Epoch, History, Identities, Line, Real

PATIENCE = 40
# Longer than a change needs to be noticed and loaded (Server.QUICK).
NOTICE = 0.5
ROWS = (1, 2, 3, 5)


class Driver:
    CONFIG = ""
    FILE = "model.pth"
    # Whether files of one number are replaced.
    NUMBERS_ARE_REUSED = False

    def __init__(self, world, name, family, seed):
        self.world, self.name, self.family = world, name, family
        self.rng = random.Random(f"{seed}/{name}")
        self.folder = world.repository / name
        self.history = History(Epoch(NOT_SERVED))
        self.identities = Identities(self.NUMBERS_ARE_REUSED)
        self.highest = 0  # of the versions that were published
        self._value = 0
        self._trunk = 0

    # What the world asks -------------------------------------------------------------------------

    def step(self, round_number):
        """One operation, chosen by the seed."""
        weights, operations = zip(*self.possible())
        operation = self.rng.choices(operations, weights)[0]
        self.world.note(round_number, self.name, operation.__name__)
        operation()

    def numbers_to_ask(self):
        return list(self.history.now.numbers)

    def forget_kept(self):
        """The version that is kept for a rollback may have been let go."""

    def write_meanwhile(self, pause):
        """New weights while they cannot be loaded, or only just."""

    def catch_up(self):
        """They can be loaded now."""

    # Tools of the operations ---------------------------------------------------------------------

    @property
    def server(self):
        return self.world.server

    def say(self, text):
        self.world.note(None, self.name, "  " + text)

    def next_value(self):
        self._value += 1
        return float(self._value)

    def next_net(self):
        """(value, network): every other time only the head differs from the one before."""
        value = self.next_value()
        if self.rng.random() < 0.5:
            self._trunk += 1
        return value, self.family.net(value, self._trunk)

    def probe(self, number=0):
        return self.world.ask(self, self.rng.choice(ROWS), number)

    def loads(self, outcome):
        # On a machine that is busy enough the HTTP port drops a connection now and then.
        for patience in (3, 2, 1):
            try:
                return self.server.metric("sconce_loads_total", model=self.name, outcome=outcome)
            except OSError:
                if patience == 1:
                    raise

    def wait_for(self, condition, what):
        return wait_until(condition, f"{self.name}: {what}", PATIENCE)

    def stays(self, what):
        """What answers goes on to answer for as long as a change would take."""
        outcomes = self.history.now.outcomes
        until = time.monotonic() + NOTICE
        while time.monotonic() < until:
            answer = self.probe()
            assert answer.outcome in outcomes | self.world.statuses_of_trouble, (
                f"{self.name}: {what}: {answer}")
            time.sleep(0.01)

    def encode(self, net):
        path = checkpoints.save(net, self.world.scratch / f"{self.name}-{self.FILE}")
        return path.read_bytes()

    def call(self, method, **fields):
        return self.server.admin(method, model=self.name, **fields)


class FileDriver(Driver):
    """One weights file, which is replaced."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.path = self.folder / self.FILE
        self.on_disk = None  # the value that the folder holds; None: nothing that can be served
        self.wanted = None  # what following the folder leads to
        self.live = None  # (value, number) of what answers
        self.last = None  # the same, of what answered last
        self.restarted = False  # and nothing was published since
        # What a rollback must bring back, and whether that came with a load: (live, inline).
        self.before = None
        self.pinned = self.unloaded = self.inline = self.absent = False
        # What the folder holds is sound, and not what clients are served: only Reload accepts it.
        self.foreign = False

    @property
    def follows(self):
        return not (self.pinned or self.unloaded or self.inline)

    def prepare(self):
        """The folder as it is before the server's first start."""
        self.folder.mkdir()
        if self.CONFIG:
            (self.folder / "config.pbtxt").write_text(self.CONFIG)
        value, net = self.next_net()
        self.write_bytes(self.encode(net), "rename")
        self.on_disk = self.wanted = value
        self.history.begin(Epoch({value} | NOT_SERVED))

    def started(self):
        """The server is ready, for the first time or again."""
        self.before = None
        self.restarted = True
        if self.unloaded:
            return self.not_served()
        self.published(self.on_disk)

    def before_restart(self):
        """Brings onto the disk what answers: else nobody could answer it afterwards."""
        if self.absent:
            self.bring_back()
        elif self.inline or self.on_disk is None or (
                not self.unloaded and self.on_disk != self.live[0]):
            if self.pinned:
                self.unpin()
            if self.inline or self.unloaded:
                self.write()
                self.reload()
            else:
                self.write()

    def possible(self):
        if self.absent:
            return [(1, self.bring_back)]
        found = [(6, self.write)]
        if not self.foreign and (self.on_disk is not None or self.follows):
            found += [(4 if self.unloaded or self.inline else 1, self.reload)]
        if self.follows:
            found += [(1, self.pin)]
            if self.on_disk is not None:
                found += [(3, self.spoil), (0.5, self.remove_folder), (0.7, self.remove_file)]
        if self.pinned:
            found += [(4, self.unpin)]
        if not self.unloaded and not self.inline:
            found += [(0.7, self.unload), (0.7, self.load_inline)]
        if self.before and not self.unloaded:
            found += [(2.5, self.rollback)]
        return found

    def forget_kept(self):
        self.before = None

    def write_meanwhile(self, pause):
        self.awaited = None
        if not self.follows or self.absent or type(self) not in (FileDriver, InPlaceDriver):
            return
        value, net = self.next_net()
        self.history.begin(self.history.now.until(Epoch({value})))
        self.write_bytes(self.encode(net), "rename")
        self.on_disk = self.wanted = self.awaited = value
        pause()

    def catch_up(self):
        if self.awaited is not None:
            self.wait_for(lambda: self.probe().outcome == self.awaited, "what was written")
            self.published(self.awaited)
        self.before = None

    # Files ---------------------------------------------------------------------------------------

    def write_bytes(self, data, way=None):
        way = way or self.rng.choice(("rename", "rename", "copy", "slow copy"))
        self.say(way)
        self.foreign = False
        if way == "rename":
            beside = self.folder / f".{self.FILE}.new"
            beside.write_bytes(data)
            os.replace(beside, self.path)
        elif way == "copy":
            self.path.write_bytes(data)
        else:
            with open(self.path, "wb", buffering=0) as file:
                for third in range(3):
                    if third:
                        # Longer than the settling time: only the structure tells that it is a part.
                        self.stays("a part of a file was served")
                    file.write(data[third * len(data) // 3 : (third + 1) * len(data) // 3])

    def spoilt(self):
        """(what is wrong, bytes that must never serve)."""
        good = self.encode(self.family.net(self.next_value(), self._trunk))
        nan = self.family.net(1.0).state_dict()
        name = self.rng.choice(list(nan))
        nan[name].view(-1)[self.rng.randrange(nan[name].numel())] = self.rng.choice(
            (float("nan"), float("inf")))
        missing = dict(list(self.family.net(1.0).state_dict().items())[1:])
        return self.rng.choice([
            ("empty", lambda: b""),
            ("garbage", lambda: self.rng.randbytes(len(good))),
            ("truncated", lambda: good[: self.rng.randrange(len(good))]),
            ("text", lambda: b"<html>504 Gateway Time-out</html>"),
            ("not finite", lambda: self.encode(nan)),
            ("not finite", lambda: self.encode(nan)),
            ("a tensor too few", lambda: self.encode(missing)),
            ("another network", lambda: self.encode(checkpoints.mlp((4, 8, 8, 4)))),
            ("more outputs", lambda: self.encode(
                {**self.family.net(1.0).state_dict(), **self.wider_head()})),
        ])

    def wider_head(self):
        state = self.family.net(1.0).state_dict()
        *_, weight, bias = state
        return {weight: torch.zeros(7, state[weight].shape[1]), bias: torch.zeros(7)}

    # Operations ----------------------------------------------------------------------------------

    def write(self):
        value, net = self.next_net()
        self.on_disk = self.wanted = value
        data = self.encode(net)
        if not self.follows:
            self.say("which is not to be followed")
            self.write_bytes(data, "rename")
            self.stays("it does not follow the folder")
            return
        self.becomes(value, lambda: self.write_bytes(data))

    def spoil(self):
        what, make = self.spoilt()
        self.say(what)
        rejected = self.loads("rejected")
        self.on_disk = None
        self.write_bytes(make(), "rename" if what == "not finite" else None)
        self.foreign = what in ("another network", "more outputs")
        self.wait_for(lambda: self.loads("rejected") > rejected, f"'{what}' to be refused")
        self.wait_for(lambda: self.server.reason(self.name), f"why '{what}' is refused")
        self.wanted = self.live[0]
        self.probe()

    def remove_file(self):
        self.path.unlink()
        self.on_disk = None
        self.wait_for(lambda: self.server.reason(self.name), "the complaint that the file is gone")
        self.wanted = self.live[0]
        self.probe()

    def remove_folder(self):
        self.gone(lambda: shutil.rmtree(self.folder))
        self.absent, self.on_disk = True, None

    def bring_back(self):
        self.folder.mkdir()
        if self.CONFIG:
            (self.folder / "config.pbtxt").write_text(self.CONFIG)
        self.absent = False
        self.write()

    def pin(self):
        self.call("Pin")
        self.pinned = True

    def unpin(self):
        self.pinned = False
        if self.follows and self.on_disk is not None and self.wanted != self.live[0]:
            self.becomes(self.wanted, lambda: self.call("Unpin"))
        else:
            self.call("Unpin")
            self.probe()

    def reload(self):
        by_admin = self.rng.random() < 0.5
        load = lambda: self.call("Reload") if by_admin else self.server.load(self.name)
        if self.on_disk is None:
            error = self.world.refusal(load)
            assert error in self.world.statuses_of_trouble | {
                "INVALID_ARGUMENT", "DATA_LOSS", "FAILED_PRECONDITION", "NOT_FOUND"}, (
                f"{self.name}: Load of a file that cannot be served ended with {error}")
            self.probe()
            return
        self.unloaded = False
        self.wanted = self.on_disk
        self.becomes(self.on_disk, lambda: self.world.persist(load))
        self.inline = False

    def unload(self):
        self.gone(lambda: self.server.unload(self.name))
        self.unloaded = True

    def load_inline(self):
        value, net = self.next_net()
        data = self.encode(net)
        self.becomes(value, lambda: self.world.persist(
            lambda: self.server.load(self.name, files={self.FILE: data})))
        self.inline = True

    def rollback(self):
        (value, number), inline = self.before
        self.becomes(value, lambda: self.call("Rollback"), number)
        self.inline = inline
        self.before = None
        self.wanted = value

    # What comes of them --------------------------------------------------------------------------

    def becomes(self, value, act, number=None):
        """`value` must answer after act(), as version `number` or as a higher one than ever."""
        self.history.begin(self.history.now.until(Epoch({value})))
        act()
        self.wait_for(lambda: self.probe().outcome == value, f"an answer of {value}")
        self.published(value, number)

    def published(self, value, number=None):
        answer = self.probe()
        assert answer.outcome == value, f"{self.name}: expected {value}, got {answer}"
        if number is not None:
            assert answer.number == number, f"{self.name}: expected version {number}, got {answer}"
        elif self.restarted and self.last == (value, self.highest):
            # After a restart the last version comes back as what it was.
            assert answer.number == self.highest, f"{self.name}: was {self.last}, got {answer}"
        else:
            assert answer.number > self.highest, (
                f"{self.name}: expected a version above {self.highest}, got {answer}")
        self.highest = max(self.highest, answer.number)
        # The same weights once more replace themselves.
        if self.live is None or self.live[0] != value:
            self.before = self.retained()
        self.live = self.last = (value, answer.number)
        self.restarted = False
        self.history.begin(Epoch({value}, {answer.number: frozenset({value})}))

    def retained(self):
        """What a rollback brings back once something else answers."""
        return self.live and (self.live, self.inline)

    def gone(self, act):
        self.history.begin(self.history.now.until(Epoch(NOT_SERVED)))
        act()
        self.wait_for(lambda: self.probe().outcome in NOT_SERVED, "the model to be out of service")
        self.not_served()

    def not_served(self):
        self.history.begin(Epoch(NOT_SERVED))
        self.live = self.before = None


class ConfigMapDriver(FileDriver):
    """The same in a volume that kubelet writes."""

    _flips = 0

    def write_bytes(self, data, way=None):
        self.foreign = False
        self._flips += 1
        folder = self.folder / f"..2026_{self._flips:05}"
        folder.mkdir()
        (folder / self.FILE).write_bytes(data)
        link = self.folder / "..data_tmp"
        link.symlink_to(folder.name)
        os.replace(link, self.folder / "..data")
        if not self.path.is_symlink():
            self.path.symlink_to(f"..data/{self.FILE}")
        for old in self.folder.glob("..2026_*"):
            if old != folder:
                shutil.rmtree(old)


class InPlaceDriver(FileDriver):
    """Weights that are written over those that answer: there is nothing to go back to."""

    CONFIG = "swap { mode: IN_PLACE }\n"
    FILE = "model.safetensors"

    def next_value(self):
        return super().next_value() + 0.5

    def retained(self):
        return None


class ManualDriver(FileDriver):
    """New versions wait until they are promoted."""

    CONFIG = "swap { promotion: MANUAL }\n"
    held = None

    def possible(self):
        found = [(3, self.write_held), (2, self.spoil)]
        if self.held is not None:
            found += [(5, self.promote)]
        if self.before and self.held is None:
            found += [(2, self.rollback)]
        return found

    def write_held(self):
        held = self.loads("held")
        value, net = self.next_net()
        self.write_bytes(self.encode(net))
        self.wait_for(lambda: self.loads("held") > held, f"{value} to be held")
        self.on_disk = self.held = value
        self.stays("it was promoted by nobody")

    def spoil(self):
        super().spoil()
        # What the folder does not hold any more may be let go.
        self.held = None

    def promote(self):
        value, self.held = self.held, None
        self.wanted = value
        self.becomes(value, lambda: self.call("Promote"))

    def before_restart(self):
        if self.on_disk is None or self.held is None and self.on_disk != self.live[0]:
            self.write_held()
        if self.held is not None:
            self.promote()


class CanaryDriver(FileDriver):
    """A new version answers half of the batches first."""

    CONFIG = "swap { canary { share: 0.5 seconds: 0.4 max_latency_ratio: 1000 } }\n"

    def possible(self):
        found = [(4, self.write), (2, self.spoil), (3, self.write_overflowing)]
        if self.before:
            found += [(2, self.rollback)]
        return found

    def becomes(self, value, act, number=None):
        self.history.begin(self.history.now.until(Epoch({value})))
        act()

        def settled():
            answer = self.probe()
            (status,) = self.call("Status").models
            return answer.outcome == value and [answer.number] == [
                version.number for version in status.answering]

        self.wait_for(settled, f"{value} to be promoted")
        self.published(value, number)

    def write_overflowing(self):
        """Weights that are finite, and answer what is not."""
        withdrawn = self.loads("withdrawn")
        before = self.history.now
        self.history.begin(before.until(Epoch({float("inf")})))
        self.write_bytes(self.encode(self.family.overflowing()), "rename")
        self.wait_for(lambda: self.probe() and self.loads("withdrawn") > withdrawn,
                      "the canary to be withdrawn")
        self.on_disk = None
        self.wanted = self.live[0]
        self.history.begin(before)
        self.probe()


class NumberedDriver(Driver):
    """Numbered folders, of which the two highest are served."""

    CONFIG = "version_policy { latest { num_versions: 2 } }\n"
    NUMBERS_ARE_REUSED = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.versions = {}  # what each folder holds that can be served
        self.spoilt = None  # the number of one that cannot

    def prepare(self):
        self.folder.mkdir()
        (self.folder / "config.pbtxt").write_text(self.CONFIG)
        for number in (1, 2):
            self.put(number)
        self.history.begin(self.epoch().also(NOT_SERVED))

    def started(self):
        self.settle()

    def before_restart(self):
        if self.spoilt:
            self.repair()

    def possible(self):
        if self.spoilt:
            return [(2, self.repair), (1, self.replace)]
        found = [(3, self.add), (3, self.replace), (1, self.add_spoilt)]
        if len(self.versions) > 2:
            found += [(1, self.remove_highest), (1, self.remove_lowest)]
        return found

    def epoch(self):
        served = sorted(self.versions)[-2:]
        return Epoch({self.versions[served[-1]]},
                     {number: frozenset({self.versions[number]}) for number in served})

    def put(self, number):
        value, net = self.next_net()
        path = self.folder / str(number) / self.FILE
        path.parent.mkdir(exist_ok=True)
        beside = path.with_name(".new.pth")
        beside.write_bytes(self.encode(net))
        os.replace(beside, path)
        self.versions[number] = value

    def settle(self):
        after = self.epoch()
        everything = {0: after.outcomes, **after.numbers}

        def settled():
            return all(self.probe(number).outcome in outcomes
                       for number, outcomes in everything.items())

        self.wait_for(settled, f"versions {everything}")
        for number in set(self.history.now.numbers) - set(after.numbers):
            self.wait_for(lambda: self.probe(number).outcome in NOT_SERVED,
                          f"version {number} to be gone")
        self.history.begin(after)

    def add(self):
        self.change_to({max(self.versions) + 1: True})

    def replace(self):
        self.change_to({self.rng.choice(sorted(self.versions)[-2:]): True})

    def change_to(self, numbers):
        """Folders that are written (True) or removed (False)."""
        values = dict(self.versions)
        for number, written in numbers.items():
            values.pop(number, None)
            if written:
                values[number] = float(self._value + 1)
        served = sorted(values)[-2:]
        after = Epoch({values[served[-1]]},
                      {number: frozenset({values[number]}) for number in served})
        self.history.begin(self.history.now.until(after))
        for number, written in numbers.items():
            if written:
                self.put(number)
            else:
                del self.versions[number]
                shutil.rmtree(self.folder / str(number))
        assert self.versions == values
        self.settle()

    def remove_highest(self):
        self.change_to({max(self.versions): False})

    def remove_lowest(self):
        self.change_to({min(self.versions): False})

    def add_spoilt(self):
        number = max(self.versions) + 1
        rejected = self.loads("rejected")
        (self.folder / str(number)).mkdir()
        (self.folder / str(number) / self.FILE).write_bytes(self.rng.randbytes(4000))
        self.wait_for(lambda: self.loads("rejected") > rejected, f"{number} to be refused")
        self.spoilt = number
        self.settle()

    def repair(self):
        number, self.spoilt = self.spoilt, None
        self.change_to({number: True})


def drivers(world, seed):
    """One model of each kind."""
    return [kind(world, name, family, seed) for name, kind, family in (
        ("plain", FileDriver, Constant()),
        ("real", FileDriver, Real(ROWS)),
        ("volume", ConfigMapDriver, Constant()),
        ("numbered", NumberedDriver, Constant()),
        ("manual", ManualDriver, Constant()),
        ("canary", CanaryDriver, Line()),
        ("over", InPlaceDriver, Apart()),
    )]
