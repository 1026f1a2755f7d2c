"""Writes TorchScript archives and what Python's own run of them gives.

    python3 write_torchscript_fixtures.py DIRECTORY

  NAME.pt               the archive
  NAME.json             what config.pbtxt would say of its inputs and outputs
  NAME.io.safetensors   "input.NAME" and "output.NAME": the archive loaded by Python, one thread
  NAME.pth              other weights for it, where they can be swapped, and with them
  NAME.new.safetensors  the answers that they give
  refused.json          archives that are refused, and a part of the reason
"""

import json
import pathlib
import sys
import warnings
from typing import Dict, List, NamedTuple, Optional, Tuple

import safetensors.torch
import torch
import torchvision.models as tv
from torch import Tensor, nn

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
DIRECTORY = pathlib.Path(sys.argv[1])
DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.float16: "F16"}


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.head(out[:, -1])


class Branches(nn.Module):
    """Control flow on values, a loop, printing, text and a list."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 5)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        parts: List[Tensor] = []
        for i in range(x.size(0)):
            row = x[i]
            if float(row.sum()) > 0:
                parts.append(torch.relu(self.fc(row)) * scale)
            else:
                parts.append(row - float(i))
        if len(parts) > 1000:
            print("a long batch", len(parts))
        return torch.stack(parts)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class ManyOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor, c: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        mixed = self.fc(a) + b
        if c is not None:
            mixed = mixed * c
        return mixed, a - b


class Named(nn.Module):
    def forward(self, a: Tensor) -> Pair:
        return Pair(a + 1, a * 2)


class Keyed(nn.Module):
    def forward(self, a: Tensor) -> Dict[str, Tensor]:
        return {"plus": a + 1, "times": a * 2}


class Constants(nn.Module):
    """Tensors that are no weights: an attribute, one in a list, one that a trace has made."""

    scales: List[Tensor]

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.offset = torch.arange(4.0)
        self.scales = [torch.full((4,), 3.0), torch.full((4,), 5.0)]
        self.register_buffer("steps", torch.tensor([1, 2, 3, 4]))

    def forward(self, x: Tensor) -> Tensor:
        fresh = torch.zeros(4, device=torch.device("cpu"))
        return self.fc(x) + self.offset * self.scales[0] - self.scales[1] + self.steps + fresh


class TracedConstants(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        table = torch.linspace(0, 1, 4, device=x.device).to(x.device)
        return self.fc(x) + table + torch.tensor([1.0, 2.0, 3.0, 4.0])


class Saves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "never.pt")
        return x


class ReadsFile(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file("weights.bin", False, 4)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x + self.seen


class SetsAttribute(nn.Module):
    last: int

    def __init__(self):
        super().__init__()
        self.last = 0

    def forward(self, x: Tensor) -> Tensor:
        self.last = x.size(0)
        return x


class WritesThroughAView(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0].add_(1)
        return x


class Forks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(torch.relu, x))


class WantsNumber(nn.Module):
    def forward(self, x: Tensor, times: int) -> Tensor:
        return x * times


class GivesNumber(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, int]:
        return x, 3


class Touch(nn.Module):
    """Its state is set by code of its own as soon as it is opened."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.training = False

    @torch.jit.export
    def __getstate__(self):
        return self.fc.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]):
        torch.save(state[0], "never.pt")
        self.training = state[1]

    def forward(self, x: Tensor) -> Tensor:
        return x


def spec(name, tensor):
    return {"name": name, "dtype": DTYPES[tensor.dtype], "dims": list(tensor.shape[1:])}


def outputs_of(result, names):
    if isinstance(result, Tensor):
        result = [result]
    if isinstance(result, dict):
        return {name: result[name] for name in names}
    return dict(zip(names, result))


def save(name, module, inputs, outputs=("OUTPUT__0",), new_weights=None):
    """`inputs`: the declared names and the tensors, in forward's order."""
    path = DIRECTORY / f"{name}.pt"
    torch.jit.save(module, path)
    with torch.inference_mode():
        loaded = torch.jit.load(path).eval()
        answers = outputs_of(loaded(*inputs.values()), outputs)
        io = {f"input.{n}": t for n, t in inputs.items()}
        io.update({f"output.{n}": t.clone() for n, t in answers.items()})
        safetensors.torch.save_file(io, DIRECTORY / f"{name}.io.safetensors")
        if new_weights is not None:
            torch.save(new_weights, DIRECTORY / f"{name}.pth")
            loaded.load_state_dict(new_weights)
            answers = outputs_of(loaded(*inputs.values()), outputs)
            new = {f"output.{n}": t.clone() for n, t in answers.items()}
            safetensors.torch.save_file(new, DIRECTORY / f"{name}.new.safetensors")
    declared = {
        "inputs": [spec(n, t) for n, t in inputs.items()],
        "outputs": [spec(n, t) for n, t in answers.items()],
    }
    (DIRECTORY / f"{name}.json").write_text(json.dumps(declared))


def fresh(make, seed):
    torch.manual_seed(seed)
    module = make().eval()
    for buffer_name, buffer in module.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.uniform_(-1, 1)
        elif buffer_name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return module


def both(name, make, inputs, **options):
    """The module traced and scripted, with the weights of another one beside it."""
    new = fresh(make, 2).state_dict()
    traced = torch.jit.trace(fresh(make, 1), tuple(inputs.values()))
    save(f"{name}_traced", traced, inputs, new_weights=new, **options)
    save(f"{name}_scripted", torch.jit.script(fresh(make, 1)), inputs, new_weights=new, **options)


def main():
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    image = torch.randn(2, 3, 64, 64)
    both("resnet18", tv.resnet18, {"x": image})
    both("mobilenet_v3", tv.mobilenet_v3_small, {"INPUT__0": image})
    both("lstm", Lstm, {"x": torch.randn(3, 7, 6)})
    rows = torch.randn(4, 5)
    save("branches", torch.jit.script(fresh(Branches, 1)), {"x": rows},
         new_weights=fresh(Branches, 2).state_dict())
    pair = {"a": torch.randn(3, 4), "b": torch.randn(3, 4)}
    save("many_outputs", torch.jit.script(fresh(ManyOutputs, 1)), pair, ("sum", "difference"),
         new_weights=fresh(ManyOutputs, 2).state_dict())
    save("numbered", torch.jit.script(fresh(ManyOutputs, 1)),
         {"IN__0": pair["a"], "IN__1": pair["b"]}, ("OUT__0", "OUT__1"))
    save("named", torch.jit.script(Named()), {"a": pair["a"]}, ("first", "second"))
    save("keyed", torch.jit.script(Keyed()), {"a": pair["a"]}, ("times", "plus"))
    constants = {"x": torch.randn(2, 4)}
    save("constants", torch.jit.script(fresh(Constants, 1)), constants)
    save("traced_constants", torch.jit.trace(fresh(TracedConstants, 1), constants["x"]), constants)
    frozen = torch.jit.freeze(torch.jit.script(fresh(tv.resnet18, 1)))
    save("frozen", frozen, {"x": image})
    optimised = torch.jit.optimize_for_inference(torch.jit.script(fresh(Lstm, 1)))
    save("optimised", optimised, {"x": torch.randn(3, 7, 6)})

    refused = {}
    for module, code, why in (
        (Saves(), "UNIMPLEMENTED", "aten::save"),
        (ReadsFile(), "UNIMPLEMENTED", "aten::from_file"),
        (Counts(), "UNIMPLEMENTED", "writes into the module's 'seen'"),
        (WritesThroughAView(), "UNIMPLEMENTED", "writes into the module's 'seen'"),
        (SetsAttribute(), "UNIMPLEMENTED", "the module's attribute 'last' is changed"),
        (Forks(), "UNIMPLEMENTED", "torch.jit.fork"),
        (WantsNumber(), "UNIMPLEMENTED", "argument 'times': expected a tensor, got int"),
        (GivesNumber(), "UNIMPLEMENTED", "got Tuple[Tensor, int]"),
        (Touch(), "UNIMPLEMENTED", "__setstate__"),
    ):
        name = type(module).__name__
        torch.jit.save(torch.jit.script(module.eval()), DIRECTORY / f"refused_{name}.pt")
        refused[f"refused_{name}.pt"] = [code, why]
    training = torch.jit.trace(tv.resnet18().train(), torch.randn(2, 3, 64, 64), check_trace=False)
    torch.jit.save(training, DIRECTORY / "refused_training.pt")
    refused["refused_training.pt"] = ["FAILED_PRECONDITION", "is in training mode"]
    (DIRECTORY / "refused.json").write_text(json.dumps(refused))


main()
