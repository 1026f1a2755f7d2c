#!/usr/bin/env python3
"""From a model in Python to a folder that Sconce serves.

    scripts/export.py torchvision.models:resnet18 --weights resnet18.pth \\
        --input 'FP32[1,3,224,224]' -o models/resnet18

writes program.pt2 (what is computed, by torch.export), model.safetensors (the weights, which may be
replaced while the server runs) and golden/sample.safetensors (the sample inputs with their outputs,
which the server's answers are held against when it loads the model). Wants PyTorch 2.8 or later in
the Python that runs it, and safetensors.
"""

import argparse
import importlib
import pathlib
import re
import sys

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

DTYPES = {
    "BOOL": torch.bool, "UINT8": torch.uint8, "INT8": torch.int8, "INT16": torch.int16,
    "INT32": torch.int32, "INT64": torch.int64, "FP16": torch.float16, "BF16": torch.bfloat16,
    "FP32": torch.float32, "FP64": torch.float64,
}  # fmt: skip


class Refused(Exception):
    """What is wrong, for the one who called."""


def sample(text: str) -> torch.Tensor:
    """FP32[1,3,224,224]: normally distributed numbers; zeros for integers, which may be ids."""
    match = re.fullmatch(r"(\w+)\[([\d, ]*)\]", text)
    if match is None or match[1] not in DTYPES:
        raise Refused(f"--input: expected e.g. 'FP32[1,3,224,224]', with one of "
                      f"{', '.join(DTYPES)}, got '{text}'")  # fmt: skip
    shape = [int(size) for size in match[2].split(",") if size.strip()]
    dtype = DTYPES[match[1]]
    if dtype.is_floating_point:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return torch.zeros(shape, dtype=dtype)


def load_model(path: str) -> tuple:
    """The module, and the sample inputs that the callable or the module names."""
    name, _, attribute = path.partition(":")
    if not attribute:
        raise Refused(f"expected MODULE:CALLABLE, got '{path}'")
    sys.path.insert(0, "")
    made = importlib.import_module(name)
    for part in attribute.split("."):
        made = getattr(made, part)
    model = made if isinstance(made, torch.nn.Module) else made()
    if not isinstance(model, torch.nn.Module):
        raise Refused(f"{path}: expected a torch.nn.Module, got {type(model).__name__}")
    samples = getattr(made, "example_inputs", getattr(model, "example_inputs", None))
    return model.eval(), samples() if callable(samples) else samples


def load_weights(model: torch.nn.Module, path: pathlib.Path) -> None:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in ("state_dict", "model_state_dict", "model"):
            if isinstance(state.get(wrapper), dict):
                state = state[wrapper]
    model.load_state_dict(state)


def two_rows(value: torch.Tensor) -> torch.Tensor:
    """A batch of one would be taken for a size that never differs."""
    return value.repeat(2, *[1] * (value.dim() - 1)) if value.shape[0] == 1 else value


def export(model, inputs: tuple, dynamic: bool):
    """The exported program, and the inputs it was exported with."""
    rows = {value.shape[0] if value.dim() else None for value in inputs}
    if dynamic and len(rows) == 1 and None not in rows:
        batch = Dim("batch", min=1)
        doubled = tuple(two_rows(value) for value in inputs)
        try:
            return torch.export.export(model, doubled, dynamic_shapes=tuple({0: batch} for _ in doubled))
        except Exception as error:  # whatever export says, it may work with fixed sizes
            reason = str(error).strip().splitlines()[0]
            print(f"a batch of any size cannot be exported: {reason}", file=sys.stderr)
            print(f"exporting for {rows.pop()} rows at a time", file=sys.stderr)
    return torch.export.export(model, inputs)


def input_names(program) -> list:
    """As the server's reader names them: forward()'s arguments, or the graph's inputs."""
    users = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    named = program.module_call_graph[0].signature.forward_arg_names
    return list(named) if named and len(named) == len(users) else users


def key_of(step) -> str:
    for field in ("key", "name", "idx"):
        if hasattr(step, field):
            return str(getattr(step, field))
    raise Refused(f"outputs: expected tuples and dictionaries, got {step}")


def named_outputs(outputs) -> dict:
    """As the server's reader names them: see server/program/pt2_tree.h."""
    leaves, _ = pytree.tree_flatten_with_path(outputs)
    names = []
    for path, _ in leaves:
        keyed = any(not hasattr(step, "idx") for step in path)
        names.append("_".join([*([] if keyed else ["output"]), *map(key_of, path)]))
    if len(set(names)) < len(names):
        names = [f"output_{i}" for i in range(len(names))]
    tensors = {name: value for name, (_, value) in zip(names, leaves) if value is not None}
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise Refused(f"output '{name}': expected a tensor, got {type(value).__name__}")
    return tensors


def plain(tensors: dict) -> dict:
    """Safetensors wants memory of its own for each tensor."""
    return {name: value.detach().clone().contiguous() for name, value in tensors.items()}


def save(tensors: dict, path: pathlib.Path) -> None:
    from safetensors.torch import save_file

    save_file(plain(tensors), path)
    path.chmod(0o644)  # the server may be another user


def run(arguments) -> None:
    torch.manual_seed(0)
    model, samples = load_model(arguments.model)
    if arguments.weights:
        load_weights(model, arguments.weights)
    if arguments.input:
        samples = tuple(map(sample, arguments.input))
    if isinstance(samples, torch.Tensor):
        samples = (samples,)
    if not samples or not all(isinstance(value, torch.Tensor) for value in samples):
        raise Refused("expected sample inputs: give --input for each, or let the callable have an "
                      "attribute example_inputs, a tuple of tensors")  # fmt: skip
    samples = tuple(samples)
    program = export(model, samples, not arguments.static)
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, arguments.out / "program.pt2")
    state = model.state_dict()
    if state:  # else there is nothing to replace
        save(state, arguments.out / "model.safetensors")
    with torch.inference_mode():
        outputs = model(*[value.clone() for value in samples])
    (arguments.out / "golden").mkdir(exist_ok=True)
    inputs = dict(zip(input_names(program), samples, strict=True))
    golden = {**inputs, **named_outputs(outputs)}
    save(golden, arguments.out / "golden" / "sample.safetensors")
    written = ["program.pt2", *["model.safetensors"] * bool(state), "golden/sample.safetensors"]
    print(f"{arguments.out}: {', '.join(written)}")
    print("weights that are trained further answer otherwise: replace or remove golden/ with them")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/export.py",
                                     description="From a model in Python to a folder that Sconce serves.")  # fmt: skip
    parser.add_argument("model", metavar="MODULE:CALLABLE",
                        help="what makes the module, without arguments; or the module itself")  # fmt: skip
    parser.add_argument("-o", "--out", type=pathlib.Path, required=True, metavar="DIR",
                        help="the folder that is written")  # fmt: skip
    parser.add_argument("--weights", type=pathlib.Path, metavar="FILE",
                        help="a state_dict: .safetensors, or what torch.save wrote")  # fmt: skip
    parser.add_argument("--input", action="append", metavar="'FP32[1,3,224,224]'",
                        help="type and shape of a sample input, in forward()'s order; else the "
                        "callable's attribute example_inputs")  # fmt: skip
    parser.add_argument("--static", action="store_true",
                        help="sizes as the samples have them; otherwise a batch of any size, where "
                        "the module can be exported so")  # fmt: skip
    try:
        run(parser.parse_args())
    except Refused as refused:
        print(f"export.py: {refused}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
