"""Writes one small program in every format, and others that differ from it in one way.

    python3 write_program_fixtures.py DIRECTORY

KIND is pt2, onnx, scripted.pt or traced.pt:

  first.KIND     the program
  weights.KIND   the same with other weights, exported anew
  constant.KIND  with another tensor that is no weight
  shape.KIND     with weights of another shape
  code.KIND      with another operator
"""

import pathlib
import sys
import warnings

import torch
from torch import nn

warnings.filterwarnings("ignore")
DIRECTORY = pathlib.Path(sys.argv[1])


class Small(nn.Module):
    def __init__(self, seed=1, offset=7, width=8):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.norm.running_mean.uniform_()
        self.last = nn.Linear(width, 4)
        self.offsets = torch.tensor([0, offset, 2, 3])

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        rows = self.last(x).reshape(x.shape[0], 2, 2).flatten(1)
        return torch.softmax(rows * 0.5 + self.offsets, dim=1)


class Other(Small):
    def forward(self, x):
        x = torch.sigmoid(self.norm(self.first(x)))
        rows = self.last(x).reshape(x.shape[0], 2, 2).flatten(1)
        return torch.softmax(rows * 0.5 + self.offsets, dim=1)


VARIANTS = {
    "first": lambda: Small(),
    "weights": lambda: Small(seed=2),
    "constant": lambda: Small(offset=8),
    "shape": lambda: Small(width=16),
    "code": lambda: Other(),
}


def main():
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    rows = torch.randn(3, 4)
    dynamic = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    for name, make in VARIANTS.items():
        net = make().eval()
        program = torch.export.export(net, (rows,), dynamic_shapes=dynamic)
        torch.export.save(program, DIRECTORY / f"{name}.pt2")
        torch.onnx.export(net, (rows,), DIRECTORY / f"{name}.onnx", dynamo=False,
                          input_names=["x"], output_names=["y"],
                          dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})  # fmt: skip
        torch.jit.save(torch.jit.script(net), DIRECTORY / f"{name}.scripted.pt")
        torch.jit.save(torch.jit.trace(net, (rows,)), DIRECTORY / f"{name}.traced.pt")


main()
