"""Writes ONNX models with both of PyTorch's exporters, and what the modules give.

    python3 write_onnx_fixtures.py DIRECTORY

Small networks, and graphs made by hand; scripts/programs --onnx has the catalog's networks.

  NAME.onnx             the model; "_old" at the end of NAME where the older exporter wrote it
  NAME.io.safetensors   "input.x" and the module's "output.y": evaluation mode, one thread
  cases.json            the names, and the largest absolute value of each output
  refused.json          models that are refused, the status and a part of the reason
  short/                every operator with fewer inputs than it takes, and without its attributes
"""

import json
import logging
import pathlib
import sys
import warnings

import onnx
import safetensors.torch
import torch
import torchvision.models as tv
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidualConfig

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
torch.set_num_threads(1)
DIRECTORY = pathlib.Path(sys.argv[1])


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(6, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Attention(nn.Module):
    """Layer norm, attention by hand with a mask from the sizes, and an embedding's reshaping."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * 0.5
        mask = torch.ones(n, n).tril().bool()
        scores = scores.masked_fill(~mask, -1e4).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(b, n, c)).mean(1)


class Mixture(nn.Module):
    """Operators that the others do not use."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.norm = nn.InstanceNorm2d(4, affine=True)
        self.act = nn.PReLU()

    def forward(self, x):
        x = nn.functional.pad(x, (1, 2, 0, 1))
        x = nn.functional.interpolate(self.up(x), scale_factor=2, mode="bilinear")
        a, b = self.norm(x).chunk(2, dim=1)
        y = torch.cat([a.clamp(-1, 1), nn.functional.leaky_relu(b), torch.tanh(a) / 2], dim=1)
        return nn.functional.avg_pool2d(torch.where(y > 0, y, y.exp() - 1), 3, 2, 1).flatten(1)


SMALL = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(20, 30), nn.GELU(), nn.Linear(30, 7), nn.Softmax(-1)),
        (3, 20),
    ),
    "resnet": (
        lambda: tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5),
        (2, 3, 64, 64),
    ),
    "mobilenet": (
        lambda: tv.MobileNetV3(
            [InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1),
             InvertedResidualConfig(16, 5, 48, 24, True, "HS", 2, 1, 1),
             InvertedResidualConfig(24, 5, 72, 24, False, "HS", 1, 1, 1)],
            last_channel=64, num_classes=5,
        ),
        (2, 3, 64, 64),
    ),
    "shufflenet": (
        lambda: tv.ShuffleNetV2([1, 2, 1], [24, 48, 96, 192, 64], num_classes=5),
        (2, 3, 64, 64),
    ),
    "vit": (
        lambda: tv.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
            num_classes=5,
        ),
        (2, 3, 32, 32),
    ),
    "swin": (
        lambda: tv.SwinTransformer(
            patch_size=[4, 4], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4],
            num_classes=5,
        ),
        (2, 3, 64, 64),
    ),
    "lstm": (lambda: Recurrent(nn.LSTM), (3, 7, 6)),
    "gru": (lambda: Recurrent(nn.GRU), (3, 7, 6)),
    "attention": (Attention, (2, 9, 16)),
    "mixture": (Mixture, (2, 4, 9, 9)),
}


def fresh(make, seed):
    torch.manual_seed(seed)
    module = make().eval()
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return module


def write(name, make, shape, cases, failures):
    module = fresh(make, 1)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        y = module(x)
    if not isinstance(y, torch.Tensor):
        y = y[0]
    for dynamo in (True, False):
        case = name if dynamo else f"{name}_old"
        path = DIRECTORY / f"{case}.onnx"
        try:
            how = {"input_names": ["x"], "output_names": ["y"]}
            if dynamo:
                batch = torch.export.Dim("batch", min=1)
                how.update(dynamic_shapes=({0: batch},), external_data=False, verbose=False)
            else:
                how.update(dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
            torch.onnx.export(module, (x,), path, dynamo=dynamo, **how)
        except Exception as error:  # whatever the exporter could not do
            failures[case] = str(error).splitlines()[0]
            continue
        io = {"input.x": x, "output.y": y.clone()}
        safetensors.torch.save_file(io, DIRECTORY / f"{case}.io.safetensors")
        cases[case] = max(1e-3, float(y.abs().max()))
    return module, x


# Each a graph of its own: what stands between "x" and "y", and the constants that it names.
LOWEST = torch.iinfo(torch.int64).min
OPERATORS = {
    "slice_turned_round": (
        [("Slice", ["x", "from", "to", "axes", "step"], "y", {})],
        {"from": [-1], "to": [LOWEST], "axes": [1], "step": [-1]},
    ),
    "slice_back_by_two": (
        [("Slice", ["x", "from", "to", "axes", "steps"], "y", {})],
        {"from": [5, -2, 100], "to": [0, -100, 1], "axes": [1, 2, 0], "steps": [-2, -3, -1]},
    ),
    "slice_back_without_end": (
        [("Slice", ["x", "from", "to", "axes", "step"], "y", {})],
        {"from": [1], "to": [5], "axes": [2], "step": [-1]},
    ),
    "shape_turned_round": (
        [("Shape", ["x"], "shape", {}),
         ("Slice", ["shape", "from", "to", "axes", "step"], "turned", {}),
         ("Reshape", ["x", "turned"], "y", {})],
        {"from": [-1], "to": [LOWEST], "axes": [0], "step": [-1]},
    ),
    "every_second_size_from_behind": (
        [("Shape", ["x"], "shape", {}),
         ("Slice", ["shape", "from", "to", "axes", "step"], "some", {}),
         ("ConstantOfShape", ["some"], "y", {})],
        {"from": [2], "to": [-9], "axes": [0], "step": [-2]},
    ),
    # As the older exporter pads by what it calculates: the matrix of pads is turned round.
    "pads_of_sizes": (
        [("Shape", ["x"], "shape", {}),
         ("Slice", ["shape", "from", "to", "axes"], "rows", {}),
         ("Concat", ["nothing", "rows"], "one", {"axis": 0}),
         ("ConstantOfShape", ["four"], "others",
          {"value": helper.make_tensor("none", TensorProto.INT64, [1], [0])}),
         ("Concat", ["one", "others"], "pads", {"axis": 0}),
         ("Reshape", ["pads", "pairs"], "matrix", {}),
         ("Slice", ["matrix", "behind", "lowest", "axes", "back"], "turned", {}),
         ("Transpose", ["turned"], "columns", {"perm": [1, 0]}),
         ("Reshape", ["columns", "list"], "all", {}),
         ("Pad", ["x", "all", "value"], "y", {"mode": "constant"})],
        {"from": [0], "to": [1], "axes": [0], "nothing": [1], "four": [4], "pairs": [-1, 2],
         "behind": [-1], "lowest": [LOWEST], "back": [-1], "list": [-1],
         "value": 0.5},
    ),
    "gather_from_the_end": (
        [("Gather", ["x", "places"], "y", {"axis": 1})],
        {"places": [-1, 0, -3]},
    ),
    "gather_calculated_from_the_end": (
        [("ArgMax", ["x"], "most", {"axis": 2, "keepdims": 0}),
         ("Sub", ["most", "two"], "places", {}),
         ("Gather", ["x", "places"], "y", {"axis": 2})],
        {"two": [2]},
    ),
    # As the newer exporter fills what a mask leaves out: how many that are depends on data.
    "filled_where_masked": (
        [("Greater", ["x", "value"], "mask", {}),
         ("NonZero", ["mask"], "columns", {}),
         ("Transpose", ["columns"], "places", {"perm": [1, 0]}),
         ("Reshape", ["mask", "list"], "flat", {}),
         ("Cast", ["flat"], "ones", {"to": TensorProto.INT64}),
         ("ReduceSum", ["ones"], "count", {"keepdims": 1}),
         ("Expand", ["value", "count"], "values", {}),
         ("ScatterND", ["x", "places", "values"], "y", {})],
        {"value": 0.5, "list": [-1]},
    ),
    "gather_by_rows_of_places": (
        [("Unsqueeze", ["places", "last"], "rows", {}),
         ("GatherND", ["x", "rows"], "y", {})],
        {"places": [2, 0, -1, 1], "last": [-1]},
    ),
    "part_of_a_sequence": (
        [("Squeeze", ["size"], "three", {}),
         ("Squeeze", ["second"], "one", {}),
         ("SplitToSequence", ["x", "three"], "parts", {"axis": 1}),
         ("SequenceAt", ["parts", "one"], "y", {})],
        {"size": [3], "second": [1]},
    ),
    "list_of_sizes_expanded": (
        [("Shape", ["weights"], "size", {}),
         ("Expand", ["size", "two"], "sizes", {}),
         ("ConstantOfShape", ["sizes"], "zeros", {}),
         ("Shape", ["zeros"], "some", {}),
         ("Concat", ["some", "rest"], "whole", {"axis": 0}),
         ("Expand", ["value", "whole"], "y", {})],
        {"weights": [7, 8, 9], "two": [2], "rest": [1], "value": 0.5},
    ),
}  # fmt: skip


def write_operators(cases):
    """Against ONNX's own evaluator."""
    x = torch.rand(3, 7, 4, generator=torch.Generator().manual_seed(7))
    for name, (nodes, constants) in OPERATORS.items():
        made = [helper.make_node(op, i, [o], name=f"{op}_{o}", **attributes)
                for op, i, o, attributes in nodes]  # fmt: skip
        graph = helper.make_graph(
            made, name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 7, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [helper.make_tensor(k, TensorProto.INT64, [len(v)], v) if isinstance(v, list)
             else helper.make_tensor(k, TensorProto.FLOAT, [], [v]) for k, v in constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        onnx.save(model, DIRECTORY / f"{name}.onnx")
        y = torch.from_numpy(ReferenceEvaluator(model).run(None, {"x": x.numpy()})[0].copy())
        safetensors.torch.save_file({"input.x": x, "output.y": y.contiguous()},
                                    DIRECTORY / f"{name}.io.safetensors")  # fmt: skip
        cases[name] = 1.0


def tiny(node, inputs=(("x", TensorProto.FLOAT, ["batch", 4]),), opset=20, domain=""):
    """A model of one operator."""
    values = [helper.make_tensor_value_info(*i) for i in inputs]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    graph = helper.make_graph([node], "tiny", values, [y], [weight])
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=imports)


def gathered(kind, *nodes):
    """A model that looks up rows of a table of 5."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [5, 2], [float(i) for i in range(10)])
    graph = helper.make_graph(
        nodes, "lookup", [helper.make_tensor_value_info("x", kind, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 2])],
        [table, helper.make_tensor("far", TensorProto.INT64, [1], [5])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def write_refused():
    refused = {}

    def add(name, model, code, why):
        onnx.save(model, DIRECTORY / name)
        refused[name] = [code, why]

    node = helper.make_node
    add("operator.onnx", tiny(node("Hardmax", ["x"], ["y"], name="n7")), "UNIMPLEMENTED",
        "node 'n7' (Hardmax): the operator is not supported")
    add("opset.onnx", tiny(node("Relu", ["x"], ["y"]), opset=9), "UNIMPLEMENTED", "opset 9")
    add("domain.onnx", tiny(node("Relu", ["x"], ["y"], domain="com.own"), domain="com.own"),
        "UNIMPLEMENTED", "domain 'com.own'")
    add("undefined.onnx", tiny(node("Add", ["x", "nowhere"], ["y"])), "INVALID_ARGUMENT",
        "got 'nowhere'")
    add("axis.onnx", tiny(node("Softmax", ["x"], ["y"], axis=5)), "INVALID_ARGUMENT",
        "expected an axis of 2 dimensions, got 5")
    add("mode.onnx", tiny(node("Pad", ["x", "p"], ["y"], mode="wrap"),
                          inputs=(("x", TensorProto.FLOAT, ["batch", 4]),
                                  ("p", TensorProto.INT64, [4]))),
        "UNIMPLEMENTED", "input 1 'p' that is neither constant nor calculated from sizes")
    branch = helper.make_graph(
        [node("Relu", ["x"], ["z"])], "branch", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
    add("branch.onnx", tiny(node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
                            inputs=(("x", TensorProto.FLOAT, ["batch", 4]),
                                    ("c", TensorProto.BOOL, []))),
        "UNIMPLEMENTED", "control flow is not supported")
    add("places.onnx", gathered(TensorProto.INT64, node("Gather", ["table", "far"], ["y"])),
        "INVALID_ARGUMENT", "expected places in a dimension of 5, got one beyond")
    (DIRECTORY / "refused.json").write_text(json.dumps(refused))
    lookup = node("Gather", ["table", "x"], ["y"])
    onnx.save(gathered(TensorProto.INT64, lookup), DIRECTORY / "lookup.onnx")
    cast = node("Cast", ["x"], ["ids"], to=TensorProto.INT64)
    onnx.save(gathered(TensorProto.INT32, cast, node("Gather", ["table", "ids"], ["y"])),
              DIRECTORY / "lookup_cast.onnx")  # fmt: skip
    onnx.save(tiny(node("Add", ["x", "w"], ["y"], name="sum")), DIRECTORY / "tiny.onnx")


def write_short():
    (DIRECTORY / "short").mkdir(exist_ok=True)
    for schema in onnx.defs.get_all_schemas():
        for count in range(min(schema.max_input, 4)):
            node = helper.make_node(schema.name, ["x", "w", "w", "w"][:count], ["y"], name="n")
            onnx.save(tiny(node), DIRECTORY / "short" / f"{schema.name}_{count}.onnx")


def main():
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    cases, failures = {}, {}
    for name, (make, shape) in SMALL.items():
        module, x = write(name, make, shape, cases, failures)
        if name == "mlp":
            new = fresh(make, 2)
            torch.save(new.state_dict(), DIRECTORY / "mlp.pth")
            with torch.inference_mode():
                io = {"output.y": new(x).clone()}
            safetensors.torch.save_file(io, DIRECTORY / "mlp.new.safetensors")
    write_operators(cases)
    write_refused()
    write_short()
    (DIRECTORY / "cases.json").write_text(json.dumps(cases))
    for name, why in failures.items():
        print(f"{name}: the exporter failed: {why}")


main()
