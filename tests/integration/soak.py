"""The randomised test of the whole server: models of each kind are written, spoilt, rolled back,
promoted, pinned, unloaded and brought back at the same time, with clients that ask all the while,
devices that fail, and restarts. Every answer is held against a simple model of what may be answered
(soak_model.py, soak_drivers.py).

A seed gives each model the same sequence of operations again. test_soak.py runs a fixed number of
rounds; scripts/soak as many as are wanted:

    scripts/soak --minutes 60 --seed 7
"""

import argparse
import concurrent.futures
import contextlib
import errno
import pathlib
import random
import re
import sys
import tempfile
import threading
import time

import checkpoints
import grpc
import numpy as np
from file_faults import FileFaults
from serving import DEVICE, Server, request, wait_until
from soak_drivers import ROWS, drivers
from soak_model import MIXED, Answer

CLIENTS = 3
MEGABYTE = 1 << 20
# All the weights there are take less than 1 MB. The threads of simulated devices allocate as they
# like, too.
MEMORY_MAY_GROW = 100 * MEGABYTE
INLINE_LIMIT = "1000000"


class Trouble(AssertionError):
    """What the server did and must not do."""


class World:
    """The server, its clients, and the models with what is done to them."""

    def __init__(self, folder, seed, device, only=None):
        self.seed, self.device = seed, device
        self.repository = folder / "models"
        self.scratch = folder / "scratch"
        self.state_file = folder / "state.json"
        self.repository.mkdir()
        self.scratch.mkdir()
        self.faults = FileFaults(folder)
        self.rng = random.Random(f"{seed}/world")
        self.culprit = None  # the model that something is wrong with
        self.trace = []  # (round, model, operation)
        self.answered = 0
        self.restarts = 0
        self._lock = threading.Lock()
        self._answers = []
        self._ok = {}  # by model, since the server's start
        self._unready = []
        self.statuses_of_trouble = frozenset()
        self._disturbed = [(0.0, frozenset())]  # statuses that any request may get, by time
        self._stop = threading.Event()
        self._may_be_unready = True
        self._counters = {}
        self.server = None
        self.drivers = [driver for driver in drivers(self, seed) if only in (None, driver.name)]
        self.by_name = {driver.name: driver for driver in self.drivers}

    # Requests ------------------------------------------------------------------------------------

    def ask(self, driver, rows, number=0):
        """One request, whose answer is checked at the end of the round."""
        server = self.server
        sent = time.monotonic()
        version, weights_id, detail = 0, "", ""
        try:
            reply = server.stub.ModelInfer(
                request(driver.name, driver.family.batch(rows),
                        model_version=str(number) if number else ""), timeout=60)
            received = time.monotonic()
            output = reply.outputs[0]
            array = np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(output.shape)
            version, weights_id = int(reply.model_version), reply.parameters[
                "weights_id"].string_param
            outcome = driver.family.value_of(rows, array)
            if output.shape[0] != rows:
                outcome = MIXED
            if outcome == MIXED:
                detail = array.tolist()
            with self._lock:
                self._ok[driver.name] = self._ok.get(driver.name, 0) + 1
        except grpc.RpcError as error:
            received = time.monotonic()
            outcome, detail = error.code().name, error.details()
        except ValueError as error:  # the channel of a server that has ended
            received = time.monotonic()
            outcome, detail = "UNAVAILABLE", str(error)
        answer = Answer(
            driver.name, number, rows, sent, received, outcome, version, weights_id, detail)
        with self._lock:
            self._answers.append(answer)
        return answer

    def refusal(self, call):
        """The name of the status that call() must end with."""
        try:
            call()
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def _client(self, number):
        rng = random.Random(f"{self.seed}/client/{number}")
        while not self._stop.is_set():
            driver = rng.choice(self.drivers)
            asked = 0
            if rng.random() < 0.2:
                asked = rng.choice(driver.numbers_to_ask() or [0])
            answer = self.ask(driver, rng.choice(ROWS), asked)
            if answer.outcome == "UNAVAILABLE":
                self._stop.wait(0.01)

    def _watch_readiness(self):
        while not self._stop.wait(0.05):
            if self._may_be_unready:
                continue
            server = self.server
            try:
                status = server.get("/v2/health/ready")
            except OSError as error:
                status = (0, str(error))
            if status[0] != 200 and not self._may_be_unready:
                self._unready.append((time.monotonic(), status))

    # Checks --------------------------------------------------------------------------------------

    def disturb(self, *statuses):
        """From now on any request may end with one of these."""
        self._disturbed.append((time.monotonic(), frozenset(statuses)))

    def _disturbances(self, answer):
        found = frozenset()
        for (since, statuses), (until, _) in zip(
                self._disturbed, self._disturbed[1:] + [(float("inf"), None)]):
            if since <= answer.received and until >= answer.sent:
                found |= statuses
        return found

    def check_answers(self):
        with self._lock:
            answers, self._answers = self._answers, []
        for answer in sorted(answers, key=lambda answer: answer.received):
            driver = self.by_name[answer.model]
            allowed = driver.history.allowed(answer) | self._disturbances(answer)
            self.culprit = driver.name
            if answer.outcome not in allowed:
                raise Trouble(f"expected one of {sorted(map(str, allowed))}, got {answer}")
            if not isinstance(answer.outcome, str):
                wrong = driver.identities.wrong(answer)
                if wrong:
                    raise Trouble(f"{wrong}: {answer}")
        self.culprit = None
        self.answered += len(answers)
        for driver in self.drivers:
            # Requests may last as long as this.
            driver.history.forget_before(time.monotonic() - 70)
        if self._unready:
            raise Trouble(f"the server was unready: {self._unready[:3]}")

    def check_metrics(self):
        """Counters only rise, and no version leaves series behind."""
        text = self.server.get("/metrics")[1]
        kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
        now = {}
        for series, value in re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE):
            name = re.match(r"\w+", series)[0]
            kind = kinds.get(name) or kinds.get(re.sub(r"_(bucket|count|sum)$", "", name))
            if kind in ("counter", "histogram"):
                now[series] = float(value)
        for series, before in self._counters.items():
            if now.get(series, 0) < before:
                raise Trouble(f"{series} fell from {before} to {now.get(series)}")
        self._counters = now
        for driver in self.drivers:
            series = re.findall(rf'^\w+{{.*model="{driver.name}".*version=".*$', text, re.MULTILINE)
            if len(series) > 8:
                raise Trouble(f"{len(series)} series name a version of {driver.name}")

    def check_memory(self):
        """What the process takes stays where it was after its first rounds."""
        self._rss.append(self.server.rss_bytes())
        if len(self._rss) > 3 and self._rss[-1] > self._rss[2] + MEMORY_MAY_GROW:
            raise Trouble(f"memory grew from {self._rss[2] / MEGABYTE:.0f} MB "
                          f"to {self._rss[-1] / MEGABYTE:.0f} MB")

    def check_counted(self):
        """The server counted each request that a client saw answered. REQUIRES: no clients."""
        for name, answered in self._ok.items():
            wait_until(
                lambda: self.server.metric(
                    "sconce_requests_total", model=name, code="OK") == answered,
                f"{name}: {answered} were answered, which the server has to count", 5)

    # The server ----------------------------------------------------------------------------------

    def start(self):
        self._may_be_unready = True
        self.server = Server(
            self.repository, "--state-file", str(self.state_file),
            "--inline-weights-max-bytes", INLINE_LIMIT, device=self.device,
            env=self.faults.environment)
        with self._lock:
            self._ok = {}
        self._counters = {}
        self._rss = []

    def started(self):
        self.each(lambda driver: driver.started())
        self.disturb()
        self._may_be_unready = False

    def restart(self, kill):
        self.each(lambda driver: driver.before_restart())
        self.check_answers()
        self._may_be_unready = True
        # Of numbered versions the highest comes first; the others are not found until they are there.
        self.disturb("UNAVAILABLE", "CANCELLED", "UNKNOWN", "NOT_FOUND")
        ended = self.server
        if kill:
            ended.process.kill()
            ended.wait_exit()
        problem = ended.finish()
        if problem:
            raise Trouble(problem)
        self.restarts += 1
        self.start()
        self.started()

    def each(self, act):
        """act(driver) for all models at the same time."""
        with concurrent.futures.ThreadPoolExecutor(len(self.drivers)) as pool:
            running = {driver.name: pool.submit(act, driver) for driver in self.drivers}
        for name, done in running.items():
            if done.exception() is not None:
                self.culprit = name
                raise done.exception()

    # Rounds --------------------------------------------------------------------------------------

    def note(self, round_number, model, operation):
        if round_number is None:
            round_number = self.round
        self.trace.append((round_number, model, operation))

    def world_operations(self):
        found = [(2, self.restart_orderly), (2, self.restart_killed), (2, self.fail_reads)]
        if self.server.sim is not None:
            found += [(3, self.fail_allocations), (2, self.lose_a_device), (2, self.run_short)]
        return found

    def restart_orderly(self):
        self.restart(kill=False)

    def restart_killed(self):
        self.restart(kill=True)

    def fail_reads(self):
        """The disk gives errors, or less than was asked for."""
        with self.trouble(of_loads=["UNAVAILABLE"]):
            for _ in range(3):
                action = self.rng.choice([("fail", errno.EIO), ("fail", errno.ESTALE), ("short", 7)])
                with self.faults.rule("read,pread,preadv,open", f"{self.repository}/*/model.*",
                                      *action, skip=self.rng.randrange(30),
                                      count=self.rng.randrange(1, 5)):
                    self.each(lambda driver: driver.step(self.round))

    def fail_allocations(self):
        """Memory runs out for a moment, in loads or in batches."""
        with self.trouble(["RESOURCE_EXHAUSTED"], ["RESOURCE_EXHAUSTED"]):
            for _ in range(3):
                device, turn = self.rng.randrange(2), self.rng.randrange(1, 30)
                self.server.sim("fail-allocation", device, turn)
                self.each(lambda driver: driver.step(self.round))
                self.each(lambda driver: driver.forget_kept())
                self.server.sim("fail-allocation", device, 0)

    def lose_a_device(self):
        """The other one goes on alone until the next start."""
        self.server.sim("fail-kernel", self.rng.randrange(2), self.rng.randrange(1, 20))
        self.each(lambda driver: [driver.probe() for _ in range(20)])
        self.check_answers()
        self.restart(kill=self.rng.random() < 0.5)

    def run_short(self):
        """There is no memory for anything new for a while; then there is again."""
        with self.trouble(["RESOURCE_EXHAUSTED"], ["RESOURCE_EXHAUSTED"]):
            for device, live in zip((0, 1), self.server.sim.live_bytes()):
                self.server.sim("limit", device, live + 4096)
            self.each(lambda driver: driver.write_meanwhile(lambda: time.sleep(0.5)))
            for device in (0, 1):
                self.server.sim("limit", device, 1 << 40)
            self.each(lambda driver: driver.catch_up())

    @contextlib.contextmanager
    def trouble(self, of_requests=(), of_loads=()):
        """Requests and loads may end so meanwhile, and versions that are kept may be let go."""
        self.each(lambda driver: driver.forget_kept())
        self.statuses_of_trouble = frozenset(of_loads)
        self.disturb(*of_requests)
        yield
        self.disturb()
        self.statuses_of_trouble = frozenset()

    def persist(self, call):
        """call(), again where it fails of the trouble there is."""
        for attempt in range(10):
            try:
                return call()
            except grpc.RpcError as error:
                if error.code().name not in self.statuses_of_trouble or attempt == 9:
                    raise

    def do_round(self, number):
        self.round = number
        if number % 10 == 9:
            weights, operations = zip(*self.world_operations())
            operation = self.rng.choices(operations, weights)[0]
            self.note(number, "world", operation.__name__)
            operation()
        else:
            self.each(lambda driver: driver.step(number))
        self.check_answers()
        if number % 5 == 4:
            self.check_metrics()
            self.check_memory()

    def run(self, rounds=None, seconds=None, tell=lambda text: None):
        """Rounds until there were so many, or so much time has passed."""
        until = None if seconds is None else time.monotonic() + seconds
        self.round = 0
        for driver in self.drivers:
            driver.prepare()
        self.start()
        threads = [threading.Thread(target=self._client, args=(number,), daemon=True)
                   for number in range(CLIENTS)]
        threads.append(threading.Thread(target=self._watch_readiness, daemon=True))
        try:
            self.disturb("UNAVAILABLE", "NOT_FOUND")
            self.started()
            for thread in threads:
                thread.start()
            number = 0
            while (rounds is None or number < rounds) and (
                    until is None or time.monotonic() < until):
                self.do_round(number)
                number += 1
                if number % 20 == 0:
                    tell(f"{number} rounds, {len(self.trace)} operations, {self.answered} answers, "
                         f"{self.restarts} restarts, {self.server.rss_bytes() / MEGABYTE:.0f} MB")
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident:
                    thread.join(90)
        self.check_answers()
        self.check_metrics()
        self.check_counted()
        return number

    def story(self, lines=25):
        """What was done last, to the model that something is wrong with if that is known."""
        told = [f"  round {number} {model}: {operation}"
                for number, model, operation in self.trace
                if self.culprit in (None, model) or model == "world"]
        return "\n".join(told[-lines:])


def soak(folder, seed, device=DEVICE, only=None, **limits):
    """Runs a World to its end; AssertionError with what to run to see it again."""
    world = World(folder, seed, device, only)
    problem = None
    try:
        world.run(**limits)
    except Exception as error:
        log = world.server.log_tail(80) if world.server else ""
        again = f"scripts/soak --device {device} --seed {seed} --rounds {world.round + 1}"
        raise AssertionError(
            f"{world.culprit or 'the server'}: {type(error).__name__}: {error}\nthe last operations:\n{world.story()}\n"
            f"to see it again: {again} (add --only MODEL to try with one model alone)\n"
            f"the server's log:\n{log}") from error
    finally:
        if world.server is not None and world.server in Server.running:
            problem = world.server.finish()
    assert not problem, problem
    return world


def main():
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, help="how long (default 10)")
    parser.add_argument("--rounds", type=int, help="how many rounds, in place of a time")
    parser.add_argument("--seed", type=int, help="of the operations; printed (default: by chance)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "sim"],
                        help="cpu, or two simulated devices (default cpu)")
    parser.add_argument("--only", metavar="MODEL", help="nothing is done to any other model")
    options = parser.parse_args()
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    minutes = options.minutes or (None if options.rounds else 10)
    checkpoints.use_one_thread()
    print(f"seed {seed}, device {options.device}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sconce-soak-") as folder:
        try:
            world = soak(
                pathlib.Path(folder), seed, options.device, options.only, rounds=options.rounds,
                seconds=None if minutes is None else minutes * 60,
                tell=lambda text: print(f"{time.monotonic() - began:6.0f} s: {text}", flush=True))
        except AssertionError as error:
            print(f"FOUND: {error}", flush=True)
            return 1
    print(f"nothing found: {len(world.trace)} operations, {world.answered} answers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
