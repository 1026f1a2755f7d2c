"""What serving costs where the network costs next to nothing: one linear layer, compared in turn
with a server that sends gRPC's bytes back unread."""

import pathlib
import subprocess
import tempfile

import torch

import measuring

FEATURES = 16


def main():
    parser = measuring.arguments(__doc__)
    measuring.add_pairs(parser, seconds=2)
    parser.add_argument("--in-flight", type=int, default=64, help="requests in flight")
    options = parser.parse_args()
    programs = measuring.Programs(options.build)
    measuring.print_machine()

    with tempfile.TemporaryDirectory() as folder:
        repository = pathlib.Path(folder)
        (repository / "linear").mkdir()
        torch.manual_seed(0)
        torch.save(torch.nn.Linear(FEATURES, FEATURES).state_dict(),
                   repository / "linear" / "model.pth")
        with measuring.sconce(programs, repository) as server, measuring.process(
                [programs.echo], measuring.SERVER_CPU, stdout=subprocess.PIPE,
                text=True) as echo:
            echo_address = echo.stdout.readline().strip()

            def measure(address, pid):
                return measuring.rates(measuring.load(
                    programs, address, pid, "linear", "--input", "input", "--datatype", "FP32",
                    "--shape", FEATURES, "--concurrency", options.in_flight, "--warmup", 0.3,
                    "--duration", options.seconds, "--timeout", 0))

            a, b = measuring.in_turn(lambda: measure(echo_address, echo.pid),
                                     lambda: measure(server.address, server.pid), options.pairs)
    measuring.print_comparison(
        f"Linear({FEATURES}, {FEATURES}), {options.in_flight} in flight", "requests", "echo",
        "served", a, b)


if __name__ == "__main__":
    main()
