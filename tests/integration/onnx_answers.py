"""Holds the answers of ONNX models against Python's own, and reads them as weights.

compare() gives a network of the catalog's tests (architecture_answers.Case) random weights and
writes it with both of PyTorch's exporters in two ways each (WAYS). Each file is run as a program by
program_answers, whose answers may differ by rounding, and taken as weights by
architecture_answers, whose answers may not differ at all. onnx_table.py goes by it.
"""

import contextlib
import dataclasses
import inspect
import io
import json
import logging
import pathlib
import shutil
import time
import warnings

import onnx
import torch
from architecture_answers import (
    Answers,
    Case,
    SkippedInitialisation,
    randomise,
)
from program_answers import ProgramAnswers, tensors_of
from torch import nn

# How a file is written, by the name that the table has for it.
WAYS = {
    "new": "`torch.onnx.export(dynamo=True)`",
    "new, plain": "the same with `optimize=False`",
    "older": "`torch.onnx.export(dynamo=False)`",
    "older, plain": "the same with `do_constant_folding=False` and "
                    "`training=TrainingMode.PRESERVE`",
}  # fmt: skip

# Rounding of another order of sums: what the differences may be, as a part of the largest answer.
TOLERANCE = 2e-5


@dataclasses.dataclass
class File:
    """What came of a network written in one way."""

    failed: str = ""  # why it could not be written
    error: str = ""
    operators: frozenset = frozenset()
    nodes: int = 0
    fixed: bool = False  # the exporter wrote the number of rows down
    # The largest difference, as a part of the largest output.
    difference: float = 0.0
    weights: str = ""  # "" where the catalog takes it as weights, and answers alike


@dataclasses.dataclass
class OnnxRow:
    name: str
    files: dict
    # The largest difference between the module's own answers in float32 and in float64, in the same
    # way; only asked where the others are more than TOLERANCE.
    rounding: float = 0.0
    seconds: float = 0.0


class Called(nn.Module):
    """A text encoder as its case calls it. Its state_dict's names begin with "model."."""

    def __init__(self, module, call):
        super().__init__()
        self.model = module
        self.call = call

    def forward(self, input_ids, attention_mask):
        return self.call(self.model, [input_ids, attention_mask])


class CalledWithTypes(Called):
    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.call(self.model, [input_ids, attention_mask, token_type_ids])


def as_called(case: Case, module, inputs):
    if inputs[0].is_floating_point():
        return module
    return (CalledWithTypes if len(inputs) == 3 else Called)(module, case.call)


def dynamic_of(names, inputs):
    """Names of the sizes that may differ: the batch, and a text's length."""
    sizes = {0: "batch"} if inputs[0].is_floating_point() else {0: "batch", 1: "length"}
    return {name: sizes for name in names}


def others_of(inputs):
    """Inputs of another size: a row more, and a shorter text."""
    more = [torch.cat([value.flip(0), value[:1]]) for value in inputs]
    return more if inputs[0].is_floating_point() else [value[:, :-1] for value in more]


@contextlib.contextmanager
def quiet():
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def relative(expected, seen):
    """The largest difference, as a part of the largest value."""
    scale = max(1e-3, float(expected.abs().max()))
    return float((expected.double() - seen.double()).abs().max()) / scale


def first_line(error):
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


def write_new(module, inputs, names, folder):
    sizes = {axis: torch.export.Dim(name) if name == "batch" else torch.export.Dim(name, min=2)
             for axis, name in dynamic_of(names, inputs)[names[0]].items()}  # fmt: skip
    program = torch.onnx.export(
        module, tuple(inputs), dynamo=True, optimize=False, verbose=False,
        dynamic_shapes={name: sizes for name in names},
    )  # fmt: skip
    program.save(folder / "new, plain.onnx")
    program.optimize()
    program.save(folder / "new.onnx")


def write_older(module, inputs, names, folder):
    plain = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
    for way, settings in {"older": {}, "older, plain": plain}.items():
        torch.onnx.export(
            module, tuple(inputs), folder / f"{way}.onnx", dynamo=False, input_names=names,
            dynamic_axes=dynamic_of(names, inputs), **settings,
        )  # fmt: skip


def write(module, inputs, names, folder) -> dict:
    """Writes a file for each way into `folder`, where they are not there yet; returns why one could
    not be written."""
    failures = folder / "failures.json"
    if failures.exists():
        return json.loads(failures.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    failed = {}
    # Under no_grad the older exporter meets attention as one operator, which it has not.
    with quiet():
        for exporter, export in {"new": write_new, "older": write_older}.items():
            try:
                export(module, inputs, names, folder)
            except Exception as error:  # what the exporter says is what is reported
                failed |= {way: first_line(error) for way in WAYS if way.startswith(exporter)}
    failures.write_text(json.dumps(failed))
    return failed


class OnnxAnswers:
    def __init__(self, threads: int = 1):
        self.programs, self.catalog = ProgramAnswers(threads), Answers(threads)
        self.threads = threads

    def __enter__(self):
        self.programs.__enter__()
        self.catalog.__enter__()
        return self

    def __exit__(self, *failure):
        self.programs.__exit__(*failure)
        self.catalog.__exit__(*failure)

    def compare(self, case: Case, files: pathlib.Path | None = None, seed: int = 1) -> OnnxRow:
        """`files`: where models are kept, and taken from where they are there."""
        torch.set_num_threads(self.threads)
        start = time.monotonic()
        with SkippedInitialisation():
            module = case.make().eval()
        randomise(module, seed)
        inputs = case.inputs(torch.Generator().manual_seed(seed))
        called = as_called(case, module, inputs).eval()
        names = list(inspect.signature(called.forward).parameters)
        asked = [inputs, others_of(inputs)]
        with torch.inference_mode():
            expected = [tensors_of(case.call(module, one)) for one in asked]
        folder = (files or self.programs.folder) / case.name.replace(": ", ", ")
        failed = write(called, inputs, names, folder)
        row = OnnxRow(case.name, {way: File(failed=failed.get(way, "")) for way in WAYS})
        for way, file in row.files.items():
            if not file.failed:
                self.run(file, folder / f"{way}.onnx", names, asked, expected)
                self.take(file, folder / f"{way}.onnx", case, inputs, expected[0])
        if any(file.difference > TOLERANCE for file in row.files.values()):
            row.rounding = self.rounding(module.double(), case.call, asked, expected)
        if files is None:
            shutil.rmtree(folder)
        row.seconds = time.monotonic() - start
        return row

    def rounding(self, module, call, asked, expected):
        largest = 0.0
        for inputs, outputs in zip(asked, expected):
            inputs = [v.double() if v.is_floating_point() else v for v in inputs]
            with torch.inference_mode():
                exact = tensors_of(call(module, inputs))
            largest = max([largest, *map(relative, outputs, exact)])
        return largest

    def run(self, file: File, path, names, asked, expected):
        model = onnx.load(path)
        file.nodes = len(model.graph.node)
        file.operators = frozenset(node.op_type for node in model.graph.node)
        for index, (inputs, outputs) in enumerate(zip(asked, expected)):
            answer, seen = self.programs.ask(path, dict(zip(names, inputs)))
            if "error" in answer:
                if index == 0:
                    file.error = answer["error"]
                else:
                    file.fixed = True
                return
            seen = list(seen.values())
            if [value.shape for value in seen] != [value.shape for value in outputs]:
                file.error = "other outputs"
                return
            for one, other in zip(outputs, seen):
                file.difference = max(file.difference, relative(one, other))

    def take(self, file: File, path, case: Case, inputs, expected):
        """As weights of the catalog's network, which the configuration names."""
        name = case.architecture or case.detected or case.name
        answer, seen = self.catalog.ask(path, inputs, name, case.parameters)
        if "error" in answer:
            file.weights = answer["error"]
        elif not (len(seen) == len(expected) and all(map(torch.equal, expected, seen))):
            file.weights = "answers differ"
