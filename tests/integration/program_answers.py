"""Holds the answers of exported programs against Python's own, bit for bit, and against those of
PyTorch's own runner (nativert).

A case says how to make a module in Python, what to export it with and what to ask it (ProgramCase).
compare() gives it random weights, exports it, has the program program_answers (tests/torch) open,
load and run it, and compares. The cases stand in program_cases.py; test_exported_programs.py and
scripts/programs go by them.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable

import safetensors.torch
import torch
from architecture_answers import (
    AnsweringProgram,
    SkippedInitialisation,
    randomise,
    read_tensors,
)
from torch import nn


@dataclasses.dataclass
class ProgramCase:
    name: str
    make: Callable[[], nn.Module]
    # From a torch.Generator and a number of rows: the arguments of forward().
    inputs: Callable[[torch.Generator, int], list]
    # As torch.export takes it: by the arguments' names.
    dynamic: dict | None = None
    # The numbers of rows asked about; the first is the one the program is exported with.
    rows: tuple = (2, 1, 3)
    # Words of the error with which the program is refused; then nothing is compared.
    refused: str = ""
    # Whether nativert is expected to answer alike.
    nativert: bool = True
    # Where the program calculates otherwise than the module in eager mode: why, and how far off
    # (absolute) it may be.
    otherwise: str = ""
    tolerance: float = 0.0


@dataclasses.dataclass
class ProgramRow:
    name: str
    exported: str = ""  # why it could not be exported
    error: str = ""
    nodes: int = 0
    batched: bool = False
    equal: bool = False
    deviation: float = math.inf
    nativert: str = ""
    seconds: float = 0.0


def tensors_of(outputs) -> list:
    leaves, _ = torch.utils._pytree.tree_flatten(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


class ProgramAnswers(AnsweringProgram):
    """For exported programs."""

    PROGRAM = "program_answers"

    def ask(self, program, inputs: dict, weights=None, nativert=False):
        """What the program says (its JSON), and the outputs by name. `inputs`: by name."""
        asked, answered = self.folder / "inputs.safetensors", self.folder / "outputs"
        safetensors.torch.save_file({k: v.contiguous() for k, v in inputs.items()}, asked)
        job = {"program": str(program), "inputs": str(asked), "outputs": str(answered)}
        if weights is not None:
            job["weights"] = str(weights)
        if nativert:
            job["nativert"] = True
        answer = self.job(**job)
        if "error" in answer:
            return answer, {}
        names = [output["name"] for output in answer["outputs"]]
        return answer, dict(zip(names, read_tensors(answered, answer["outputs"])))

    def compare(self, case: ProgramCase, seed: int = 1) -> ProgramRow:
        torch.set_num_threads(self.threads)
        start = time.monotonic()
        row = ProgramRow(case.name)
        with SkippedInitialisation():
            module = case.make().eval()
        # PyTorch's GRU and RNN multiply otherwise where weights want a gradient, also when no
        # gradient is taken: a difference in the last bits.
        module.requires_grad_(False)
        randomise(module, seed)
        generator = torch.Generator().manual_seed(seed)
        path = self.folder / "program.pt2"
        try:
            exported = torch.export.export(
                module, tuple(case.inputs(generator, case.rows[0])),
                dynamic_shapes=case.dynamic,
            )  # fmt: skip
            torch.export.save(exported, path)
        except Exception as error:  # what export says is what is reported
            row.exported = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            return row
        row.nodes = sum(node.op == "call_function" for node in exported.graph.nodes)
        row.equal, row.deviation = True, 0.0
        for rows in case.rows:
            inputs = case.inputs(generator, rows)
            # A copy: what the module writes to is not what the program is given.
            with torch.inference_mode():
                expected = tensors_of(module(*[value.clone() for value in inputs]))
            names = self.input_names(path)
            if isinstance(names, dict):
                row.error = names["error"]
                break
            answer, seen = self.ask(path, dict(zip(names, inputs)),
                                    nativert=rows == case.rows[0])  # fmt: skip
            if "error" in answer:
                row.error = answer["error"]
                break
            row.batched = answer["batched"]
            row.nativert = row.nativert or answer.get("nativert", "")
            seen = list(seen.values())
            row.equal &= len(seen) == len(expected) and all(
                a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(expected, seen)
            )
            for a, b in zip(expected, seen):
                if a.shape == b.shape and a.numel():
                    row.deviation = max(row.deviation, float((a.double() - b.double()).abs().max()))
            assert all(torch.isfinite(value).all() for value in expected), case.name
        row.equal &= not row.error
        row.seconds = time.monotonic() - start
        return row

    def input_names(self, path):
        answer = self.job(program=str(path))
        return answer if "error" in answer else [spec["name"] for spec in answer["inputs"]]
