"""Serving ResNet-18 compared with running it without a server: the same weights, batch and threads,
each on one processor, in turn."""

import contextlib
import os
import pathlib
import subprocess
import tempfile

import torch
import torchvision

import measuring

BATCHES = (1, 8)
# Enough that a request always waits when a batch ends, so that the server is never idle.
IN_FLIGHT = 3


class BareLibTorch:
    """LibTorch and the weights, measured on demand."""

    def __init__(self, process):
        self.process = process
        self._line()  # "ready"

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("error: sconce_bare_libtorch ended; see its message above.")
        return line

    def measure(self, seconds):
        print(seconds, file=self.process.stdin, flush=True)
        per_second, per_processor_second = map(float, self._line().split())
        return {"second": per_second, "processor second": per_processor_second}


@contextlib.contextmanager
def bare_libtorch(programs, weights, batch, *flags, environment=()):
    command = [programs.bare_libtorch, "--weights", weights, "--shape", "3,224,224", "--batch",
               batch, "--threads", 1, *flags]
    with measuring.process(command, measuring.SERVER_CPU, stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, text=True,
                           env={**os.environ, **dict(environment)}) as process:
        yield BareLibTorch(process)


def main():
    parser = measuring.arguments(__doc__)
    measuring.add_pairs(parser, seconds=3)
    options = parser.parse_args()
    programs = measuring.Programs(options.build)
    measuring.print_machine()

    with tempfile.TemporaryDirectory() as folder:
        repository = pathlib.Path(folder)
        torch.manual_seed(0)
        weights = torchvision.models.resnet18().state_dict()
        for batch in BATCHES:
            model = repository / f"resnet18-{batch}"
            model.mkdir()
            torch.save(weights, model / "model.pth")
            # Requests of `batch` rows that are never put together: the batch is the same as bare.
            (model / "config.pbtxt").write_text(f"max_batch_size: {batch}\n")
        with measuring.sconce(programs, repository) as server:
            for batch in BATCHES:
                model = repository / f"resnet18-{batch}"
                with bare_libtorch(programs, model / "model.pth", batch) as bare:
                    a, b = measuring.in_turn(
                        lambda: bare.measure(options.seconds),
                        lambda: measuring.rates(measuring.load(
                            programs, server.address, server.pid, model.name, "--rows", batch,
                            "--shape", "3,224,224", "--concurrency", IN_FLIGHT, "--warmup", 0.3,
                            "--duration", options.seconds, "--timeout", 0)),
                        options.pairs)
                measuring.print_comparison(
                    f"ResNet-18, FP32, batch {batch}, one thread", "images", "bare", "served", a, b)


if __name__ == "__main__":
    main()
