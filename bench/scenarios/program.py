"""ResNet-18 exported with torch.export and run by the program executor, compared with the catalog's
own in torch::nn: the same weights, batch and threads, each in a process of its own on one processor,
in turn."""

import pathlib
import re
import tempfile

import torch
import torchvision
from torch.export import Dim

import measuring
from resnet import BATCHES, bare_libtorch


# What is freed goes back to the system at once, so that the peak is that of what was in use, and not
# of what the allocator kept for later.
NOTHING_KEPT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def peak_mib(programs, weights, batch, *flags):
    with bare_libtorch(programs, weights, batch, *flags, environment=NOTHING_KEPT) as bare:
        bare.measure(1)
        status = pathlib.Path(f"/proc/{bare.process.pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)[1]) / 1024


def main():
    parser = measuring.arguments(__doc__)
    measuring.add_pairs(parser, seconds=3)
    options = parser.parse_args()
    programs = measuring.Programs(options.build)
    measuring.print_machine()

    with tempfile.TemporaryDirectory() as folder:
        weights, program = pathlib.Path(folder) / "model.pth", pathlib.Path(folder) / "program.pt2"
        torch.manual_seed(0)
        network = torchvision.models.resnet18().eval()
        torch.save(network.state_dict(), weights)
        torch.export.save(
            torch.export.export(network, (torch.randn(2, 3, 224, 224),),
                                dynamic_shapes=({0: Dim("batch")},)), program)
        for batch in BATCHES:
            with (bare_libtorch(programs, weights, batch) as eager,
                  bare_libtorch(programs, weights, batch, "--program", program) as exported):
                a, b = measuring.in_turn(lambda: eager.measure(options.seconds),
                                         lambda: exported.measure(options.seconds), options.pairs)
                measuring.print_comparison(
                    f"ResNet-18, FP32, batch {batch}, one thread", "images", "eager", "program", a, b)
            print(f"  peak resident memory: "
                  f"program {peak_mib(programs, weights, batch, '--program', program):.1f} MiB, "
                  f"eager {peak_mib(programs, weights, batch):.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
