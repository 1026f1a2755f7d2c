"""A server with the digits net of the demo under load: its capacity with few and with many requests
in flight, and its latency at given rates."""

import pathlib
import shutil
import subprocess
import sys
import tempfile

import measuring

RUNS = (("--concurrency", "1,8,64"), ("--rate", "500,2000,5000"))


def main():
    parser = measuring.arguments(__doc__)
    parser.add_argument("--seconds", type=measuring.positive, default=5, help="length of a run")
    options = parser.parse_args()
    programs = measuring.Programs(options.build)
    measuring.print_machine()

    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "digits"
        model.mkdir()
        shutil.copy(measuring.ROOT / "demo" / "digits_full.pth", model / "model.pth")
        with measuring.sconce(programs, folder) as server:
            for run in RUNS:
                print(flush=True)
                done = subprocess.run(
                    [programs.load, "--address", server.address, "--model", model.name, "--pin",
                     str(measuring.LOAD_CPU), "--server-pid", str(server.pid), "--duration",
                     str(options.seconds), *run])
                if done.returncode != 0:
                    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
