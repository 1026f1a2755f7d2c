"""Holds the answers of networks that the catalog detects against Python's own, bit for bit.

A case says how to make a network in Python and what to ask it (Case). compare() gives it random
weights, saves them, has the program architecture_answers (tests/torch) detect, load and run them,
and compares. Use:

    with Answers() as answers:
        row = answers.compare(Case("resnet18", make=lambda: resnet18(), inputs=images(64)))
    assert row.equal, row

Cases of one kind of network stand in a module of their own with a function cases(full): all of them
in full size, or such as take seconds. It is listed in CASE_MODULES of architecture_table.py, which
test_architectures.py and scripts/architectures go by.
"""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

DTYPES = {"Float": torch.float32, "Long": torch.int64, "Half": torch.float16,
          "BFloat16": torch.bfloat16, "Double": torch.float64, "Bool": torch.bool}  # fmt: skip


def images(size, batch=2):
    """Makes the inputs of an image classifier."""
    return lambda generator: [torch.randn(batch, 3, size, size, generator=generator)]


@dataclasses.dataclass
class Case:
    name: str
    # The network as Python has it; its weights need not be initialised (see SkippedInitialisation).
    make: Callable[[], nn.Module]
    # From a torch.Generator: the tensors that the network is given, in the signature's order.
    inputs: Callable[[torch.Generator], list]
    # What Python computes, where that is not module(*inputs): a tensor or several.
    call: Callable = lambda module, inputs: module(*inputs)
    # The name that is to be detected, where it is not the case's.
    detected: str | None = None
    # What config.pbtxt would say; empty where everything is detected.
    architecture: str = ""
    parameters: dict = dataclasses.field(default_factory=dict)
    # Names as a checkpoint would have them, where they are not those of the module's state_dict.
    saved: Callable[[dict], dict] = lambda state: state
    # Where an operator makes equality impossible: which, and how far off (absolute) it may be.
    operator: str = ""
    tolerance: float = 0.0


@dataclasses.dataclass
class Row:
    """What came of a case."""

    name: str
    family: str = ""
    detected: str = ""
    found: str = ""  # the name detected alone
    parameter_count: int = 0
    equal: bool = False
    deviation: float = math.inf
    # Nothing else is a proof: outputs are finite, and those of two rows of a batch differ.
    meaningful: bool = False
    error: str = ""
    seconds: float = 0.0
    detect_seconds: float = 0.0


class SkippedInitialisation(TorchFunctionMode):
    """Modules made under it keep whatever memory holds where they would draw random values."""

    SKIPPED = frozenset((torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in self.SKIPPED:
            return args[0]
        return function(*args, **(kwargs or {}))


def randomise(module: nn.Module, seed: int) -> None:
    """Values that keep activations in a sane range: of the parameters, and of batch norm's
    statistics. Other buffers are constants."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            leaf = name.rpartition(".")[2]
            if leaf == "running_mean":
                tensor.uniform_(-0.1, 0.1, generator=generator)
            elif leaf == "running_var":
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif leaf == "num_batches_tracked":
                tensor.fill_(1234)
        for name, tensor in module.named_parameters():
            if tensor.dim() >= 2:
                bound = math.sqrt(6 / max(tensor[0].numel(), 6))
                tensor.uniform_(-bound, bound, generator=generator)
            elif name.endswith("weight"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.uniform_(-0.1, 0.1, generator=generator)


def as_tensors(outputs) -> list:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for tensor in outputs if tensor is not None]


def deviation(expected: list, seen: list) -> float:
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in seen]:
        return math.inf
    return max((float((a.double() - b.double()).abs().max()) for a, b in zip(expected, seen)),
               default=math.inf)  # fmt: skip


class AnsweringProgram:
    """A program of tests/torch that answers jobs (answer_jobs.h), running; and a folder for what
    passes between it and Python."""

    PROGRAM: str

    def __init__(self, threads: int = 1):
        self.program = pathlib.Path(os.environ["SCONCE_BUILD_DIR"]) / "tests/torch" / self.PROGRAM
        self.threads = threads

    def __enter__(self):
        self.scratch = tempfile.TemporaryDirectory(prefix="sconce-answers-")
        self.folder = pathlib.Path(self.scratch.name)
        self.process = subprocess.Popen(
            [self.program, str(self.threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()
        self.scratch.cleanup()

    def job(self, **job) -> dict:
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"{self.PROGRAM} ended: {self.process.wait()}"
        return json.loads(line)


def read_tensors(path, described: list) -> list:
    """The tensors whose bytes lie in a file one after the other, by their dtypes and shapes."""
    data, tensors, begin = bytearray(path.read_bytes()), [], 0
    for one in described:
        dtype = DTYPES[one["dtype"]]
        count = math.prod(one["shape"])
        values = (torch.frombuffer(data, dtype=dtype, count=count, offset=begin) if count
                  else torch.empty(0, dtype=dtype))  # fmt: skip
        tensors.append(values.view(one["shape"]))
        begin += count * dtype.itemsize
    return tensors


class Answers(AnsweringProgram):
    """For the catalog."""

    PROGRAM = "architecture_answers"

    def ask(self, state, inputs: list, architecture="", parameters=None, **also):
        """What the program says (its JSON), and the outputs. `state`: a state_dict, or the path of
        a file with weights; `also`: what else the job says."""
        import safetensors.torch

        weights, asked, answered = (
            self.folder / name
            for name in ("weights.pth", "inputs.safetensors", "outputs")
        )
        try:
            if isinstance(state, dict):
                torch.save(state, weights)
            named = {f"input{i}": tensor.contiguous() for i, tensor in enumerate(inputs)}
            safetensors.torch.save_file(named, asked)
            job = {"weights": str(weights if isinstance(state, dict) else state),
                   "inputs": str(asked), "outputs": str(answered), **also}  # fmt: skip
            if architecture:
                job |= {"architecture": architecture, "parameters": parameters or {}}
            answer = self.job(**job)
            if "error" in answer:
                return answer, []
            return answer, read_tensors(answered, answer["outputs"])
        finally:
            for path in (weights, asked, answered):
                path.unlink(missing_ok=True)

    def compare(self, case: Case, seed: int = 1) -> Row:
        torch.set_num_threads(self.threads)
        start = time.monotonic()
        row = Row(case.name)
        with SkippedInitialisation():
            module = case.make().eval()
        randomise(module, seed)
        inputs = case.inputs(torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            expected = as_tensors(case.call(module, inputs))
        state = case.saved(module.state_dict())
        answer, seen = self.ask(state, inputs, case.architecture, case.parameters)
        row.seconds = time.monotonic() - start
        if "error" in answer:
            row.error = answer["error"]
            return row
        row.family, row.found = answer["family"], answer["name"]
        row.detected, row.parameter_count = answer["detected"], answer["parameter_count"]
        row.detect_seconds = answer["detect_seconds"]
        row.deviation = deviation(expected, seen)
        row.equal = len(expected) == len(seen) and all(map(torch.equal, expected, seen))
        row.meaningful = all(
            bool(output.isfinite().all()) and bool((output[0] - output[1]).abs().max() > 0)
            and float(output.std()) > 1e-6
            for output in expected
        )  # fmt: skip
        return row
