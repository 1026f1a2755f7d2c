"""How long a server on the CPU takes until it is ready, its repository being empty, compared in turn
with a program that loads LibTorch's CPU half and makes one tensor."""

import pathlib
import subprocess
import sys
import tempfile
import time

import measuring


def processor_seconds(pid):
    """Of all threads of the process so far."""
    threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def start(command, sign):
    """Starts per second and per processor second, until a line of output ends with `sign`."""
    began = time.perf_counter()
    with measuring.process(command, measuring.SERVER_CPU, stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True) as process:
        for line in process.stdout:
            if line.rstrip().endswith(sign):
                took = time.perf_counter() - began
                return {"second": 1 / took, "processor second": 1 / processor_seconds(process.pid)}
    sys.exit(f"error: {command[0]} ended before it was ready")


def main():
    parser = measuring.arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="starts of each kind")
    options = parser.parse_args()
    programs = measuring.Programs(options.build)
    measuring.print_machine()
    with tempfile.TemporaryDirectory() as repository:
        server = [programs.server, "serve", "--model-repository", repository, "--device", "cpu",
                  "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
        a, b = measuring.in_turn(lambda: start([programs.one_tensor], "ready"),
                                 lambda: start(server, "ready"), options.pairs)
    measuring.print_comparison("Start on the CPU", "starts", "one tensor", "server", a, b)


if __name__ == "__main__":
    main()
