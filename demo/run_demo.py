#!/usr/bin/env python3
"""The demo: real predictions from weights on disk, then better weights while requests flow.

Starts the server on a repository with the weights of a short training, sends the held-out digit
images with the stock tritonclient from several clients at once, copies the weights of the full
training over the file while they go on, and says what happened. Exits 0 only if every claim it
prints held. Run it with scripts/quickstart, which sets up all that it needs.
"""

import argparse
import collections
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import tritonclient.grpc as triton

HERE = pathlib.Path(__file__).resolve().parent
MODEL = "digits"
# Scores of one image from one version may differ in the last bits with the batch they ran in.
SCORE_TOLERANCE = 1e-3
PATIENCE = 60  # seconds that any one step may take

Answer = collections.namedtuple("Answer", "when client image version weights scores")


class DemoError(Exception):
    """What did not hold, in a sentence."""


def say(text=""):
    print(text, flush=True)


class Server:
    """The server on free ports of the loopback address; its log goes to a file."""

    def __init__(self, binary, repository, log_path):
        self.log_path = log_path
        self._log = open(log_path, "w")
        self.process = subprocess.Popen(
            [str(binary), "serve", "--model-repository", str(repository),
             "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0",
             "--log-format", "json"],
            stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def grpc_address(self):
        """Waits until the log says which port was taken."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for line in self.log().splitlines():
                found = re.search(r"grpc\D*?(127\.0\.0\.1:[1-9]\d*)", line, re.IGNORECASE)
                if found:
                    return found.group(1)
            if self.process.poll() is not None:
                raise DemoError(f"the server ended at once with status {self.process.returncode}")
            time.sleep(0.02)
        raise DemoError("the server did not say which port it listens on")

    def stop(self):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self._log.close()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Client(threading.Thread):
    """One client with a connection of its own that sends image after image until told to stop."""

    def __init__(self, number, address, images, first, signature):
        super().__init__(daemon=True)
        self.number = number
        self.answers = []
        self.failures = []
        self._address, self._images, self._first = address, images, first
        self._input, self._output = signature
        self._stop_asked = threading.Event()

    def run(self):
        with triton.InferenceServerClient(self._address) as client:
            image = self._first
            while not self._stop_asked.is_set():
                tensor = triton.InferInput(self._input, [1, 1, 8, 8], "FP32")
                tensor.set_data_from_numpy(self._images[image])
                try:
                    result = client.infer(MODEL, [tensor], client_timeout=PATIENCE)
                    reply = result.get_response()
                    self.answers.append(Answer(
                        time.monotonic(), self.number, image, int(reply.model_version),
                        reply.parameters["weights_id"].string_param,
                        result.as_numpy(self._output)[0].copy()))
                except Exception as error:  # every failure counts, whatever it is
                    self.failures.append(str(error))
                    if len(self.failures) >= 100:
                        return
                image = (image + 1) % len(self._images)

    def stop(self):
        self._stop_asked.set()


def wait_for(condition, what, clients):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"waited {PATIENCE} seconds for {what}")
        if not any(client.is_alive() for client in clients):
            raise DemoError("every client gave up: " + clients[0].failures[-1])
        time.sleep(0.002)


def all_answers(clients):
    # A client only ever appends.
    return [answer for client in clients for answer in list(client.answers)]


def scores_by_image(answers, weights):
    """The first answer of these weights for each image."""
    table = {}
    for answer in answers:
        if answer.weights == weights:
            table.setdefault(answer.image, answer.scores)
    return table


def accuracy(table, labels):
    return float(np.mean([table[i].argmax() == labels[i] for i in range(len(labels))]))


def wait_until_ready(address):
    """Waits for the model, and returns the names of its input and output."""
    deadline = time.monotonic() + PATIENCE
    with triton.InferenceServerClient(address) as client:
        while time.monotonic() < deadline:
            try:
                if client.is_model_ready(MODEL):
                    metadata = client.get_model_metadata(MODEL)
                    return metadata.inputs[0].name, metadata.outputs[0].name
            except triton.InferenceServerException:
                pass  # not listening yet
            time.sleep(0.02)
    raise DemoError("the model did not become ready")


def check(answers, failures, before, after, before_id, after_id, share_before, share_after):
    """Every claim of the demo; raises for the first one that does not hold."""
    if failures:
        raise DemoError(f"{len(failures)} requests failed; the first: {failures[0]}")
    if before_id == after_id:
        raise DemoError("the answers before and after the swap name the same weights")
    versions = collections.defaultdict(set)
    last = collections.defaultdict(int)
    for answer in answers:
        versions[answer.weights].add(answer.version)
        if answer.version < last[answer.client]:
            raise DemoError(f"client {answer.client} got version {answer.version} after "
                            f"version {last[answer.client]}")
        last[answer.client] = answer.version
        table = {before_id: before, after_id: after}.get(answer.weights)
        if table is None:
            raise DemoError(f"an answer names weights {answer.weights}, which nobody put there")
        if np.abs(answer.scores - table[answer.image]).max() > SCORE_TOLERANCE:
            raise DemoError(f"image {answer.image} got scores from weights {answer.weights} that "
                            "are not those it got from them before")
    if any(len(numbers) != 1 for numbers in versions.values()) or len(versions) != 2:
        raise DemoError(f"expected one version for each of two files, got {dict(versions)}")
    if min(versions[after_id]) <= max(versions[before_id]):
        raise DemoError(f"the version did not rise: {dict(versions)}")
    apart = max(np.abs(before[i] - after[i]).max() for i in before)
    if apart < 100 * SCORE_TOLERANCE:
        raise DemoError("the two versions' scores are too close to tell them apart")
    if not share_after > share_before:
        raise DemoError(f"accuracy went from {share_before:.1%} to {share_after:.1%}")
    if share_after < 0.95:
        raise DemoError(f"accuracy after the swap is {share_after:.1%}, expected 95 % at least")


def run(binary, client_count, folder):
    data = np.load(HERE / "digits_test.npz")
    images = (data["images"].astype(np.float32) / 16).reshape(-1, 1, 1, 8, 8)
    labels = data["labels"]

    repository = folder / "models"
    weights_file = repository / MODEL / "model.pth"
    weights_file.parent.mkdir(parents=True)
    shutil.copyfile(HERE / "digits_short.pth", weights_file)

    say("Sconce demo: handwritten digits")
    say()
    say(f"  repository      {repository}")
    say(f"                  {MODEL}/model.pth  <- demo/digits_short.pth (50 training steps)")
    server = Server(binary, repository, folder / "server.log")
    clients = []
    try:
        began = time.monotonic()
        address = server.grpc_address()
        signature = wait_until_ready(address)
        say(f"  server          {address} (gRPC), model ready after "
            f"{time.monotonic() - began:.1f} s")
        say(f"  clients         {client_count} of tritonclient.grpc at once, one image per request")
        say()

        clients = [
            Client(n, address, images, n * len(images) // client_count, signature)
            for n in range(client_count)
        ]
        for client in clients:
            client.start()
        wait_for(lambda: len({a.image for a in all_answers(clients)}) == len(images),
                 "an answer for each image", clients)
        before_id = all_answers(clients)[0].weights
        share_before = accuracy(scores_by_image(all_answers(clients), before_id), labels)
        say(f"  before          {share_before:6.1%} of {len(images)} test images right, weights "
            f"{before_id[:12]}")

        # An ordinary copy over the file that is being served, in the middle of the traffic.
        changed = time.monotonic()
        shutil.copyfile(HERE / "digits_full.pth", weights_file)
        say(f"                  {MODEL}/model.pth  <- demo/digits_full.pth (1720 training steps)")

        def new_answers():
            return [a for a in all_answers(clients) if a.weights != before_id]

        wait_for(new_answers, "an answer of the new weights", clients)
        first_new = min(new_answers(), key=lambda answer: answer.when)
        after_id = first_new.weights
        wait_for(lambda: len({a.image for a in new_answers()}) == len(images),
                 "an answer of the new weights for each image", clients)
        share_after = accuracy(scores_by_image(all_answers(clients), after_id), labels)
        say(f"  after           {share_after:6.1%} of {len(images)} test images right, weights "
            f"{after_id[:12]}")

        for client in clients:
            client.stop()
        for client in clients:
            client.join(PATIENCE)
        answers = all_answers(clients)
        failures = [failure for client in clients for failure in client.failures]
        say()
        say(f"  requests sent   {len(answers) + len(failures)}")
        say(f"  requests failed {len(failures)}")
        say(f"  swap            {(first_new.when - changed) * 1000:.0f} ms from the file change to "
            "the first answer of the new weights")
        check(answers, failures, scores_by_image(answers, before_id),
              scores_by_image(answers, after_id), before_id, after_id, share_before, share_after)

        status = server.stop()
        if status != 0:
            raise DemoError(f"the server ended with status {status} after SIGTERM, expected 0")
    except BaseException:
        for client in clients:
            client.stop()
        server.kill()
        for line in server.log().splitlines()[-20:]:
            print("  server: " + readable(line), file=sys.stderr)
        raise


def readable(line):
    """The message of a JSON log line, or the line."""
    try:
        entry = json.loads(line)
        return " ".join(str(value) for value in entry.values())
    except (ValueError, AttributeError):
        return line


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sconce", type=pathlib.Path,
                        default=HERE.parent / "build" / "release" / "sconce",
                        help="the server's binary (default: build/release/sconce)")
    parser.add_argument("--clients", type=int, default=4, help="clients at once (default: 4)")
    args = parser.parse_args()
    if not args.sconce.is_file():
        sys.exit(f"error: {args.sconce} is not there; scripts/quickstart builds it and runs this.")
    if not 1 <= args.clients <= 64:
        sys.exit(f"error: --clients {args.clients}: expected 1 to 64.")
    with tempfile.TemporaryDirectory(prefix="sconce-demo-") as folder:
        try:
            run(args.sconce, args.clients, pathlib.Path(folder))
        except DemoError as error:
            sys.exit(f"error: the demo did not hold: {error}.")
    say()
    say("Your own checkpoint, a state_dict of torch.save or a .safetensors file:")
    say()
    say("  mkdir -p models/resnet50")
    say("  cp savedModel_weights.pth models/resnet50/model.pth")
    say(f"  {args.sconce} serve --model-repository models")


if __name__ == "__main__":
    main()
